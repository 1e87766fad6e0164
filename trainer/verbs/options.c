/* options.c: the tables of verbs and options, and the one loop that reads argv by them. */
#include "trainer/verbs/options.h"

#include "autograd/card.h"
#include "common/alloc.h"
#include "trainer/verbs/nearest.h"
#include "trainer/verbs/values.h"

#include <string.h>

const verb_row options_verbs[VERB_COUNT] = {
    [VERB_TRAIN] = {"train", "[train] --config FILE [key=value ...] [options]",
                    "Fine-tune. `train FILE.yaml` alone does it too."},
    [VERB_PLAN] = {"plan", "plan --config FILE [key=value ...] [options]",
                   "Say what goes where, how much and how fast, before anything is loaded."},
    [VERB_CHECK] = {"check", "check --config FILE [key=value ...] [options]",
                    "Check configuration, model and data, in this order; show examples."},
    [VERB_EVAL] =
        {"eval", "eval (--config FILE | --model DIR --data FILE) [--adapter DIR] [options]",
         "Loss and perplexity on held-out rows, or log-probabilities of each token."},
    [VERB_GENERATE] =
        {"generate",
         "generate (--config FILE | --model DIR) [--adapter DIR] [--prompt TEXT] "
         "[options]",
         "Answer a prompt, or each line of standard input."},
    [VERB_EXPORT] = {"export",
                     "export (--config FILE | --model DIR --adapter DIR) --out DIR [options]",
                     "Write the adapter, or base and adapter merged, for other programs."},
    [VERB_QUANTIZE] = {"quantize",
                       "quantize (--config FILE | --model DIR) --out FILE [key=value ...]",
                       "Quantize a base model once, into the HDF5 form that loads fastest."},
    [VERB_INSPECT] = {"inspect", "inspect PATH | inspect --config FILE --program",
                      "Say what a model, adapter, checkpoint or program consists of."},
    [VERB_TOKENIZE] = {"tokenize",
                       "tokenize --model DIR [--no-special] [--decode] [--chat [--text] "
                       "[--template FILE] ...]",
                       "JSON strings to lists of ids, or back, line by line; or conversations "
                       "to ids and labels."},
    [VERB_GET] = {"get",
                  "get (ORG/NAME [--dataset] [--revision REV] | --config FILE) [options]",
                  "Fetch a model or dataset from the hub into the local Hugging Face cache."},
    [VERB_BENCH] = {"bench",
                    "bench [--quick] [--model DIR --data FILE | --config FILE [--synthetic] "
                    "[key=value ...]] [options]",
                    "Measure this build on this machine, each thing over its own limit."},
};

#define ON(v) (1u << VERB_##v)
enum {
    EVERY = (1 << VERB_COUNT) - 1,
    CONFIG = EVERY & ~(1 << VERB_TOKENIZE), /* verbs that may read a configuration */
    LOADED = ON(EVAL) | ON(GENERATE) | ON(EXPORT) | ON(QUANTIZE) | ON(TOKENIZE) | ON(BENCH),
    COMPUTES =
        ON(TRAIN) | ON(PLAN) | ON(EVAL) | ON(GENERATE) | ON(QUANTIZE) | ON(EXPORT) | ON(BENCH),
    REPORTS = ON(PLAN) | ON(CHECK) | ON(EVAL) | ON(GENERATE) | ON(QUANTIZE) | ON(INSPECT) |
              ON(GET) | ON(BENCH),
};
#define AT(member) offsetof(command, member)

