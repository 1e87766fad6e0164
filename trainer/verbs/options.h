/* options.h: the command line as a struct. One table of options, each with the verbs that know
 * it, gives parsing, `--help`, completion and the nearest name of a misspelt one. */
#ifndef NIBBLE_TRAINER_VERBS_OPTIONS_H
#define NIBBLE_TRAINER_VERBS_OPTIONS_H

#include "autograd/backend.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NIBBLE_VERSION "0.1.0"

typedef enum verb {
    VERB_TRAIN,
    VERB_PLAN,
    VERB_CHECK,
    VERB_EVAL,
    VERB_GENERATE,
    VERB_EXPORT,
    VERB_QUANTIZE,
    VERB_INSPECT,
    VERB_TOKENIZE,
    VERB_GET,
    VERB_BENCH,
    VERB_COUNT
} verb;

/* What is asked instead of a verb's work; help_text makes the answer. */
typedef enum command_action {
    ACTION_RUN,
    ACTION_HELP,
    ACTION_VERSION,
    ACTION_KEYS,
    ACTION_COMPLETION
} command_action;

typedef enum command_format { FORMAT_TEXT, FORMAT_JSON } command_format;
/* What an option holds that may be given again and again. */
typedef struct command_words {
    const char **items; /* an owned array of borrowed strings */
    int count;
} command_words;
typedef enum command_base { EXPORT_ORIGINAL, EXPORT_DEQUANTIZED } command_base;
typedef enum command_kind { EXPORT_MERGED, EXPORT_MERGED_4BIT, EXPORT_ADAPTER } command_kind;

/* Strings point into argv. Not given: NULL, -1 for numbers where that is said, else the
 * default. */
typedef struct command {
    verb verb;
    command_action action;
    bool verb_named;        /* the verb stood on the command line */
    const char *completion; /* the shell */
    const char *config_path;
    char **overrides; /* key=value, in order; owned array, borrowed strings */
    int override_count;
    bool resume, overwrite;
    bool profile; /* train: time per operation in the summary */
    device_choice device;
    const char *card; /* plan: a card that need not be here (autograd/card.h) */
    command_format format;
    int64_t threads; /* 0: as many as there are cores */
    bool quiet;
    int64_t show;            /* check: examples to print */
    const char *model;       /* a folder, or org/name of the Hugging Face cache */
    const char *adapter;     /* a folder */
    const char *data;        /* eval: rows; bench: text */
    const char *logprobs;    /* eval: file to write */
    const char *prompt;      /* generate; NULL: lines of stdin */
    bool raw;                /* generate: the prompt as it stands, without a chat template */
    int64_t max_new_tokens;  /* -1: the configuration's, or 128 */
    double temperature;      /* 0: greedy (the default) */
    int64_t top_k;           /* 0: all */
    double top_p;            /* 1: all */
    int64_t seed;            /* -1: the configuration's, or 42 */
    command_base base;       /* export: on which base to merge */
    command_kind kind;       /* export: what to write */
    int64_t shard_size;      /* export: bytes of one file, at most */
    const char *out;         /* export: a folder; quantize, bench: a file */
    bool no_special, decode; /* tokenize */
    bool chat, text, add_generation_prompt; /* tokenize: conversations, to text; a prompt */
    const char *template, *bos, *eos;       /* tokenize --chat: instead of the model's */
    bool program;                           /* inspect: print the recorded programs */
    const char *path;                       /* inspect: a file or folder; get: org/name */
    bool dataset;                           /* get: path is a dataset, not a model */
    const char *revision;                   /* get: branch, tag or commit; NULL: main */
    command_words include;                  /* get: patterns of the files to fetch */
    bool list;                              /* get: say what there is, fetch nothing */
    bool quick;                             /* bench: tiny sizes */
    bool measure;                           /* plan: products on the card, into a table */
    bool synthetic; /* plan, bench: a random base of base_model's shape */
} command;

/* Reads the command line. Errors are STATUS_USAGE with one line. */
status options_parse(int argc, char **argv, command *out);
void options_free(command *c);

/* For help.c: the tables. */
typedef enum option_kind {
    OPTION_FLAG,   /* bool */
    OPTION_TEXT,   /* const char * */
    OPTION_WORDS,  /* command_words: may be given more than once */
    OPTION_INT,    /* int64_t */
    OPTION_REAL,   /* double */
    OPTION_BYTES,  /* int64_t */
    OPTION_CHOICE, /* an enum that counts from 0 */
    OPTION_ACTION, /* an action; with an argument, its text goes to `completion` */
} option_kind;

typedef struct option {
    const char *name;     /* without the dashes */
    const char *argument; /* "FILE", "auto|cpu|cuda"; NULL for flags */
    option_kind kind;
    size_t offset;      /* in command; OPTION_ACTION: the action */
    unsigned verbs;     /* bit 1 << verb */
    double least, most; /* numbers */
    const char *doc;
} option;

typedef struct verb_row {
    const char *name;
    const char *usage; /* after the program's name */
    const char *doc;
} verb_row;

extern const option options_table[];
extern const size_t options_count;
extern const verb_row options_verbs[VERB_COUNT];

#endif
