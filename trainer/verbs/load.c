/* load.c: walks the tree along the schema and stores what it finds. What a key's value means
 * alone is decided here; what keys mean together, in checks.c. */
#include "trainer/verbs/load.h"

#include "common/alloc.h"
#include "trainer/verbs/checks.h"
#include "trainer/verbs/dialect.h"
#include "trainer/verbs/nearest.h"
#include "trainer/verbs/print.h"
#include "trainer/verbs/schema.h"
#include "trainer/verbs/text.h"
#include "trainer/verbs/values.h"
#include "data/yaml.h"

#include <stdio.h>
#include <string.h>

/* Where the walk is, for messages: the file and the keys from the top, "datasets[0].type". */
typedef struct walk {
    const char *name;
    const char *base_model; /* as written, for keys that repeat it */
    config_list *ignored;
    char path[256];
} walk;

static status fail(const walk *w, const tree_node *at, const char *why) {
    char where[TREE_WHERE];
    tree_where(at, w->name, where);
    return status_fail(STATUS_USAGE, "%s: %s: %s", where, w->path, why);
}

/* "must be a whole number from 1, not "abc"" */
static status wrong(const walk *w, const tree_node *at, const char *must) {
    char why[512];
    const char *shape = at->shape == SHAPE_MAP ? "a map" : "a list";
    if (at->shape == SHAPE_SCALAR)
        snprintf(why, sizeof why, "%s, not \"%.60s\"", must, at->text);
    else
        snprintf(why, sizeof why, "%s, not %s", must, shape);
    return fail(w, at, why);
}

static status wrong_kind(const walk *w, const tree_node *at, const field *f) {
    char kind[256], must[300];
    schema_describe(f, kind, sizeof kind);
    snprintf(must, sizeof must, "must be %s", kind);
    return wrong(w, at, must);
}

/* The path grows by one key and later shrinks to what it was. */
static size_t enter(walk *w, const char *key, long index) {
    size_t length = strlen(w->path);
    if (key)
        snprintf(w->path + length, sizeof w->path - length, "%s%.60s", length ? "." : "", key);
    else
        snprintf(w->path + length, sizeof w->path - length, "[%ld]", index);
    return length;
}

static status list_add(config_list *list, char *item) {
    if (!item) return STATUS_MEMORY;
    char **items = mem_resize(list->items, (list->count + 1) * sizeof *items, "configuration");
    if (!items) {
        mem_free(item);
        return STATUS_MEMORY;
    }
    list->items = items;
    items[list->count++] = item;
    return STATUS_OK;
}

/* Keys that are not in the schema. */

static status unknown(const walk *w, const schema *s, const tree_node *at) {
    char why[256];
    const char *known = dialect_elsewhere(at->key);
    nearest n = {.wanted = at->key};
    for (size_t i = 0; i < s->count; i++)
        if (s->fields[i].kind != FIELD_SECTION) nearest_offer(&n, s->fields[i].name);
    dialect_key key;
    for (dialect_cursor cursor = {0}; dialect_next(&cursor, s->name, &key);)
        nearest_offer(&n, key.name);
    if (known)
        snprintf(why, sizeof why, "unknown key; here it is called %s", known);
    else if (*n.best)
        snprintf(why, sizeof why, "unknown key; did you mean %s?", n.best);
    else
        snprintf(why, sizeof why, "unknown key; train --keys lists all");
    return fail(w, at, why);
}

static status ignore(walk *w, const tree_node *at, const char *reason) {
    bool off;
    if (tree_is_unset(at) ||
        (at->shape == SHAPE_SCALAR && !value_bool(at->text, &off) && !off))
        return STATUS_OK;
    return list_add(w->ignored, mem_printf("%s: %s", w->path, reason));
}

static status refuse(const walk *w, const tree_node *at, const dialect_key *key) {
    char why[512], instead[96] = "remove the key";
    if (dialect_is_harmless(key, at)) return STATUS_OK;
    if (*key->harmless)
        snprintf(instead, sizeof instead, "remove the key or set it to %.*s",
                 (int)strcspn(key->harmless, "|"), key->harmless);
    snprintf(why, sizeof why, "not supported: %s; %s", key->reason, instead);
    return fail(w, at, why);
}

