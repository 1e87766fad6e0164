/* help.c: help of a verb, the page of configuration keys, the completion script. */
#include "trainer/verbs/help.h"

#include "common/alloc.h"
#include "trainer/verbs/dialect.h"
#include "trainer/verbs/schema.h"
#include "trainer/verbs/text.h"

#include <stdio.h>
#include <string.h>

enum { WIDTH = 90, DOC_COLUMN = 28 };

static void add_option(text *t, const option *o) {
    char head[96];
    snprintf(head, sizeof head, "  --%s%s%s", o->name, o->argument ? " " : "",
             o->argument ? o->argument : "");
    text_add(t, head);
    int column = (int)strlen(head);
    if (column + 2 > DOC_COLUMN) {
        text_add(t, "\n");
        column = 0;
    }
    text_addf(t, "%*s", DOC_COLUMN - column, "");
    text_wrap(t, o->doc, DOC_COLUMN, DOC_COLUMN, WIDTH);
    text_add(t, "\n");
}

static void add_verb_help(text *t, verb v) {
    text_addf(t, "usage: train %s\n\n%s\n\noptions:\n", options_verbs[v].usage,
              options_verbs[v].doc);
    for (size_t i = 0; i < options_count; i++)
        if (options_table[i].verbs & 1u << v) add_option(t, &options_table[i]);
}

static char *verb_help(const command *c) {
    text t = {0};
    add_verb_help(&t, c->verb);
    if (!c->verb_named) {
        text_add(&t, "\nverbs (train VERB --help says more):\n");
        for (int v = 0; v < VERB_COUNT; v++)
            text_addf(&t, "  %-12s%s\n", options_verbs[v].name, options_verbs[v].doc);
    }
    if (c->verb == VERB_TRAIN)
        text_add(
            &t,
            "\nkey=value overrides a key of the file: lora_r=32, memory.base=disk,\n"
            "datasets.0.path=rows.jsonl, lora_target_modules=[q_proj,v_proj].\n"
            "train --keys explains every key.\n"
            "\nexit codes: 0 done, 1 internal, 2 usage or configuration, 3 data, 4 model or\n"
            "checkpoint file, 5 diverged, 6 out of memory, 7 input or output, 8 device,\n"
            "9 output locked by another run, 75 saved and interrupted.\n");
    return text_take(&t);
}

/* The page of keys. */

static void add_key(text *t, const field *f) {
    char kind[256], head[512];
    schema_describe(f, kind, sizeof kind);
    snprintf(head, sizeof head, "- **`%s`** (%s%s%s%s%s%s)", f->name, kind,
             f->standard ? "; default " : "", f->standard ? f->standard : "",
             f->flags & FIELD_REQUIRED ? "; required" : "",
             f->flags & FIELD_OURS ? "; ours" : "", f->flags & FIELD_FREE ? "; free" : "");
    text_wrap(t, head, 0, 2, WIDTH);
    text_add(t, "\n  ");
    text_wrap(t, f->doc, 2, 2, WIDTH);
    text_add(t, "\n");
}

static void add_table(text *t, const schema *s) {
    for (size_t i = 0; i < s->count; i++) {
        const field *f = &s->fields[i];
        if (f->kind == FIELD_SECTION)
            text_addf(t, "%s## %s\n\n", i ? "\n" : "", f->name);
        else
            add_key(t, f);
    }
}

/* Tables within tables, each once. */
static void add_inner_tables(text *t, const schema *s) {
    for (size_t i = 0; i < s->count; i++) {
        const field *f = &s->fields[i];
        bool again = f->kind == FIELD_TABLES && strcmp(f->name, "datasets");
        if (!f->table || again) continue;
        text_addf(t, "\n## Under `%s`\n\n", f->name);
        if (f->kind == FIELD_TABLES)
            text_add(t,
                     "Each entry of the list; `test_datasets` and `pretraining_dataset` take "
                     "the same.\n\n");
        add_table(t, f->table);
        add_inner_tables(t, f->table);
    }
}