const option options_table[] = {
    {"config", "FILE", OPTION_TEXT, AT(config_path), CONFIG, 0, 0, "The YAML configuration."},
    {"resume", NULL, OPTION_FLAG, AT(resume), ON(TRAIN), 0, 0,
     "Go on from the last good checkpoint; from the beginning where there is none."},
    {"overwrite", NULL, OPTION_FLAG, AT(overwrite), ON(TRAIN) | ON(EXPORT) | ON(QUANTIZE), 0,
     0, "Remove what an earlier run wrote there, and begin anew."},
    {"profile", NULL, OPTION_FLAG, AT(profile), ON(TRAIN), 0, 0,
     "Show the time of each operation at the end."},
    {"model", "DIR", OPTION_TEXT, AT(model), LOADED, 0, 0,
     "A Hugging Face folder, or org/name of the local Hugging Face cache."},
    {"adapter", "DIR", OPTION_TEXT, AT(adapter), ON(EVAL) | ON(GENERATE) | ON(EXPORT), 0, 0,
     "A PEFT adapter folder."},
    {"data", "FILE", OPTION_TEXT, AT(data), ON(EVAL) | ON(BENCH), 0, 0,
     "Rows to evaluate on; bench: text to tokenize with --model's tokenizer."},
    {"synthetic", NULL, OPTION_FLAG, AT(synthetic), ON(PLAN) | ON(BENCH), 0, 0,
     "Random weights and rows of the shape of base_model: nothing to download."},
    {"measure", NULL, OPTION_FLAG, AT(measure), ON(PLAN), 0, 0,
     "Time the card's algorithms for this run's matrix products and keep the best in "
     "output_dir/gemm_table.json."},
    {"quick", NULL, OPTION_FLAG, AT(quick), ON(BENCH), 0, 0,
     "Tiny sizes: shows that it works, measures nothing of use."},
    {"logprobs", "FILE", OPTION_TEXT, AT(logprobs), ON(EVAL), 0, 0,
     "Write each token's id and log-probability there, a JSON line for each row."},
    {"prompt", "TEXT", OPTION_TEXT, AT(prompt), ON(GENERATE), 0, 0,
     "What to answer; without it, each line of standard input."},
    {"raw", NULL, OPTION_FLAG, AT(raw), ON(GENERATE), 0, 0,
     "Continue the text as it stands, without a chat template."},
    {"max-new-tokens", "N", OPTION_INT, AT(max_new_tokens), ON(GENERATE), 1, 1 << 20,
     "Tokens of an answer, at most (128)."},
    {"temperature", "T", OPTION_REAL, AT(temperature), ON(GENERATE), 0, 100,
     "0 (the default) takes the likeliest token, 1 samples as the model says."},
    {"top-k", "K", OPTION_INT, AT(top_k), ON(GENERATE), 0, 1 << 30,
     "Sample among the K likeliest tokens (0: all)."},
    {"top-p", "P", OPTION_REAL, AT(top_p), ON(GENERATE), 0, 1,
     "Sample among the likeliest tokens that hold this probability (1)."},
    {"seed", "N", OPTION_INT, AT(seed), ON(GENERATE), 0, 9007199254740991.0,
     "Of sampling (the configuration's, or 42)."},
    {"kind", "merged|merged-4bit|adapter", OPTION_CHOICE, AT(kind), ON(EXPORT), 0, 0,
     "Base and adapter in one model of 16 bits (the default) or bitsandbytes' 4, or the "
     "adapter alone."},
    {"base", "original|dequantized", OPTION_CHOICE, AT(base), ON(EXPORT), 0, 0,
     "Merge into the 16-bit files (the default), or into the 4-bit base that was trained on."},
    {"shard-size", "BYTES", OPTION_BYTES, AT(shard_size), ON(EXPORT), 1e6, 9e15,
     "Bytes of one safetensors file, at most (5GB)."},
    {"out", "PATH", OPTION_TEXT, AT(out), ON(EXPORT) | ON(QUANTIZE) | ON(BENCH), 0, 0,
     "Where to write."},
    {"no-special", NULL, OPTION_FLAG, AT(no_special), ON(TOKENIZE), 0, 0,
     "Leave out what the tokenizer adds at the ends (BOS, EOS)."},
    {"decode", NULL, OPTION_FLAG, AT(decode), ON(TOKENIZE), 0, 0,
     "From lists of ids to strings."},
    {"chat", NULL, OPTION_FLAG, AT(chat), ON(TOKENIZE), 0, 0,
     "Lines are conversations: a list of messages, or an object with messages, tools and "
     "variables of the template. To {ids, labels}; what the template refuses to {error}."},
    {"text", NULL, OPTION_FLAG, AT(text), ON(TOKENIZE), 0, 0,
     "--chat: to the rendered text instead, which needs no model with --template."},
    {"template", "FILE", OPTION_TEXT, AT(template), ON(TOKENIZE), 0, 0,
     "--chat: a Jinja template, or the name of a built-in one, instead of the model's own."},
    {"bos", "TOKEN", OPTION_TEXT, AT(bos), ON(TOKENIZE), 0, 0,
     "--chat: the template's bos_token, instead of the model's."},
    {"eos", "TOKEN", OPTION_TEXT, AT(eos), ON(TOKENIZE), 0, 0,
     "--chat: the template's eos_token, instead of the model's."},
    {"add-generation-prompt", NULL, OPTION_FLAG, AT(add_generation_prompt), ON(TOKENIZE), 0, 0,
     "--chat: end with what makes the model answer."},
    {"dataset", NULL, OPTION_FLAG, AT(dataset), ON(GET), 0, 0,
     "The name is a dataset's, not a model's."},
    {"revision", "REV", OPTION_TEXT, AT(revision), ON(GET), 0, 0,
     "Branch, tag or commit (main)."},
    {"include", "GLOB", OPTION_WORDS, AT(include), ON(GET), 0, 0,
     "Fetch the files that are named like it, * also across folders; may be given again, or "
     "hold several between commas. Without it: of a model what training reads, of a dataset "
     "all."},
    {"list", NULL, OPTION_FLAG, AT(list), ON(GET), 0, 0,
     "Show the files, their sizes and which are there already; fetch nothing."},
    {"program", NULL, OPTION_FLAG, AT(program), ON(INSPECT), 0, 0,
     "The recorded operations and the derived backward pass, with FLOPs."},
    {"show", "N", OPTION_INT, AT(show), ON(CHECK), 0, 1 << 20,
     "Print N examples as tokens with what is learned of them."},
    {"device", "auto|cpu|cuda", OPTION_CHOICE, AT(device), COMPUTES & ~ON(PLAN), 0, 0,
     "Where to compute."},
    {"device", "auto|cpu|cuda|CARD", OPTION_TEXT, AT(card), ON(PLAN), 0, 0,
     "For which device; a card's name (l40s, rtx-4090 ...) needs no such card."},
    {"threads", "N", OPTION_INT, AT(threads), COMPUTES, 0, 4096,
     "CPU threads (0: as many as there are cores)."},
    {"format", "text|json", OPTION_CHOICE, AT(format), REPORTS, 0, 0,
     "How results are written to standard output."},
    {"quiet", NULL, OPTION_FLAG, AT(quiet), EVERY, 0, 0, "Warnings and errors only."},
    {"keys", NULL, OPTION_ACTION, ACTION_KEYS, ON(TRAIN), 0, 0,
     "Print all configuration keys."},
    {"completion", "bash", OPTION_ACTION, ACTION_COMPLETION, ON(TRAIN), 0, 0,
     "Print a script for the shell: eval \"$(train --completion bash)\"."},
    {"help", NULL, OPTION_ACTION, ACTION_HELP, EVERY, 0, 0, "This text (-h)."},
    {"version", NULL, OPTION_ACTION, ACTION_VERSION, EVERY, 0, 0, "The program's version."},
};
const size_t options_count = sizeof options_table / sizeof *options_table;

