/* value.c: what Python does with any value: truth, equality, order, `in`, len, iteration. */
#include "data/jinja/text.h"
#include "data/jinja/loop.h"
#include "data/unicode.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- memory, steps, failures ---- */

static status too_large(machine *m) {
    return jinja_raise(m, "MemoryError", "the values of this row take more than %d MiB",
                       JINJA_MEMORY >> 20);
}

status jinja_new(machine *m, size_t bytes, void *out) {
    jinja_arena *a = &m->r->arena;
    if (bytes > JINJA_MEMORY || a->used + bytes > JINJA_MEMORY) return too_large(m);
    void *memory = jinja_allocate(a, bytes);
    if (!memory) return STATUS_MEMORY;
    memcpy(out, &memory, sizeof memory);
    return STATUS_OK;
}

status jinja_new_text(machine *m, size_t bytes, char **out) {
    jinja_arena *a = &m->r->arena;
    if (bytes > JINJA_MEMORY || a->used + bytes > JINJA_MEMORY) return too_large(m);
    *out = jinja_allocate_text(a, bytes);
    return *out ? STATUS_OK : STATUS_MEMORY;
}

status jinja_too_long(machine *m) {
    return jinja_raise(m, "RuntimeError", "more than %d steps: does a loop end?", JINJA_STEPS);
}

status jinja_raise(machine *m, const char *type, const char *format, ...) {
    char *out = m->r->error;
    size_t room = sizeof m->r->error;
    int n = snprintf(out, room, "%s: ", type);
    va_list list;
    va_start(list, format);
    vsnprintf(out + n, room - (size_t)n, format, list);
    va_end(list);
    size_t bytes = strlen(out); /* a message that is cut is cut between characters */
    out[utf8_valid(out, bytes)] = 0;
    return status_fail(STATUS_DATA, "the chat template, line %d: %s", m->line, out);
}

status jinja_unsupported(machine *m, const char *format, ...) {
    char what[300];
    va_list list;
    va_start(list, format);
    vsnprintf(what, sizeof what, format, list);
    va_end(list);
    return jinja_raise(m, "NotImplementedError", "%s, which is not supported here", what);
}

/* jinja2's object_type_repr. */
static const char *object_name(const value *v, char out[80]) {
    if (v->kind == V_NONE) return "None";
    if (v->kind == V_NAMESPACE) return "jinja2.utils.Namespace object";
    snprintf(out, 80, "%s object", jinja_type(v));
    return out;
}

status jinja_raise_undefined(machine *m, const undefined *u) {
    char of[80];
    value name;
    const char *type = u->unsafe ? "SecurityError" : "UndefinedError";
    builder b = {0};
    if (u->hint) return jinja_raise(m, type, "%s", u->hint);
    TRY(jinja_put_repr(m, &b, u->name));
    TRY(jinja_build(m, &b, &name));
    int n = (int)name.string->bytes;
    const char *text = name.string->text;
    if (u->unsafe)
        return jinja_raise(m, type, "access to attribute %.*s of '%s' object is unsafe.", n,
                           text, jinja_type(&u->of));
    if (u->of.kind == V_MISSING) return jinja_raise(m, type, "%.*s is undefined", n, text);
    if (u->name.kind != V_STRING)
        return jinja_raise(m, type, "%s has no element %.*s", object_name(&u->of, of), n,
                           text);
    return jinja_raise(m, type, "'%s' has no attribute %.*s", object_name(&u->of, of), n,
                       text);
}

status jinja_make_undefined(machine *m, value of, value name, const char *hint, value *out) {
    undefined *u = NULL;
    TRY(jinja_new(m, sizeof *u, &u));
    *u = (undefined){.hint = hint, .of = of, .name = name};
    *out = (value){.kind = V_UNDEFINED, .undefined = u};
    return STATUS_OK;
}

status jinja_make_list(machine *m, size_t count, list **out) {
    TRY(jinja_new(m, sizeof **out, out));
    (*out)->count = count;
    return count ? jinja_new(m, count * sizeof(value), &(*out)->items) : STATUS_OK;
}