/* One reason and its keys, a paragraph each. */
static void add_reason(text *t, const char *scope, const char *reason, text *keys) {
    char *names = text_take(keys);
    if (!names) {
        t->failed = true;
        return;
    }
    text_add(t, "- ");
    text_wrap(t, reason, 2, 2, WIDTH);
    if (strcmp(scope, "configuration")) text_addf(t, " (under `%s`)", scope);
    text_add(t, ":\n  ");
    text_wrap(t, names, 2, 2, WIDTH);
    text_add(t, "\n");
    mem_free(names);
}

/* Keys of one effect, those with the same reason together. */
static void add_foreign(text *t, dialect_effect effect) {
    static const char *const scopes[] = {"configuration", "datasets", "bnb_config_kwargs"};
    for (size_t i = 0; i < sizeof scopes / sizeof *scopes; i++) {
        const char *reason = NULL;
        text keys = {0};
        dialect_key key;
        for (dialect_cursor cursor = {0}; dialect_next(&cursor, scopes[i], &key);) {
            if (key.effect != effect) continue;
            if (reason && key.reason != reason) add_reason(t, scopes[i], reason, &keys);
            reason = key.reason;
            text_addf(&keys, "%s`%s`", keys.length ? ", " : "", key.name);
            if (*key.harmless) text_addf(&keys, " (fine: %s)", key.harmless);
        }
        if (reason) add_reason(t, scopes[i], reason, &keys);
    }
}

char *help_keys(void) {
    text t = {0};
    text_add(
        &t,
        "# Configuration keys\n\n"
        "Made by `train --keys` from the tables in `trainer/verbs/schema.c` and\n"
        "`trainer/verbs/dialect.c`; a test keeps this page current. The dialect is Axolotl's; "
        "keys\n"
        "marked *ours* are not in it. Keys marked *free* may differ between a run and its\n"
        "resumption, others may not. An empty value (`key:`) means not set. On the command "
        "line:\n"
        "`key=value`, `memory.base=disk`, `datasets.0.path=rows.jsonl`.\n\n");
    add_table(&t, &schema_config);
    add_inner_tables(&t, &schema_config);
    text_add(
        &t,
        "\n## Accepted and ignored\n\n"
        "They change speed, logging or where things run, not the result. A run names\n"
        "those that are set once. Of `plugins`, those for liger, cut_cross_entropy, kernels,\n"
        "swanlab and expert_parallel are ignored, others refused.\n\n");
    add_foreign(&t, DIALECT_IGNORED);
    text_add(
        &t,
        "\n## Refused\n\n"
        "They would change the result and do not exist here. Not set, false, empty, or with\n"
        "the value named as fine they are accepted. `base_model_config` and\n"
        "`tokenizer_config` may repeat `base_model`.\n\n");
    add_foreign(&t, DIALECT_REFUSED);
    return text_take(&t);
}

/* Completion. */

static void add_words(text *t, const char *prefix, const char *choices) {
    for (const char *p = choices; *p; p++) {
        if (p == choices || p[-1] == '|')
            text_addf(t, "%s%s", p == choices ? "" : " ", prefix);
        if (*p != '|') text_addf(t, "%c", *p);
    }
}

static void add_completion_keys(text *t, const schema *s, const char *prefix) {
    for (size_t i = 0; i < s->count; i++) {
        const field *f = &s->fields[i];
        char inner[128];
        if (f->kind == FIELD_SECTION || f->kind == FIELD_TABLES) continue;
        if (f->kind != FIELD_TABLE) {
            text_addf(t, " %s%s=", prefix, f->name);
            continue;
        }
        snprintf(inner, sizeof inner, "%.60s%.60s.", prefix, f->name);
        add_completion_keys(t, f->table, inner);
    }
}