static int find_verb(const char *name) {
    for (int v = 0; v < VERB_COUNT; v++)
        if (!strcmp(options_verbs[v].name, name)) return v;
    return -1;
}

static status unknown_verb(const char *name) {
    nearest n = {.wanted = name};
    for (int v = 0; v < VERB_COUNT; v++) nearest_offer(&n, options_verbs[v].name);
    if (*n.best)
        return status_fail(STATUS_USAGE, "\"%s\" is no verb; did you mean %s?", name, n.best);
    return status_fail(
        STATUS_USAGE,
        "\"%s\" is neither a verb nor a .yaml file; train --help lists the verbs", name);
}

static status unknown_option(verb v, const char *name, size_t length) {
    char word[NEAREST_WORD];
    size_t n = length < sizeof word ? length : sizeof word - 1;
    memcpy(word, name, n);
    word[n] = '\0';
    nearest near = {.wanted = word};
    for (size_t i = 0; i < options_count; i++) {
        const option *o = &options_table[i];
        if (strcmp(o->name, word)) {
            if (o->verbs & 1u << v) nearest_offer(&near, o->name);
            continue;
        }
        return status_fail(STATUS_USAGE,
                           "--%s does not belong to the verb %s; see train %s --help", word,
                           options_verbs[v].name, options_verbs[v].name);
    }
    if (*near.best)
        return status_fail(STATUS_USAGE, "unknown option --%s; did you mean --%s?", word,
                           near.best);
    return status_fail(STATUS_USAGE, "unknown option --%s; see train %s --help", word,
                       options_verbs[v].name);
}