/* plugins: [axolotl.integrations.liger.LigerPlugin, ...] */
static status read_plugins(walk *w, const tree_node *at) {
    for (const tree_node *item = at->first; item; item = item->next)
        if (item->shape != SHAPE_SCALAR || !dialect_plugin_ignored(item->text))
            return wrong(w, item,
                         "only plugins that change speed or logging (liger, "
                         "cut_cross_entropy, kernels, swanlab) can be left out");
    return ignore(w, at, "speed or logging");
}

static status read_foreign(walk *w, const schema *s, const tree_node *at) {
    dialect_key key;
    if (s == &schema_config && !strcmp(at->key, "plugins")) return read_plugins(w, at);
    if (s == &schema_config &&
        (!strcmp(at->key, "base_model_config") || !strcmp(at->key, "tokenizer_config"))) {
        if (tree_is_unset(at)) return STATUS_OK;
        if (at->shape == SHAPE_SCALAR && w->base_model && !strcmp(at->text, w->base_model))
            return STATUS_OK;
        return fail(w, at,
                    "not supported unless it repeats base_model: put the files into "
                    "the model's folder");
    }
    if (!dialect_find(s->name, at->key, &key)) return unknown(w, s, at);
    return key.effect == DIALECT_IGNORED ? ignore(w, at, key.reason) : refuse(w, at, &key);
}

/* Values. */

static status read_text(const walk *w, const tree_node *at, char **out) {
    if (at->shape != SHAPE_SCALAR) return wrong(w, at, "must be text");
    char *words = mem_strdup(at->text);
    if (!words) return STATUS_MEMORY;
    mem_free(*out);
    *out = words;
    return STATUS_OK;
}

static status read_list(walk *w, const tree_node *at, config_list *out) {
    if (at->shape == SHAPE_MAP) return wrong(w, at, "must be a list");
    if (at->shape == SHAPE_SCALAR) return list_add(out, mem_strdup(at->text));
    long i = 0;
    for (const tree_node *item = at->first; item; item = item->next, i++) {
        size_t length = enter(w, NULL, i);
        if (item->shape != SHAPE_SCALAR || tree_is_unset(item))
            return wrong(w, item, "must be text");
        TRY(list_add(out, mem_strdup(item->text)));
        w->path[length] = '\0';
    }
    return STATUS_OK;
}

static status read_map(walk *w, const tree_node *at, config_map *out) {
    if (at->shape != SHAPE_MAP) return wrong(w, at, "must be a map of key: text");
    if (!at->count) return STATUS_OK;
    out->items = mem_alloc_array(at->count, sizeof *out->items, "configuration");
    if (!out->items) return STATUS_MEMORY;
    for (const tree_node *item = at->first; item; item = item->next) {
        size_t length = enter(w, item->key, 0);
        if (item->shape != SHAPE_SCALAR || tree_is_unset(item))
            return wrong(w, item, "must be text");
        config_pair *pair = &out->items[out->count++];
        pair->key = mem_strdup(item->key);
        pair->value = mem_strdup(item->text);
        if (!pair->key || !pair->value) return STATUS_MEMORY;
        w->path[length] = '\0';
    }
    return STATUS_OK;
}

static status read_groups(walk *w, const tree_node *at, config_groups *out) {
    if (at->shape != SHAPE_MAP) return wrong(w, at, "must be a map of key: [text, ...]");
    if (!at->count) return STATUS_OK;
    out->items = mem_alloc_array(at->count, sizeof *out->items, "configuration");
    if (!out->items) return STATUS_MEMORY;
    for (const tree_node *item = at->first; item; item = item->next) {
        size_t length = enter(w, item->key, 0);
        config_group *group = &out->items[out->count++];
        if (!(group->key = mem_strdup(item->key))) return STATUS_MEMORY;
        TRY(read_list(w, item, &group->values));
        w->path[length] = '\0';
    }
    return STATUS_OK;
}

static bool in_range(const field *f, double value) {
    if (f->least == 0 && f->most == 0) return true;
    if (f->flags & FIELD_COUNT && value >= 1 && value != floor(value)) return false;
    return (f->flags & FIELD_ABOVE ? value > f->least : value >= f->least) && value <= f->most;
}

/* A whole number that need not be there may be written -1 for "not set", as transformers does,
 * and 0 where 0 is no count. */
