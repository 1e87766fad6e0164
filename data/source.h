/* source.h: one entry of `datasets:` read into rows: which files, which of their rows, and how
 * a row becomes tokens and labels. Types (`type:`), as in Axolotl:
 *
 *   none             rows with input_ids, and labels where not all is learned
 *   completion       plain text in `field` (.txt: see records.h), cut into sequence_len pieces
 *   alpaca ...       prompts.h, also a format of one's own
 *   chat_template    conversation.h and template.h ("sharegpt" and "chat" mean the same)
 *   input_output     segments with `label` and `text`, the one type whose texts may spell
 *                    control tokens, since they are the dataset's own template
 *
 * Tokenizing is done by all cores; the rows' order does not depend on that. */
#ifndef NIBBLE_DATA_SOURCE_H
#define NIBBLE_DATA_SOURCE_H

#include "common/hash.h"
#include "common/status.h"
#include "data/conversation.h"
#include "data/prompts.h"
#include "data/rows.h"
#include "data/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the configuration says of one dataset. Owns nothing; NULL and 0 mean not set. */
typedef struct dataset_source {
    const char *path;         /* a file, or a folder with data files */
    const char *name;         /* a folder in it */
    const char *const *files; /* data_files in the folder */
    size_t file_count;
    const char *type;     /* NULL or "": rows are tokenized, unless custom_prompt */
    bool custom_prompt;   /* `type:` was a mapping: `prompt` is all there is */
    prompt_format prompt; /* also overrides of a built-in format */
    const char *split;    /* see split.h */
    const char *ds_type;  /* json, text, paragraphs or document; usual: by the file's name */
    const char *field;    /* completion: usual "text" */
    chat_fields chat;     /* `ends` and `train_on_inputs` are set from below */
    learn_ends train_on_eos, train_on_eot; /* for a turn's end that is EOS, or another token */
    const char *chat_template, *chat_template_jinja; /* override the run's */
    int64_t shards, shard; /* > 1: only rows whose number modulo shards is shard */
} dataset_source;

typedef enum long_rows {
    LONG_DROP, /* the dialect's default */
    LONG_TRUNCATE,
    LONG_FAIL
} long_rows;

typedef struct dataset_options {
    const tokenizer *tokenizer;        /* NULL is fine when all rows are tokenized */
    const char *tokenizer_folder;      /* its files are part of the prepared rows' identity */
    const char *bos_token, *eos_token; /* special_tokens; NULL: the tokenizer's */
    int32_t vocabulary; /* ids of tokenized rows must be below; 0: not checked */
    const char *chat_template, *chat_template_jinja; /* see template.h */
    const json_t *chat_template_kwargs;
    const char *today; /* the date that some templates state; NULL: today */
    bool train_on_inputs;
    int64_t sequence_len;
    long_rows long_rows;
    bool skip_bad_rows;   /* on_bad_row: skip */
    bool keep_untargeted; /* rows without a token to learn are kept (test_datasets) */
    bool deduplicate;     /* dataset_exact_deduplication: the first of equal rows stays */
    bool shuffle;         /* shuffle_merged_datasets: the rows' order, by seed */
    double held_out;      /* val_set_size: < 1 a part of the rows, else rows; 0: none */
    uint64_t seed;
    status (*go_on)(void); /* asked between batches of rows: not STATUS_OK ends it; or NULL */
    const char *prepared;  /* dataset_prepared_path; NULL: rows are made anew */
} dataset_options;

/* What happened to the rows, for the summary and `check`. */
typedef struct dataset_report {
    int64_t files;
    int64_t read;               /* rows of the slices */
    int64_t bad;                /* left out by skip_bad_rows */
    int64_t dropped_long;       /* longer than sequence_len */
    int64_t dropped_untargeted; /* no token to learn */
    int64_t dropped_duplicate;
    int64_t truncated;        /* rows cut to sequence_len ... */
    int64_t truncated_tokens; /* ... and what they lost */
    int64_t cut;              /* texts of completion cut into more than one piece */
    int64_t kept;             /* rows (pieces) that are there now, held out ones included */
    int64_t tokens, targets;  /* of these */
    int64_t longest;          /* tokens of the longest of these */
    int64_t
        longest_seen;    /* before dropping and truncating: what sequence_len would keep all */
    char first_bad[512]; /* the message of the first bad row */
    /* of the last conversation dataset: its template, the date that it states (given as `today`
     * it makes the same rows again), and the token that ends a turn, -1 when there is none */
    char template_name[64], template_date[32];
    int64_t template_end;
} dataset_report;

/* Appends the source's rows, shorter than sequence_len and (mostly) targeted, and counts.
 * STATUS_DATA for files and rows, STATUS_USAGE for options. */
status source_read(const dataset_source *source, const dataset_options *options, row_set *out,
                   dataset_report *report);

/* The name of the format that the configuration asks for, NULL for none: ds_type, or the path where
 * that is a format's name (`path: json`). */
const char *source_format_name(const dataset_source *source);

/* Takes all that decides the source's rows into a hash: options and every byte of its files.
 */
status source_identify(const dataset_source *source, const dataset_options *options,
                       hash_stream *h);

/* The tokenizer with the options' special tokens. STATUS_USAGE for a token that it does not
 * have. */
status dataset_token_names(const dataset_options *options, token_names *out);

#endif
