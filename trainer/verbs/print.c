/* print.c: struct -> JSON by the schema, JSON -> YAML by hand, and comparison. */
#include "trainer/verbs/print.h"

#include "common/alloc.h"
#include "common/json.h"
#include "trainer/verbs/schema.h"
#include "trainer/verbs/text.h"
#include "trainer/verbs/values.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Struct to JSON; NULL when out of memory. */

static json_t *drop(json_t *half) {
    json_decref(half);
    return NULL;
}

static bool has_value(const field *f, const char *object) {
    const void *at = object + f->offset;
    const dataset_config *d = (const void *)object;
    switch (f->kind) {
    case FIELD_SECTION:
        return false;
    case FIELD_INT:
    case FIELD_BYTES:
        return *(const int64_t *)at != CONFIG_NOT_SET;
    case FIELD_REAL:
        return !isnan(*(const double *)at);
    case FIELD_TEXT:
        return *(char *const *)at != NULL;
    case FIELD_LIST:
        return ((const config_list *)at)->count > 0;
    case FIELD_MAP:
        return ((const config_map *)at)->count > 0;
    case FIELD_GROUPS:
        return ((const config_groups *)at)->count > 0;
    case FIELD_TABLES:
        return ((const dataset_list *)at)->count > 0;
    case FIELD_PROMPT:
        return d->type_is_mapping || d->type;
    default:
        return true;
    }
}

static json_t *table_json(const schema *s, const void *object);

static json_t *list_json(const config_list *list) {
    json_t *out = json_array();
    for (size_t i = 0; i < list->count; i++)
        if (json_array_append_new(out, json_string(list->items[i]))) return drop(out);
    return out;
}

static json_t *map_json(const config_map *map) {
    json_t *out = json_object();
    for (size_t i = 0; i < map->count; i++)
        if (json_object_set_new(out, map->items[i].key, json_string(map->items[i].value)))
            return drop(out);
    return out;
}

static json_t *groups_json(const config_groups *groups) {
    json_t *out = json_object();
    for (size_t i = 0; i < groups->count; i++)
        if (json_object_set_new(out, groups->items[i].key,
                                list_json(&groups->items[i].values)))
            return drop(out);
    return out;
}

static json_t *datasets_json(const schema *s, const dataset_list *list) {
    json_t *out = json_array();
    for (size_t i = 0; i < list->count; i++)
        if (json_array_append_new(out, table_json(s, &list->items[i]))) return drop(out);
    return out;
}

static json_t *choice_json(const char *choices, int i) {
    char name[32];
    value_choice_name(choices, i, name);
    if (!strcmp(name, "true") || !strcmp(name, "false"))
        return json_boolean(!strcmp(name, "true"));
    return json_string(name);
}

static json_t *field_json(const field *f, const char *object) {
    const void *at = object + f->offset;
    const dataset_config *d = (const void *)object;
    switch (f->kind) {
    case FIELD_BOOL:
        return json_boolean(*(const bool *)at);
    case FIELD_SWITCH:
        return choice_json("false|true|auto", *(const int *)at);
    case FIELD_ENUM:
        return choice_json(f->choices, *(const int *)at);
    case FIELD_INT:
    case FIELD_BYTES:
        return json_integer(*(const int64_t *)at);
    case FIELD_REAL:
        return json_real(*(const double *)at);
    case FIELD_TEXT:
        return json_string(*(char *const *)at);
    case FIELD_LIST:
        return list_json(at);
    case FIELD_MAP:
        return map_json(at);
    case FIELD_GROUPS:
        return groups_json(at);
    case FIELD_TABLE:
        return table_json(f->table, at);
    case FIELD_TABLES:
        return datasets_json(f->table, at);
    case FIELD_PROMPT:
        return d->type_is_mapping ? table_json(f->table, &d->prompt) : json_string(d->type);
    default:
        return NULL;
    }
}

/* A prompt's field that stands beside `type` and in the map under it is shown once. */
static bool shown_elsewhere(const schema *s, const field *f, const void *object) {
    const dataset_config *d = object;
    size_t begin = offsetof(dataset_config, prompt);
    return s == &schema_dataset && d->type_is_mapping && f->offset >= begin &&
           f->offset < begin + sizeof d->prompt;
}

static json_t *table_json(const schema *s, const void *object) {
    json_t *out = json_object();
    for (size_t i = 0; i < s->count && out; i++) {
        const field *f = &s->fields[i];
        if (f->flags & FIELD_FOLDED || !has_value(f, object) || shown_elsewhere(s, f, object))
            continue;
        if (json_object_set_new(out, f->name, field_json(f, object))) return drop(out);
    }
    return out;
}

json_t *config_to_json(const config *c) {
    return table_json(&schema_config, c);
}

/* JSON to YAML. */

/* The fewest digits that read back to the same number. */
static void add_real(text *t, double value) {
    char digits[40];
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value) break;
    }
    text_add(t, digits);
}