status jinja_make_pair(machine *m, value a, value b, value *out) {
    list *l = NULL;
    TRY(jinja_make_list(m, 2, &l));
    l->items[0] = a, l->items[1] = b;
    *out = TUPLE(l);
    return STATUS_OK;
}

status jinja_append(machine *m, list *l, size_t *capacity, value v) {
    if (l->count == *capacity) {
        size_t more = *capacity ? *capacity * 2 : 8;
        value *items = NULL;
        TRY(jinja_new(m, more * sizeof *items, &items));
        if (l->count) memcpy(items, l->items, l->count * sizeof *items);
        l->items = items, *capacity = more;
    }
    l->items[l->count++] = v;
    return jinja_step(m, 1);
}

/* ---- what it is ---- */

bool jinja_is(const value *v, kind k) {
    return v->kind == k;
}

const char *jinja_type(const value *v) {
    static const char *const names[] = {[V_MISSING] = "missing",
                                        [V_UNDEFINED] = "Undefined",
                                        [V_NONE] = "NoneType",
                                        [V_BOOL] = "bool",
                                        [V_INT] = "int",
                                        [V_REAL] = "float",
                                        [V_STRING] = "str",
                                        [V_LIST] = "list",
                                        [V_TUPLE] = "tuple",
                                        [V_DICT] = "dict",
                                        [V_RANGE] = "range",
                                        [V_NAMESPACE] = "Namespace",
                                        [V_LOOP] = "LoopContext",
                                        [V_MACRO] = "Macro",
                                        [V_METHOD] = "builtin_function_or_method",
                                        [V_FUNCTION] = "function"};
    static const char *const views[] = {"dict_keys", "dict_values", "dict_items"};
    if (v->kind == V_VIEW) return views[v->view->of];
    return v->kind == V_LAZY ? v->lazy->type : names[v->kind];
}

bool jinja_truth(const value *v) {
    switch (v->kind) {
    case V_MISSING:
    case V_UNDEFINED:
    case V_NONE:
        return false;
    case V_BOOL:
        return v->truth;
    case V_INT:
        return v->integer != 0;
    case V_REAL:
        return v->real != 0;
    case V_STRING:
        return v->string->bytes != 0;
    case V_LIST:
    case V_TUPLE:
        return v->list->count != 0;
    case V_DICT:
        return v->dict->count != 0;
    case V_RANGE:
        return v->range->count != 0;
    case V_VIEW:
        return v->view->dict->count != 0;
    default:
        return true;
    }
}

bool jinja_integer(const value *v, int64_t *out) {
    if (v->kind == V_BOOL)
        *out = v->truth;
    else if (v->kind == V_INT)
        *out = v->integer;
    return v->kind == V_BOOL || v->kind == V_INT;
}

bool jinja_number(const value *v, double *out) {
    int64_t i;
    if (v->kind == V_REAL)
        *out = v->real;
    else if (jinja_integer(v, &i))
        *out = (double)i;
    else
        return false;
    return true;
}

/* ---- equality and order ---- */

static bool equal_lists(const list *a, const list *b) {
    if (a->count != b->count) return false;
    for (size_t i = 0; i < a->count; i++)
        if (!jinja_equal(&a->items[i], &b->items[i])) return false;
    return true;
}

static bool equal_dicts(const dict *a, const dict *b) {
    if (a->count != b->count) return false;
    for (size_t i = 0; i < a->count; i++) {
        const pair *p = jinja_dict_find(b, &a->pairs[i].key, a->pairs[i].hash);
        if (!p || !jinja_equal(&p->value, &a->pairs[i].value)) return false;
    }
    return true;
}

bool jinja_equal(const value *a, const value *b) {
    int64_t x, y;
    double p, q;
    if (jinja_integer(a, &x) && jinja_integer(b, &y)) return x == y;
    if (jinja_number(a, &p) && jinja_number(b, &q)) return p == q;
    if (a->kind != b->kind) return false;
    switch (a->kind) {
    case V_UNDEFINED:
    case V_NONE:
        return true;
    case V_STRING:
        return jinja_string_equal(a->string, b->string);
    case V_LIST:
    case V_TUPLE:
        return equal_lists(a->list, b->list);
    case V_DICT:
        return equal_dicts(a->dict, b->dict);
    case V_RANGE:
        return a->range->count == b->range->count &&
               (!a->range->count ||
                (a->range->start == b->range->start &&
                 (a->range->count == 1 || a->range->step == b->range->step)));
    case V_METHOD:
        return a->method->row == b->method->row &&
               jinja_equal(&a->method->self, &b->method->self);
    default:
        return a->undefined == b->undefined; /* the same object */
    }
}

