/* load.c: a row's JSON as values. Texts are not copied; each string gets the mark of where it
 * stands in the row. */
#include "common/alloc.h"
#include "data/jinja/ast.h"

#include <string.h>

typedef struct jinja_loaded {
    const json_t *settings, *data;
    dict *values; /* of data */
    dict *trusted;
} loaded;

typedef struct loading {
    machine m;
    uint32_t message; /* its index + 1; 0: none */
    const char *field;
    bool trusted;
    int depth;
} loading;

static status load_value(loading *l, const json_t *json, value *out);

/* The string's mark; all strings of a message's field share none: each is a source. */
static status mark(loading *l, string *s) {
    jinja_rendering *r = l->m.r;
    if (l->trusted || !s->bytes) return STATUS_OK;
    if (mem_grow(&r->sources, &r->source_capacity, r->source_count + 1, sizeof *r->sources,
                 "a row's texts"))
        return STATUS_MEMORY;
    jinja_source *source = &r->sources[r->source_count++];
    *source = (jinja_source){.field = l->field, .message = (int32_t)l->message - 1};
    jinja_run *run;
    TRY(jinja_new(&l->m, sizeof *run, &run));
    *run = (jinja_run){.bytes = s->bytes, .source = (uint32_t)r->source_count};
    s->runs = run, s->run_count = 1;
    return STATUS_OK;
}

static status load_string(loading *l, const char *text, size_t bytes, value *out) {
    string *s;
    if (bytes > JINJA_OUTPUT)
        return jinja_raise(&l->m, "MemoryError", "a text of more than %d MiB",
                           JINJA_OUTPUT >> 20);
    TRY(jinja_new(&l->m, sizeof *s, &s));
    *s = (string){.text = text, .bytes = (uint32_t)bytes, .chars = UNCOUNTED};
    *out = STRING(s);
    return mark(l, s);
}

static status load_list(loading *l, const json_t *json, value *out) {
    list *made;
    TRY(jinja_make_list(&l->m, json_array_size(json), &made));
    for (size_t i = 0; i < made->count; i++)
        TRY(load_value(l, json_array_get(json, i), &made->items[i]));
    *out = LIST(made);
    return STATUS_OK;
}

static status load_pair(loading *l, dict *d, const char *key, const json_t *json) {
    value name, v;
    TRY(load_string(l, key, strlen(key), &name));
    TRY(load_value(l, json, &v));
    return jinja_dict_append(&l->m, d, name, v, jinja_string_hash(name.string));
}

static status load_dict(loading *l, const json_t *json, value *out) {
    dict *d;
    const char *key;
    json_t *item;
    TRY(jinja_dict_new(&l->m, json_object_size(json), &d));
    json_object_foreach((json_t *)json, key, item) TRY(load_pair(l, d, key, item));
    *out = DICT(d);
    return STATUS_OK;
}

static status load_value(loading *l, const json_t *json, value *out) {
    status s = STATUS_OK;
    if (++l->depth > 300)
        return jinja_raise(&l->m, "RecursionError", "the row is nested too deeply");
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        s = load_dict(l, json, out);
        break;
    case JSON_ARRAY:
        s = load_list(l, json, out);
        break;
    case JSON_STRING:
        s = load_string(l, json_string_value(json), json_string_length(json), out);
        break;
    case JSON_INTEGER:
        *out = INT(json_integer_value(json));
        break;
    case JSON_REAL:
        *out = REAL(json_real_value(json));
        break;
    case JSON_NULL:
        *out = NONE;
        break;
    default:
        *out = BOOL(json_is_true(json));
    }
    l->depth--;
    return s;
}

/* Messages one by one: their texts are marked with the number and the key. */
static status load_messages(loading *l, const json_t *json, value *out) {
    list *made;
    TRY(jinja_make_list(&l->m, json_array_size(json), &made));
    for (size_t i = 0; i < made->count; i++) {
        const json_t *message = json_array_get(json, i), *item;
        const char *key;
        dict *d;
        l->message = (uint32_t)i + 1;
        l->field = "";
        if (!json_is_object(message)) {
            TRY(load_value(l, message, &made->items[i]));
            continue;
        }
        TRY(jinja_dict_new(&l->m, json_object_size(message), &d));
        json_object_foreach((json_t *)message, key, item) {
            l->field = key;
            TRY(load_pair(l, d, key, item));
        }
        made->items[i] = DICT(d);
    }
    l->message = 0;
    *out = LIST(made);
    return STATUS_OK;
}

static status load_row(loading *l, const json_t *data, dict *d) {
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)data, key, item) {
        value name, v;
        l->trusted = true; /* the variable's own name */
        TRY(load_string(l, key, strlen(key), &name));
        l->trusted = false;
        l->field = key;
        if (!strcmp(key, "messages") && json_is_array(item))
            TRY(load_messages(l, item, &v));
        else
            TRY(load_value(l, item, &v));
        TRY(jinja_dict_append(&l->m, d, name, v, jinja_string_hash(name.string)));
    }
    return STATUS_OK;
}

status jinja_load(jinja_rendering *r, const json_t *settings, const json_t *data) {
    jinja_arena_reset(&r->arena);
    r->source_count = 0;
    r->text = "", r->bytes = 0, r->runs = NULL, r->run_count = 0;
    *r->error = 0;
    loading l = {.m = {.r = r}};
    value trusted;
    TRY(jinja_new(&l.m, sizeof *r->loaded, &r->loaded));
    *r->loaded = (loaded){.settings = settings, .data = data};
    TRY(jinja_dict_new(&l.m, json_object_size(data), &r->loaded->values));
    TRY(load_row(&l, data, r->loaded->values));
    l.trusted = true;
    TRY(load_dict(&l, settings, &trusted));
    r->loaded->trusted = trusted.dict;
    return STATUS_OK;
}

status jinja_variable(machine *m, const variable *v, value *out) {
    const loaded *l = m->r->loaded;
    value name = STRING(v->name);
    if (v->kind == VARIABLE_PROMPT) {
        *out = BOOL(m->prompt);
        return STATUS_OK;
    }
    const pair *p = jinja_dict_find(l->values, &name, v->name->hash);
    if (!p) p = jinja_dict_find(l->trusted, &name, v->name->hash);
    *out = p             ? p->value
           : v->function ? (value){.kind = V_FUNCTION, .function = v->function}
                         : MISSING;
    if (v->kind == VARIABLE_MESSAGES && out->kind == V_LIST &&
        m->list_count < out->list->count) {
        list *cut;
        TRY(jinja_make_list(m, 0, &cut));
        cut->items = out->list->items;
        cut->count = m->list_count;
        *out = LIST(cut);
    }
    return STATUS_OK;
}

void jinja_rendering_free(jinja_rendering *r) {
    jinja_arena_free(&r->arena);
    mem_free(r->sources);
    memset(r, 0, sizeof *r);
}