static bool is_plain(const char *words) {
    static const char *const reserved[] = {"null", "true", "false", "yes", "no", "on", "off"};
    if (!isalpha((unsigned char)*words) && !strchr("/_", *words))
        return *words == '.' && words[1] == '/';
    for (const char *p = words; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("_./-", *p)) return false;
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
        if (!strcasecmp(words, reserved[i])) return false;
    return true;
}

/* Double quotes, with escapes for what YAML would fold or refuse: controls and its other line
 * ends (U+0085, U+2028, U+2029). */
static void add_text(text *t, const char *words) {
    if (is_plain(words)) {
        text_add(t, words);
        return;
    }
    text_add(t, "\"");
    for (const unsigned char *p = (const unsigned char *)words; *p; p++) {
        if (*p == '"' || *p == '\\')
            text_addf(t, "\\%c", *p);
        else if (*p == '\n')
            text_add(t, "\\n");
        else if (*p < 0x20 || *p == 0x7f)
            text_addf(t, "\\x%02x", *p);
        else if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
            text_addf(t, "\\x%02x", p[1]), p++;
        else if (p[0] == 0xe2 && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9))
            text_addf(t, "\\u20%02x", p[2] - 0x80), p += 2;
        else if (p[0] == 0xef && p[1] == 0xbb && p[2] == 0xbf)
            text_add(t, "\\ufeff"), p += 2;
        else
            text_addf(t, "%c", *p);
    }
    text_add(t, "\"");
}

static void add_scalar(text *t, const json_t *value) {
    if (json_is_string(value))
        add_text(t, json_string_value(value));
    else if (json_is_real(value))
        add_real(t, json_real_value(value));
    else if (json_is_integer(value))
        text_addf(t, "%lld", (long long)json_integer_value(value));
    else
        text_add(t, json_is_true(value) ? "true" : "false");
}

static void add_flow(text *t, const json_t *list) {
    text_add(t, "[");
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (i) text_add(t, ", ");
        add_scalar(t, json_array_get(list, i));
    }
    text_add(t, "]");
}

/* The keys of a map, each on its line at `indent`; the first goes where the text stands. */
static void add_map(text *t, json_t *map, int indent) {
    const char *key;
    json_t *value;
    bool first = true;
    json_object_foreach(map, key, value) {
        if (!first) text_addf(t, "%*s", indent, "");
        first = false;
        add_text(t, key);
        text_add(t, ":");
        if (json_is_object(value) && json_object_size(value)) {
            text_addf(t, "\n%*s", indent + 2, "");
            add_map(t, value, indent + 2);
            continue;
        }
        if (json_is_array(value) && json_is_object(json_array_get(value, 0))) {
            text_add(t, "\n");
            for (size_t i = 0; i < json_array_size(value); i++) {
                text_addf(t, "%*s- ", indent + 2, "");
                add_map(t, json_array_get(value, i), indent + 4);
            }
            continue;
        }
        text_add(t, " ");
        if (json_is_array(value))
            add_flow(t, value);
        else if (json_is_object(value))
            text_add(t, "{}");
        else
            add_scalar(t, value);
        text_add(t, "\n");
    }
}

char *config_to_yaml(const config *c) {
    json_t *tree = config_to_json(c);
    if (!tree) return NULL;
    text t = {0};
    add_map(&t, tree, 0);
    json_decref(tree);
    return text_take(&t);
}

/* Comparison. */

static void add_value(text *t, const json_t *value) {
    if (!value)
        text_add(t, "not set");
    else if (json_is_object(value) || json_is_array(value)) {
        char *words = json_write_text(value, 0);
        text_add(t, words ? words : "?");
        mem_free(words);
    } else
        add_scalar(t, value);
}

static void compare_tables(text *t, const schema *s, const char *prefix, const json_t *before,
                           const json_t *now) {
    for (size_t i = 0; i < s->count; i++) {
        const field *f = &s->fields[i];
        if (f->kind == FIELD_SECTION || f->flags & (FIELD_FREE | FIELD_FOLDED)) continue;
        const json_t *a = json_object_get(before, f->name), *b = json_object_get(now, f->name);
        if (a == b || (a && b && json_equal(a, b))) continue;
        if (f->kind == FIELD_TABLE) {
            compare_tables(t, f->table, f->name, a, b);
            continue;
        }
        text_addf(t, "%s%s%s: ", prefix, *prefix ? "." : "", f->name);
        add_value(t, a);
        text_add(t, " -> ");
        add_value(t, b);
        text_add(t, "\n");
    }
}

status config_compare(const config *before, const config *now, char **out) {
    json_t *a = config_to_json(before), *b = config_to_json(now);
    text t = {0};
    if (a && b) compare_tables(&t, &schema_config, "", a, b);
    bool failed = !a || !b;
    json_decref(a);
    json_decref(b);
    *out = text_take(&t);
    return *out && !failed ? STATUS_OK : STATUS_MEMORY;
}
