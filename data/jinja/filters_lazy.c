/* filters_lazy.c: filters that are generators in Python: computed when first looked at, and
 * used up by the first who looks. */
#include "data/jinja/filters.h"

#include <string.h>

typedef status (*lazy_fill)(machine *m, lazy *l, list *out);

static status make(machine *m, value self, const arguments *a, lazy_fill fill, value *out) {
    TRY(jinja_make_lazy(m, "generator", self, out));
    lazy *l = out->lazy;
    l->fill = fill;
    if (!a) return STATUS_OK;
    l->arguments = *a; /* the arrays may be on the caller's stack */
    TRY(jinja_new(m, (a->count + 1) * sizeof *a->items, &l->arguments.items));
    TRY(jinja_new(m, (a->named_count + 1) * sizeof *a->named, &l->arguments.named));
    if (a->count) memcpy(l->arguments.items, a->items, a->count * sizeof *a->items);
    if (a->named_count)
        memcpy(l->arguments.named, a->named, a->named_count * sizeof *a->named);
    return STATUS_OK;
}

static value *named(const arguments *a, const char *name) {
    for (size_t i = 0; i < a->named_count; i++)
        if (a->names[i]->bytes == strlen(name) &&
            !memcmp(a->names[i]->text, name, a->names[i]->bytes))
            return &a->named[i];
    return NULL;
}

static status find_row(machine *m, const value *name, const builtin *(*find)(const char *),
                       const char *what, const builtin **out) {
    char text[64] = "";
    if (name->kind == V_STRING && name->string->bytes < sizeof text)
        memcpy(text, name->string->text, name->string->bytes);
    *out = find(text);
    if (*out) return STATUS_OK;
    return jinja_raise(m, "TemplateRuntimeError", "No %s named '%.60s'.", what, text);
}

static arguments after(const arguments *a, size_t n) {
    arguments rest = *a;
    rest.items += n, rest.count -= n;
    return rest;
}

/* ---- map ---- */

static status map_attribute(machine *m, lazy *l, const list *items, list *out) {
    const value *path = named(&l->arguments, "attribute"), none = NONE,
                *usual = named(&l->arguments, "default");
    if (l->arguments.named_count > 1 + (usual != NULL))
        return jinja_raise(m, "FilterArgumentError", "Unexpected keyword argument");
    for (size_t i = 0; i < items->count; i++) {
        TRY(jinja_attribute_path(m, items->items[i], path, usual ? usual : &none,
                                 &out->items[i]));
        TRY(jinja_step(m, 1));
    }
    return STATUS_OK;
}

static status fill_map(machine *m, lazy *l, list *out) {
    list *items, *made;
    const builtin *row;
    if (!jinja_truth(&l->source)) return STATUS_OK;
    TRY(jinja_iterate(m, l->source, &items));
    TRY(jinja_make_list(m, items->count, &made));
    *out = *made;
    if (!l->arguments.count && named(&l->arguments, "attribute"))
        return map_attribute(m, l, items, out);
    if (!l->arguments.count)
        return jinja_raise(m, "FilterArgumentError", "map requires a filter argument");
    TRY(find_row(m, &l->arguments.items[0], jinja_find_filter, "filter", &row));
    arguments rest = after(&l->arguments, 1);
    for (size_t i = 0; i < items->count; i++) {
        TRY(jinja_call_builtin(m, row, items->items[i], &rest, &out->items[i]));
        TRY(jinja_step(m, 1));
    }
    return STATUS_OK;
}

static status map(machine *m, value self, const arguments *a, value *out) {
    return make(m, self, a, fill_map, out);
}

/* ---- select, reject ---- */