static int order_of(const string *a, const string *b) {
    uint32_t n = a->bytes < b->bytes ? a->bytes : b->bytes;
    int o = memcmp(a->text, b->text, n); /* of UTF-8 is that of code points */
    return o ? o : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

static status compare_lists(machine *m, const list *a, const list *b, const char *sign,
                            int *order) {
    for (size_t i = 0; i < a->count && i < b->count; i++) {
        TRY(jinja_step(m, 1));
        if (!jinja_equal(&a->items[i], &b->items[i]))
            return jinja_compare(m, &a->items[i], &b->items[i], sign, order);
    }
    *order = (a->count > b->count) - (a->count < b->count);
    return STATUS_OK;
}

status jinja_compare(machine *m, const value *a, const value *b, const char *sign,
                     int *order) {
    int64_t x, y;
    double p, q;
    if (jinja_integer(a, &x) && jinja_integer(b, &y)) {
        *order = (x > y) - (x < y);
    } else if (jinja_number(a, &p) && jinja_number(b, &q)) {
        *order = isnan(p) || isnan(q) ? 2 : (p > q) - (p < q);
    } else if (a->kind == V_STRING && b->kind == V_STRING) {
        *order = order_of(a->string, b->string);
        *order = (*order > 0) - (*order < 0);
    } else if ((a->kind == V_LIST || a->kind == V_TUPLE) && a->kind == b->kind) {
        return compare_lists(m, a->list, b->list, sign, order);
    } else if (a->kind == V_UNDEFINED || b->kind == V_UNDEFINED) {
        return jinja_raise_undefined(m, (a->kind == V_UNDEFINED ? a : b)->undefined);
    } else {
        return jinja_raise(m, "TypeError",
                           "'%s' not supported between instances of '%s' and '%s'", sign,
                           jinja_type(a), jinja_type(b));
    }
    return STATUS_OK;
}

static status contains_key(machine *m, const dict *d, const value *key, bool *out) {
    uint32_t hash = 0;
    TRY(jinja_hash(m, key, &hash));
    *out = jinja_dict_find(d, key, hash) != NULL;
    return STATUS_OK;
}

static status contains_item(machine *m, value a, value b, bool *out) {
    list *l;
    *out = false;
    if (!jinja_can_iterate(&b))
        return jinja_raise(m, "TypeError", "argument of type '%s' is not iterable",
                           jinja_type(&b));
    TRY(jinja_iterate(m, b, &l));
    TRY(jinja_step(m, l->count));
    for (size_t i = 0; i < l->count && !*out; i++) *out = jinja_equal(&l->items[i], &a);
    return STATUS_OK;
}

status jinja_contains(machine *m, value a, value b, bool *out) {
    if (b.kind == V_STRING) {
        if (a.kind != V_STRING)
            return jinja_raise(m, "TypeError",
                               "'in <string>' requires string as left operand, not %s",
                               jinja_type(&a));
        TRY(jinja_step(m, b.string->bytes / 64));
        *out = jinja_find(b.string, a.string, 0) != SIZE_MAX;
        return STATUS_OK;
    }
    if (b.kind == V_DICT) return contains_key(m, b.dict, &a, out);
    if (b.kind == V_VIEW && b.view->of == VIEW_KEYS)
        return contains_key(m, b.view->dict, &a, out);
    if (b.kind == V_UNDEFINED) {
        *out = false;
        return STATUS_OK;
    }
    return contains_item(m, a, b, out);
}

/* ---- length and iteration ---- */

bool jinja_length(machine *m, const value *v, int64_t *out) {
    switch (v->kind) {
    case V_UNDEFINED:
        *out = 0;
        return true;
    case V_STRING:
        *out = jinja_chars(v->string);
        return true;
    case V_LIST:
    case V_TUPLE:
        *out = (int64_t)v->list->count;
        return true;
    case V_DICT:
        *out = (int64_t)v->dict->count;
        return true;
    case V_VIEW:
        *out = (int64_t)v->view->dict->count;
        return true;
    case V_RANGE:
        *out = v->range->count;
        return true;
    case V_LOOP:
        return jinja_loop_length(m, v->loop, out) == STATUS_OK;
    default:
        return false;
    }
}

bool jinja_can_iterate(const value *v) {
    switch (v->kind) {
    case V_UNDEFINED:
    case V_STRING:
    case V_LIST:
    case V_TUPLE:
    case V_DICT:
    case V_VIEW:
    case V_RANGE:
    case V_LAZY:
        return true;
    default:
        return false;
    }
}

/* One character as a string; plain ASCII ones are made once. */
static status character(machine *m, string *s, size_t from, size_t to, value *out) {
    unsigned char c = (unsigned char)s->text[from];
    if (s->runs || c >= 0x80) return jinja_part(m, s, from, to, out);
    if (!m->bytes[c]) TRY(jinja_string_new(m, s->text + from, 1, &m->bytes[c]));
    *out = STRING(m->bytes[c]);
    return STATUS_OK;
}

static status iterate_string(machine *m, string *s, list **out) {
    TRY(jinja_make_list(m, jinja_chars(s), out));
    size_t at = 0;
    for (size_t i = 0; i < (*out)->count; i++) {
        size_t n = utf8_length((unsigned char)s->text[at]);
        TRY(character(m, s, at, at + n, &(*out)->items[i]));
        at += n;
    }
    return STATUS_OK;
}

static status iterate_dict(machine *m, const dict *d, int of, list **out) {
    TRY(jinja_make_list(m, d->count, out));
    for (size_t i = 0; i < d->count; i++) {
        value *item = &(*out)->items[i];
        const pair *p = &d->pairs[i];
        if (of == VIEW_ITEMS)
            TRY(jinja_make_pair(m, p->key, p->value, item));
        else
            *item = of == VIEW_KEYS ? p->key : p->value;
    }
    return STATUS_OK;
}

static status iterate_lazy(machine *m, lazy *l, list **out) {
    if (!l->filled) {
        l->filled = true; /* also one that fails, or looks at itself */
        TRY(l->fill(m, l, &l->items));
    }
    TRY(jinja_make_list(m, 0, out));
    (*out)->items = l->at ? l->items.items + l->at : l->items.items;
    (*out)->count = l->items.count - l->at;
    l->at = l->items.count;
    return STATUS_OK;
}

status jinja_iterate(machine *m, value v, list **out) {
    int64_t n = 0;
    if (v.kind != V_LAZY && jinja_can_iterate(&v) && jinja_length(m, &v, &n))
        TRY(jinja_step(m, (uint64_t)n / 4));
    switch (v.kind) {
    case V_UNDEFINED:
        return jinja_make_list(m, 0, out);
    case V_STRING:
        return iterate_string(m, v.string, out);
    case V_LIST:
    case V_TUPLE:
        *out = v.list;
        return STATUS_OK;
    case V_DICT:
        return iterate_dict(m, v.dict, VIEW_KEYS, out);
    case V_VIEW:
        return iterate_dict(m, v.view->dict, v.view->of, out);
    case V_RANGE:
        TRY(jinja_make_list(m, (size_t)v.range->count, out));
        for (int64_t i = 0; i < v.range->count; i++)
            (*out)->items[i] = INT(v.range->start + i * v.range->step);
        return STATUS_OK;
    case V_LAZY:
        return iterate_lazy(m, v.lazy, out);
    default:
        return jinja_raise(m, "TypeError", "'%s' object is not iterable", jinja_type(&v));
    }
}

status jinja_make_lazy(machine *m, const char *type, value source, value *out) {
    lazy *l = NULL;
    TRY(jinja_new(m, sizeof *l, &l));
    *l = (lazy){.type = type, .source = source};
    *out = (value){.kind = V_LAZY, .lazy = l};
    return STATUS_OK;
}