static status wrong_value(const option *o, const char *value, const char *why) {
    return status_fail(STATUS_USAGE, "--%s %s: %s", o->name, value, why);
}

static status set_number(const option *o, const char *value, void *at) {
    const char *why;
    int64_t whole = 0;
    double real;
    if (o->kind == OPTION_REAL)
        why = value_real(value, &real);
    else {
        why = o->kind == OPTION_INT ? value_int(value, &whole) : value_bytes(value, &whole);
        real = (double)whole;
    }
    if (why) return wrong_value(o, value, why);
    if (real < o->least || real > o->most)
        return status_fail(STATUS_USAGE, "--%s %s: must be from %.15g to %.15g", o->name,
                           value, o->least, o->most);
    if (o->kind == OPTION_REAL)
        *(double *)at = real;
    else
        *(int64_t *)at = whole;
    return STATUS_OK;
}

static status add_word(command_words *w, const char *value) {
    const char **items =
        mem_resize(w->items, (size_t)(w->count + 1) * sizeof *items, "command line");
    if (!items) return STATUS_MEMORY;
    w->items = items;
    items[w->count++] = value;
    return STATUS_OK;
}

static status set_option(const option *o, const char *value, command *c) {
    void *at = (char *)c + o->offset;
    int choice = o->argument && value ? value_choice(value, o->argument) : -1;
    switch (o->kind) {
    case OPTION_FLAG:
        *(bool *)at = true;
        return STATUS_OK;
    case OPTION_TEXT:
        if (*(const char **)at)
            return status_fail(STATUS_USAGE, "--%s is given twice", o->name);
        if (!*value) return wrong_value(o, "\"\"", "must not be empty");
        *(const char **)at = value;
        return STATUS_OK;
    case OPTION_WORDS:
        if (!*value) return wrong_value(o, "\"\"", "must not be empty");
        return add_word(at, value);
    case OPTION_CHOICE:
        if (choice < 0)
            return status_fail(STATUS_USAGE, "--%s %s: must be one of %s", o->name, value,
                               o->argument);
        *(int *)at = choice;
        return STATUS_OK;
    case OPTION_ACTION:
        if (o->argument && choice < 0)
            return status_fail(STATUS_USAGE, "--%s %s: must be %s", o->name, value,
                               o->argument);
        if (o->argument) c->completion = value;
        if (c->action == ACTION_RUN) c->action = (command_action)o->offset;
        return STATUS_OK;
    default:
        return set_number(o, value, at);
    }
}