static status fill_select(machine *m, lazy *l, list *out, bool keep, bool attribute) {
    list *items;
    size_t capacity = 0, off = attribute;
    const builtin *row = NULL;
    value none = NONE;
    if (!jinja_truth(&l->source)) return STATUS_OK;
    if (attribute && !l->arguments.count)
        return jinja_raise(m, "FilterArgumentError", "Missing parameter for attribute name");
    bool tested = l->arguments.count > off;
    if (tested) TRY(find_row(m, &l->arguments.items[off], jinja_find_test, "test", &row));
    arguments rest = tested ? after(&l->arguments, off + 1) : (arguments){0};
    TRY(jinja_iterate(m, l->source, &items));
    for (size_t i = 0; i < items->count; i++) {
        value v = items->items[i], answer;
        if (attribute) TRY(jinja_attribute_path(m, v, &l->arguments.items[0], &none, &v));
        answer = v;
        if (row) TRY(jinja_call_builtin(m, row, v, &rest, &answer));
        TRY(jinja_step(m, 1));
        if (jinja_truth(&answer) == keep)
            TRY(jinja_append(m, out, &capacity, items->items[i]));
    }
    return STATUS_OK;
}

#define SELECTION(name, keep, attribute)                                                      \
    static status fill_##name(machine *m, lazy *l, list *out) {                               \
        return fill_select(m, l, out, keep, attribute);                                       \
    }                                                                                         \
    static status name(machine *m, value self, const arguments *a, value *out) {              \
        return make(m, self, a, fill_##name, out);                                            \
    }
SELECTION(selected, true, false)
SELECTION(rejected, false, false)
SELECTION(selected_by, true, true)
SELECTION(rejected_by, false, true)

/* ---- others ---- */

/* A builtin with parameters keeps its bound arguments. */
static status make_bound(machine *m, value self, const value *a, size_t n, lazy_fill fill,
                         value *out) {
    arguments bound = {.items = (value *)a, .count = n};
    return make(m, self, &bound, fill, out);
}

static status fill_unique(machine *m, lazy *l, list *out) {
    list *items;
    dict *seen;
    size_t capacity = 0;
    const value *a = l->arguments.items;
    TRY(jinja_iterate(m, l->source, &items));
    TRY(jinja_dict_new(m, 0, &seen));
    for (size_t i = 0; i < items->count; i++) {
        value key, none[PARAMETERS] = {{0}};
        uint32_t hash = 0;
        TRY(jinja_attribute_path(m, items->items[i], &a[1], NULL, &key));
        if (key.kind == V_STRING && !jinja_truth(&a[0]))
            TRY(jinja_str_lower(m, key, none, &key));
        TRY(jinja_hash(m, &key, &hash));
        if (jinja_dict_find(seen, &key, hash)) continue;
        TRY(jinja_dict_append(m, seen, key, NONE, hash));
        TRY(jinja_append(m, out, &capacity, items->items[i]));
    }
    return STATUS_OK;
}

FILTER(unique) {
    return make_bound(m, self, a, 2, fill_unique, out);
}

static status fill_batch(machine *m, lazy *l, list *out) {
    list *items, *row = NULL;
    int64_t size;
    size_t capacity = 0, room = 0;
    const value *a = l->arguments.items;
    TRY(jinja_take_integer(m, &a[0], 0, &size));
    TRY(jinja_iterate(m, l->source, &items));
    if (size < 1 && items->count) return jinja_unsupported(m, "batches of less than one item");
    for (size_t i = 0; i < items->count; i++) {
        if (!row || row->count == (size_t)size) {
            TRY(jinja_make_list(m, 0, &row));
            TRY(jinja_append(m, out, &capacity, LIST(row)));
            room = 0;
        }
        TRY(jinja_append(m, row, &room, items->items[i]));
    }
    bool fill = a[1].kind != V_MISSING && a[1].kind != V_NONE;
    while (fill && row && row->count < (size_t)size) TRY(jinja_append(m, row, &room, a[1]));
    return STATUS_OK;
}

FILTER(batch) {
    return make_bound(m, self, a, 2, fill_batch, out);
}

static status fill_slice(machine *m, lazy *l, list *out) {
    list *items, *row;
    int64_t slices;
    size_t capacity = 0, at = 0;
    const value *a = l->arguments.items;
    bool fill = a[1].kind != V_MISSING && a[1].kind != V_NONE;
    TRY(jinja_take_integer(m, &a[0], 0, &slices));
    TRY(jinja_iterate(m, l->source, &items));
    if (!slices)
        return jinja_raise(m, "ZeroDivisionError", "integer division or modulo by zero");
    size_t each = slices > 0 ? items->count / (size_t)slices : 0,
           more = slices > 0 ? items->count % (size_t)slices : 0;
    for (int64_t i = 0; i < slices; i++) {
        size_t n = each + ((size_t)i < more), room = 0;
        TRY(jinja_make_list(m, 0, &row));
        for (size_t k = 0; k < n; k++) TRY(jinja_append(m, row, &room, items->items[at++]));
        if (fill && (size_t)i >= more) TRY(jinja_append(m, row, &room, a[1]));
        TRY(jinja_append(m, out, &capacity, LIST(row)));
    }
    return STATUS_OK;
}

FILTER(slice) {
    return make_bound(m, self, a, 2, fill_slice, out);
}

static status fill_items(machine *m, lazy *l, list *out) {
    list *items;
    view v = {.dict = l->source.dict, .of = VIEW_ITEMS};
    if (l->source.kind == V_UNDEFINED) return STATUS_OK;
    if (l->source.kind != V_DICT)
        return jinja_raise(m, "TypeError", "Can only get item pairs from a mapping.");
    TRY(jinja_iterate(m, (value){.kind = V_VIEW, .view = &v}, &items));
    *out = *items;
    return STATUS_OK;
}

FILTER(items) {
    return make(m, self, NULL, fill_items, out);
}

static status fill_reverse(machine *m, lazy *l, list *out) {
    list *items, *made;
    TRY(jinja_iterate(m, l->source, &items));
    TRY(jinja_make_list(m, items->count, &made));
    *out = *made;
    for (size_t i = 0; i < items->count; i++)
        out->items[i] = items->items[items->count - 1 - i];
    return STATUS_OK;
}

FILTER(reverse) {
    static const char *const types[] = {[V_UNDEFINED] = "reversed",
                                        [V_LIST] = "list_reverseiterator",
                                        [V_TUPLE] = "reversed",
                                        [V_RANGE] = "range_iterator",
                                        [V_DICT] = "dict_reversekeyiterator",
                                        [V_VIEW] = "reversed"};
    if (self.kind == V_STRING) {
        value bounds[3] = {NONE, NONE, INT(-1)};
        return jinja_slice(m, self, bounds, out);
    }
    if (!jinja_can_iterate(&self))
        return jinja_raise(m, "FilterArgumentError", "argument must be iterable");
    if (self.kind == V_LAZY) { /* a list then */
        lazy l = {.source = self};
        list *made;
        TRY(jinja_make_list(m, 0, &made));
        *out = LIST(made);
        return fill_reverse(m, &l, made);
    }
    TRY(make(m, self, NULL, fill_reverse, out));
    out->lazy->type = types[self.kind];
    return STATUS_OK;
}

const builtin jinja_lazy_filters[] = {
    {"batch", batch, {"linecount", "fill_with"}, 1, NULL},
    {"items", items, {0}, 0, NULL},
    {"map", NULL, {0}, 0, map},
    {"reject", NULL, {0}, 0, rejected},
    {"rejectattr", NULL, {0}, 0, rejected_by},
    {"reverse", reverse, {0}, 0, NULL},
    {"select", NULL, {0}, 0, selected},
    {"selectattr", NULL, {0}, 0, selected_by},
    {"slice", slice, {"slices", "fill_with"}, 1, NULL},
    {"unique", unique, {"case_sensitive", "attribute"}, 0, NULL},
    {0}};