static void add_completion_values(text *t, const schema *s, const char *prefix) {
    for (size_t i = 0; i < s->count; i++) {
        const field *f = &s->fields[i];
        char inner[128];
        const char *choices = f->kind == FIELD_BOOL     ? "true|false"
                              : f->kind == FIELD_SWITCH ? "true|false|auto"
                                                        : f->choices;
        if (f->kind == FIELD_TABLE) {
            snprintf(inner, sizeof inner, "%.60s%.60s.", prefix, f->name);
            add_completion_values(t, f->table, inner);
        } else if (f->kind != FIELD_SECTION && choices) {
            text_addf(t, "        %s%s) values=\"", prefix, f->name);
            add_words(t, "", choices);
            text_add(t, "\" ;;\n");
        }
    }
}

static void add_completion_options(text *t) {
    for (int v = 0; v < VERB_COUNT; v++) {
        text_addf(t, "        %s) words=\"", options_verbs[v].name);
        for (size_t i = 0; i < options_count; i++)
            if (options_table[i].verbs & 1u << v) text_addf(t, "--%s ", options_table[i].name);
        text_add(t, "\" ;;\n");
    }
}

static void add_completion_arguments(text *t) {
    for (size_t i = 0; i < options_count; i++) {
        const option *o = &options_table[i];
        if (o->kind != OPTION_CHOICE && strcmp(o->name, "completion")) continue;
        text_addf(t, "        --%s) values=\"", o->name);
        add_words(t, "", o->argument);
        text_add(t, "\" ;;\n");
    }
}

/* bash breaks words at `=`: in memory.base=di the word is `di`, the one before `=`, the key
 * before that. Values of options and keys that are a choice are offered, file names otherwise.
 */
char *help_completion(void) {
    text t = {0};
    text_add(&t,
             "_nibble_train() {\n"
             "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}\n"
             "    local verb=train words= values= key=\n"
             "    if [ \"$word\" = = ]; then key=$before word=\n"
             "    elif [ \"$before\" = = ]; then key=${COMP_WORDS[COMP_CWORD-2]}; fi\n"
             "    case ${key:-$before} in\n");
    add_completion_values(&t, &schema_config, "");
    add_completion_arguments(&t);
    text_add(&t, "    esac\n"
                 "    if [ -n \"$values\" ]; then\n"
                 "        COMPREPLY=($(compgen -W \"$values\" -- \"$word\"))\n"
                 "        return\n"
                 "    fi\n"
                 "    case ${COMP_WORDS[1]} in\n        ");
    for (int v = 0; v < VERB_COUNT; v++)
        text_addf(&t, "%s%s", v ? "|" : "", options_verbs[v].name);
    text_add(&t, ") verb=${COMP_WORDS[1]} ;;\n"
                 "    esac\n"
                 "    case $verb in\n");
    add_completion_options(&t);
    text_add(&t, "    esac\n"
                 "    case $word in\n"
                 "        -*) ;;\n"
                 "        *) words=\"");
    add_completion_keys(&t, &schema_config, "");
    text_add(&t, "\"\n"
                 "           [ \"$COMP_CWORD\" = 1 ] && words=\"$words");
    for (int v = 0; v < VERB_COUNT; v++) text_addf(&t, " %s", options_verbs[v].name);
    text_add(
        &t,
        "\" ;;\n"
        "    esac\n"
        "    [ -n \"$key\" ] && words=\n"
        "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\") $(compgen -f -- \"$word\"))\n"
        "    [ \"${COMPREPLY[0]: -1}\" = = ] && compopt -o nospace\n"
        "}\n"
        "complete -o filenames -F _nibble_train train\n");
    return text_take(&t);
}

char *help_text(const command *c) {
    text t = {0};
    switch (c->action) {
    case ACTION_VERSION:
        text_add(&t, "nibble " NIBBLE_VERSION "\n");
        return text_take(&t);
    case ACTION_KEYS:
        return help_keys();
    case ACTION_COMPLETION:
        return help_completion();
    default:
        return verb_help(c);
    }
}