/* --name, --name=value or --name value at argv[*i]; *i moves over the value. */
static status take_option(command *c, int argc, char **argv, int *i) {
    const char *word = argv[*i];
    const char *name = !strcmp(word, "-h") ? "help" : word + 2;
    if (word[1] != '-' && strcmp(word, "-h"))
        return status_fail(STATUS_USAGE, "unknown option %s; options begin with two dashes",
                           word);
    size_t length = strcspn(name, "=");
    for (size_t k = 0; k < options_count; k++) {
        const option *o = &options_table[k];
        if (!(o->verbs & 1u << c->verb) || strlen(o->name) != length ||
            strncmp(o->name, name, length))
            continue;
        if (!o->argument && name[length])
            return status_fail(STATUS_USAGE, "--%s takes no value", o->name);
        if (!o->argument) return set_option(o, NULL, c);
        if (name[length]) return set_option(o, name + length + 1, c);
        if (*i + 1 >= argc)
            return status_fail(STATUS_USAGE, "--%s needs a value: --%s %s", o->name, o->name,
                               o->argument);
        return set_option(o, argv[++*i], c);
    }
    return unknown_option(c->verb, name, length);
}

/* A word that is no option: an override, the configuration, or inspect's path. */
static bool is_yaml(const char *word) {
    const char *dot = strrchr(word, '.');
    return dot && (!strcmp(dot, ".yaml") || !strcmp(dot, ".yml"));
}

static bool is_override(const char *word) {
    size_t length = strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                 "0123456789_.-");
    return length && word[length] == '=';
}

static status take_word(command *c, const char *word) {
    bool reads_config = CONFIG & 1u << c->verb;
    if (reads_config && is_override(word)) {
        c->overrides[c->override_count++] = (char *)word;
        return STATUS_OK;
    }
    const char **place = NULL;
    bool takes_path = c->verb == VERB_INSPECT || c->verb == VERB_GET;
    if (reads_config && (!takes_path || is_yaml(word)))
        place = &c->config_path;
    else if (takes_path)
        place = &c->path;
    if (!place || *place)
        return status_fail(STATUS_USAGE, "\"%s\": one word too many; see train %s --help",
                           word, options_verbs[c->verb].name);
    *place = word;
    return STATUS_OK;
}

/* plan's --device: one of the usual words, or a card. */
static status take_card(command *c) {
    if (!c->card || card_find(c->card)) return STATUS_OK;
    int choice = value_choice(c->card, "auto|cpu|cuda");
    char names[256];
    card_list(names, sizeof names);
    if (choice < 0)
        return status_fail(STATUS_USAGE, "--device %s: must be auto, cpu, cuda or one of %s",
                           c->card, names);
    c->device = (device_choice)choice;
    c->card = NULL;
    return STATUS_OK;
}

static status check_tokenize(const command *c) {
    bool about_chats = c->text || c->template || c->bos || c->eos || c->add_generation_prompt;
    if (about_chats && !c->chat)
        return status_fail(STATUS_USAGE, "--text, --template, --bos, --eos and "
                                         "--add-generation-prompt belong to --chat");
    if (c->chat && (c->decode || c->no_special))
        return status_fail(STATUS_USAGE, "--chat: neither --decode nor --no-special");
    if (c->model || (c->chat && c->text && c->template)) return STATUS_OK;
    return status_fail(STATUS_USAGE, c->chat && c->text
                                         ? "tokenize --chat --text needs --template FILE or "
                                           "--model DIR"
                                         : "tokenize needs --model DIR");
}