static bool means_unset(const field *f, int64_t value) {
    return !f->standard && (value == -1 || (value == 0 && f->least > 0));
}

static status read_number(const walk *w, const tree_node *at, const field *f, void *out) {
    const char *why;
    int64_t whole = 0;
    double real = 0;
    if (f->kind == FIELD_BYTES)
        why = value_bytes(at->text, &whole);
    else if (f->kind == FIELD_INT)
        why = value_int(at->text, &whole);
    else
        why = value_real(at->text, &real);
    if (why) return wrong(w, at, why);
    if (f->kind == FIELD_INT && means_unset(f, whole)) return STATUS_OK;
    if (!in_range(f, f->kind == FIELD_REAL ? real : (double)whole))
        return wrong_kind(w, at, f);
    if (f->kind == FIELD_REAL)
        *(double *)out = real;
    else
        *(int64_t *)out = whole;
    return STATUS_OK;
}

/* An enum that knows true and false knows yes and off as well. */
static status read_choice(const walk *w, const tree_node *at, const field *f, int *out) {
    const char *choices = f->kind == FIELD_SWITCH ? "false|true|auto" : f->choices;
    const char *words = at->text;
    bool truth;
    int i = value_choice(words, choices);
    if (i < 0 && !value_bool(words, &truth))
        i = value_choice(truth ? "true" : "false", choices);
    if (i < 0) return wrong_kind(w, at, f);
    *out = i;
    return STATUS_OK;
}

static status read_table(walk *w, const schema *s, const tree_node *at, void *object);

static status read_prompt(walk *w, const tree_node *at, const field *f, dataset_config *d) {
    if (at->shape == SHAPE_LIST) return wrong_kind(w, at, f);
    if (at->shape == SHAPE_SCALAR) return read_text(w, at, &d->type);
    d->type_is_mapping = true;
    return read_table(w, f->table, at, &d->prompt);
}

static status read_datasets(walk *w, const tree_node *at, const field *f, dataset_list *out) {
    if (at->shape != SHAPE_LIST) return wrong_kind(w, at, f);
    if (!at->count) return STATUS_OK;
    out->items = mem_alloc_array(at->count, sizeof *out->items, "configuration");
    if (!out->items) return STATUS_MEMORY;
    long i = 0;
    for (const tree_node *item = at->first; item; item = item->next, i++) {
        size_t length = enter(w, NULL, i);
        dataset_config *d = &out->items[out->count++];
        if (schema_defaults(f->table, d)) return STATUS_MEMORY;
        TRY(read_table(w, f->table, item, d));
        w->path[length] = '\0';
    }
    return STATUS_OK;
}

static status read_field(walk *w, const schema *s, const tree_node *at, const field *f,
                         void *object) {
    void *out = (char *)object + f->offset;
    bool needs_scalar = f->kind == FIELD_BOOL || f->kind == FIELD_SWITCH ||
                        f->kind == FIELD_ENUM || f->kind == FIELD_INT ||
                        f->kind == FIELD_REAL || f->kind == FIELD_BYTES;
    if (needs_scalar && at->shape != SHAPE_SCALAR) return wrong_kind(w, at, f);
    const char *why;
    switch (f->kind) {
    case FIELD_BOOL:
        return (why = value_bool(at->text, out)) ? wrong(w, at, why) : STATUS_OK;
    case FIELD_SWITCH:
    case FIELD_ENUM:
        return read_choice(w, at, f, out);
    case FIELD_INT:
    case FIELD_REAL:
    case FIELD_BYTES:
        return read_number(w, at, f, out);
    case FIELD_TEXT:
        return read_text(w, at, out);
    case FIELD_LIST:
        return read_list(w, at, out);
    case FIELD_MAP:
        return read_map(w, at, out);
    case FIELD_GROUPS:
        return read_groups(w, at, out);
    case FIELD_TABLE:
        return read_table(w, f->table, at, out);
    case FIELD_TABLES:
        return read_datasets(w, at, f, out);
    case FIELD_PROMPT:
        return read_prompt(w, at, f, object);
    default:
        return status_fail(STATUS_INTERNAL, "%s.%s: a row without a kind", s->name, f->name);
    }
}

