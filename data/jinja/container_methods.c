/* container_methods.c: the methods of dict, list and tuple that change nothing, and finding a
 * method by its name. */
#include "data/jinja/loop.h"
#include "data/jinja/strings.h"

#include <string.h>

static status view_of(machine *m, value self, int of, value *out) {
    view *v;
    TRY(jinja_new(m, sizeof *v, &v));
    *v = (view){.dict = self.dict, .of = of};
    *out = (value){.kind = V_VIEW, .view = v};
    return STATUS_OK;
}

static status keys(machine *m, value self, value *a, value *out) {
    return view_of(m, self, VIEW_KEYS, out);
}
static status values(machine *m, value self, value *a, value *out) {
    return view_of(m, self, VIEW_VALUES, out);
}
static status items(machine *m, value self, value *a, value *out) {
    return view_of(m, self, VIEW_ITEMS, out);
}

static status get(machine *m, value self, value *a, value *out) {
    uint32_t hash = 0;
    TRY(jinja_hash(m, &a[0], &hash));
    const pair *p = jinja_dict_find(self.dict, &a[0], hash);
    *out = p ? p->value : a[1].kind == V_MISSING ? NONE : a[1];
    return STATUS_OK;
}

static status copy(machine *m, value self, value *a, value *out) {
    *out = self; /* nothing can change it */
    return STATUS_OK;
}

static status count(machine *m, value self, value *a, value *out) {
    int64_t n = 0;
    TRY(jinja_step(m, self.list->count));
    for (size_t i = 0; i < self.list->count; i++)
        n += jinja_equal(&self.list->items[i], &a[0]);
    *out = INT(n);
    return STATUS_OK;
}

static status index_of(machine *m, value self, value *a, value *out) {
    int64_t n = (int64_t)self.list->count, from, to;
    TRY(jinja_take_integer(m, &a[1], 0, &from));
    TRY(jinja_take_integer(m, &a[2], n, &to));
    if (from < 0) from = from + n < 0 ? 0 : from + n;
    if (to < 0) to += n;
    TRY(jinja_step(m, self.list->count));
    for (int64_t i = from; i < to && i < n; i++)
        if (jinja_equal(&self.list->items[i], &a[0])) {
            *out = INT(i);
            return STATUS_OK;
        }
    if (self.kind == V_TUPLE)
        return jinja_raise(m, "ValueError", "tuple.index(x): x not in tuple");
    builder b = {0};
    value what;
    TRY(jinja_put_repr(m, &b, a[0]));
    TRY(jinja_build(m, &b, &what));
    return jinja_raise(m, "ValueError", "%.*s is not in list", (int)what.string->bytes,
                       what.string->text);
}

const builtin jinja_dict_methods[] = {
    {"copy", copy, {0}, 0, NULL},     {"get", get, {"key", "default"}, 1, NULL},
    {"items", items, {0}, 0, NULL},   {"keys", keys, {0}, 0, NULL},
    {"values", values, {0}, 0, NULL}, {0}};

const builtin jinja_list_methods[] = {{"count", count, {"value"}, 1, NULL},
                                      {"index", index_of, {"value", "start", "stop"}, 1, NULL},
                                      {"copy", copy, {0}, 0, NULL},
                                      {0}};

/* Python has these too; who calls one is told so. */
static status refuse(machine *m, value self, const arguments *a, value *out) {
    return jinja_unsupported(m, "this method of a %s", jinja_type(&self));
}

static const struct others {
    kind of;
    const char *names; /* with a space at each end */
} others[] = {
    {V_STRING, " casefold encode expandtabs format_map isidentifier isprintable maketrans "
               "translate "},
    {V_DICT, " fromkeys "},
    {V_INT, " as_integer_ratio bit_count bit_length conjugate denominator from_bytes imag "
            "numerator real to_bytes "},
    {V_BOOL, " as_integer_ratio bit_count bit_length conjugate denominator from_bytes imag "
             "numerator real to_bytes "},
    {V_REAL, " as_integer_ratio conjugate fromhex hex imag is_integer real "},
    {V_RANGE, " count index start stop step "},
    {V_VIEW, " isdisjoint mapping "},
    {V_LAZY, " close send throw "},
};

static const builtin *find_refused(const value *of, const char *name) {
    static const builtin refused = {.name = "method", .variadic = refuse};
    size_t n = strlen(name);
    if (!n) return NULL; /* it would be found everywhere, and beyond the end */
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        const char *names = others[i].of == of->kind ? others[i].names : NULL;
        for (const char *p = names; p && (p = strstr(p, name)); p++)
            if (p[-1] == ' ' && p[n] == ' ') return &refused;
    }
    return NULL;
}

static const builtin *find_row(const builtin *rows, const char *name) {
    for (; rows->name; rows++)
        if (!strcmp(rows->name, name)) return rows;
    return NULL;
}

const builtin *jinja_find_method(const value *of, const char *name) {
    const builtin *row = NULL;
    if (of->kind == V_STRING)
        row = find_row(jinja_string_methods, name);
    else if (of->kind == V_DICT)
        row = find_row(jinja_dict_methods, name);
    else if (of->kind == V_LIST || of->kind == V_TUPLE)
        row = of->kind == V_TUPLE && !strcmp(name, "copy")
                  ? NULL
                  : find_row(jinja_list_methods, name);
    else if (of->kind == V_LOOP)
        row = jinja_loop_method(name);
    return row ? row : find_refused(of, name);
}

bool jinja_is_string_method(const builtin *b) {
    for (const builtin *row = jinja_string_methods; row->name; row++)
        if (row == b) return true;
    return false;
}