/* What a verb cannot do without. */
static status check_command(const command *c) {
    const char *name = options_verbs[c->verb].name;
    bool model = c->config_path || c->model;
    if (c->config_path && c->model)
        return status_fail(STATUS_USAGE,
                           "--config and --model: the model is one or the other's");
    if (c->resume && c->overwrite)
        return status_fail(STATUS_USAGE,
                           "--resume goes on, --overwrite begins anew: choose one");
    switch (c->verb) {
    case VERB_TRAIN:
    case VERB_PLAN:
    case VERB_CHECK:
        if (!c->config_path)
            return status_fail(STATUS_USAGE, "%s needs a configuration: train %s--config FILE",
                               name,
                               c->verb == VERB_TRAIN  ? ""
                               : c->verb == VERB_PLAN ? "plan "
                                                      : "check ");
        return STATUS_OK;
    case VERB_EVAL:
        if (!model || (c->model && !c->data))
            return status_fail(STATUS_USAGE,
                               "eval needs --config FILE, or --model DIR --data FILE");
        return STATUS_OK;
    case VERB_GENERATE:
        if (!model)
            return status_fail(STATUS_USAGE, "generate needs --config FILE or --model DIR");
        return STATUS_OK;
    case VERB_EXPORT:
        if (!model || (c->model && !c->adapter))
            return status_fail(STATUS_USAGE,
                               "export needs --config FILE, or --model DIR --adapter DIR");
        if (!c->out) return status_fail(STATUS_USAGE, "export needs --out DIR");
        return STATUS_OK;
    case VERB_QUANTIZE:
        if (!model || (c->model && !c->out))
            return status_fail(STATUS_USAGE,
                               "quantize needs --config FILE, or --model DIR --out FILE");
        return STATUS_OK;
    case VERB_INSPECT:
        if (!c->path && !c->config_path)
            return status_fail(STATUS_USAGE, "inspect needs a path, or --config FILE");
        if (c->program && !c->config_path)
            return status_fail(STATUS_USAGE, "inspect --program needs --config FILE");
        return STATUS_OK;
    case VERB_GET:
        if (!c->path == !c->config_path)
            return status_fail(STATUS_USAGE, "get needs ORG/NAME, or --config FILE");
        if (c->config_path && (c->dataset || c->revision || c->include.count))
            return status_fail(STATUS_USAGE,
                               "get --config fetches what the file names: no --dataset, no "
                               "--revision, no --include");
        return STATUS_OK;
    case VERB_BENCH:
        if (c->config_path && (c->data || c->quick))
            return status_fail(
                STATUS_USAGE, "bench --config measures that run alone: no --data, no --quick");
        if (c->synthetic && !c->config_path)
            return status_fail(STATUS_USAGE, "--synthetic needs --config FILE");
        if (!c->model != !c->data)
            return status_fail(STATUS_USAGE,
                               "bench measures a tokenizer with --model DIR and --data FILE");
        return STATUS_OK;
    default:
        return check_tokenize(c);
    }
}

/* The verb is the first word, unless that is an option, an override or a file: then it is
 * train. */
static status take_verb(command *c, int argc, char **argv, int *i) {
    if (argc < 2) {
        c->action = ACTION_HELP;
        return STATUS_OK;
    }
    const char *word = argv[1];
    if (*word == '-' || is_override(word) || is_yaml(word)) return STATUS_OK;
    if (!strcmp(word, "help")) {
        c->action = ACTION_HELP;
        if (++*i >= argc) return STATUS_OK;
        word = argv[*i];
    }
    int v = find_verb(word);
    if (v < 0) return unknown_verb(word);
    c->verb = (verb)v;
    c->verb_named = true;
    ++*i;
    return STATUS_OK;
}

static status parse(int argc, char **argv, command *c) {
    int i = 1;
    bool words_only = false;
    TRY(take_verb(c, argc, argv, &i));
    for (; i < argc; i++) {
        if (!words_only && !strcmp(argv[i], "--"))
            words_only = true;
        else if (!words_only && argv[i][0] == '-' && argv[i][1])
            TRY(take_option(c, argc, argv, &i));
        else
            TRY(take_word(c, argv[i]));
    }
    TRY(take_card(c));
    return c->action == ACTION_RUN ? check_command(c) : STATUS_OK;
}

status options_parse(int argc, char **argv, command *out) {
    *out = (command){.max_new_tokens = -1, .top_p = 1, .seed = -1, .shard_size = 5000000000};
    out->overrides = mem_alloc_array((size_t)argc + 1, sizeof *out->overrides, "command line");
    if (!out->overrides) return STATUS_MEMORY;
    status s = parse(argc, argv, out);
    if (s != STATUS_OK) options_free(out);
    return s;
}

void options_free(command *c) {
    mem_free(c->overrides);
    c->overrides = NULL;
    c->override_count = 0;
    mem_free(c->include.items);
    c->include = (command_words){0};
}