/* Spellings that the dialect itself retired. */
static const char *current_name(const schema *s, const char *key) {
    if (s != &schema_config) return key;
    if (!strcmp(key, "evaluation_strategy")) return "eval_strategy";
    if (!strcmp(key, "model_revision")) return "revision_of_model";
    return key;
}

static status read_key(walk *w, const schema *s, const tree_node *table, const tree_node *at,
                       void *object) {
    const char *name = current_name(s, at->key);
    const field *f = schema_find(s, name);
    if (!f) return read_foreign(w, s, at);
    if (name != at->key && tree_get(table, name))
        return fail(w, at, "set twice: it is the older name of a key that is set too");
    return tree_is_unset(at) ? STATUS_OK : read_field(w, s, at, f, object);
}

static status check_required(walk *w, const schema *s, const tree_node *at) {
    for (size_t i = 0; i < s->count; i++) {
        const field *f = &s->fields[i];
        const tree_node *value = tree_get(at, f->name);
        bool there = !tree_is_unset(value) && (value->shape == SHAPE_SCALAR || value->count);
        if (!(f->flags & FIELD_REQUIRED) || there) continue;
        enter(w, f->name, 0);
        if (s != &schema_config) return fail(w, at, "is missing");
        return status_fail(STATUS_USAGE, "%s: %s is missing: %s", w->name, f->name, f->doc);
    }
    return STATUS_OK;
}

static status read_table(walk *w, const schema *s, const tree_node *at, void *object) {
    if (at->shape != SHAPE_MAP) return wrong(w, at, "must be a map of key: value");
    for (const tree_node *child = at->first; child; child = child->next) {
        size_t length = enter(w, child->key, 0);
        TRY(read_key(w, s, at, child, object));
        w->path[length] = '\0';
    }
    return check_required(w, s, at);
}

static status load_tree(const tree_node *root, const char *name, config *out) {
    const tree_node *base = tree_get(root, "base_model");
    walk w = {.name = name, .ignored = &out->ignored};
    if (base && base->shape == SHAPE_SCALAR) w.base_model = base->text;
    if (schema_defaults(&schema_config, out)) return STATUS_MEMORY;
    TRY(read_table(&w, &schema_config, root, out));
    TRY(config_check(out, root, name));
    out->resolved = config_to_yaml(out);
    return out->resolved ? STATUS_OK : STATUS_MEMORY;
}

static status finish(status s, config *out) {
    if (s != STATUS_OK) config_free(out);
    return s;
}

status config_load(const char *path, char **overrides, int n, config *out) {
    memset(out, 0, sizeof *out);
    tree_node *root = NULL;
    if (path)
        TRY(tree_read_file(path, &root));
    else if (!(root = tree_empty()))
        return STATUS_MEMORY;
    status s = STATUS_OK;
    for (int i = 0; i < n && s == STATUS_OK; i++) s = tree_override(root, overrides[i]);
    if (s == STATUS_OK) s = load_tree(root, path ? path : "command line", out);
    tree_free(root);
    return finish(s, out);
}

status config_load_text(const char *words, size_t bytes, const char *name, config *out) {
    memset(out, 0, sizeof *out);
    tree_node *root;
    TRY(tree_read_text(words, bytes, name, &root));
    status s = root && root->shape == SHAPE_MAP
                   ? load_tree(root, name, out)
                   : status_fail(STATUS_USAGE, "%s: no keys in it", name);
    tree_free(root);
    return finish(s, out);
}

/* Keys with the same reason stand together, in the order of their first. */
char *config_ignored_line(const config *c) {
    if (!c->ignored.count) return NULL;
    text t = {0};
    text_add(&t, "ignored, without effect on the result:");
    for (size_t i = 0; i < c->ignored.count; i++) {
        const char *reason = strchr(c->ignored.items[i], ':');
        size_t first = 0;
        while (strcmp(strchr(c->ignored.items[first], ':'), reason)) first++;
        if (first < i) continue; /* already said */
        text_add(&t, i ? ";" : "");
        for (size_t j = i; j < c->ignored.count; j++) {
            const char *item = c->ignored.items[j], *colon = strchr(item, ':');
            if (!strcmp(colon, reason))
                text_addf(&t, "%s %.*s", j > i ? "," : "", (int)(colon - item), item);
        }
        text_addf(&t, " (%s)", reason + 2);
    }
    return text_take(&t);
}
