/* filters_sequence.c: filters of sequences that give their result at once. */
#include "data/jinja/filters.h"

#include <string.h>

/* ---- attributes by path ---- */

static bool is_number(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (text[i] < '0' || text[i] > '9') return false;
    return n > 0 && n < 18;
}

status jinja_attribute_path(machine *m, value of, const value *path, const value *usual,
                            value *out) {
    *out = of;
    if (path->kind == V_MISSING || path->kind == V_NONE) return STATUS_OK;
    if (path->kind != V_STRING) {
        TRY(jinja_getitem(m, of, *path, out));
    } else {
        const string *s = path->string;
        for (size_t at = 0, end; at <= s->bytes; at = end + 1) {
            const char *dot = memchr(s->text + at, '.', s->bytes - at);
            end = dot ? (size_t)(dot - s->text) : s->bytes;
            value part;
            TRY(jinja_part(m, (string *)s, at, end, &part));
            if (is_number(s->text + at, end - at)) {
                int64_t i = 0;
                for (size_t k = at; k < end; k++) i = i * 10 + (s->text[k] - '0');
                part = INT(i);
            }
            TRY(jinja_getitem(m, *out, part, out));
            if (out->kind == V_UNDEFINED && usual && usual->kind != V_MISSING &&
                usual->kind != V_NONE)
                *out = *usual;
        }
        return STATUS_OK;
    }
    if (out->kind == V_UNDEFINED && usual && usual->kind != V_MISSING && usual->kind != V_NONE)
        *out = *usual;
    return STATUS_OK;
}

static status fold_case(machine *m, bool sensitive, value *v) {
    value none[PARAMETERS] = {{0}};
    return sensitive || v->kind != V_STRING ? STATUS_OK : jinja_str_lower(m, *v, none, v);
}

/* ---- ends and sums ---- */

FILTER(first) {
    list *l;
    TRY(jinja_iterate(m, self, &l));
    if (self.kind == V_LAZY && l->count) self.lazy->at -= l->count - 1; /* the others stay */
    if (l->count) {
        *out = l->items[0];
        return STATUS_OK;
    }
    return jinja_make_undefined(m, MISSING, NONE, "No first item, sequence was empty.", out);
}

FILTER(last) {
    list *l;
    if (self.kind == V_UNDEFINED || self.kind == V_LAZY)
        return jinja_raise(m, "TypeError", "'%s' object is not reversible", jinja_type(&self));
    if (!jinja_can_iterate(&self))
        return jinja_raise(m, "TypeError", "'%s' object is not reversible", jinja_type(&self));
    TRY(jinja_iterate(m, self, &l));
    if (l->count) {
        *out = l->items[l->count - 1];
        return STATUS_OK;
    }
    return jinja_make_undefined(m, MISSING, NONE, "No last item, sequence was empty.", out);
}

FILTER(join) {
    list *l;
    string *mark, *s;
    builder b = {0};
    value item;
    TRY(jinja_iterate(m, self, &l));
    value empty;
    TRY(jinja_word(m, "", &empty));
    TRY(jinja_text(m, a[0].kind == V_MISSING ? empty : a[0], &mark));
    for (size_t i = 0; i < l->count; i++) {
        TRY(jinja_attribute_path(m, l->items[i], &a[1], NULL, &item));
        TRY(jinja_text(m, item, &s));
        if (i) TRY(jinja_put_string(m, &b, mark));
        TRY(jinja_put_string(m, &b, s));
    }
    TRY(jinja_step(m, l->count + b.bytes / 64));
    return jinja_build(m, &b, out);
}

FILTER(to_list) {
    list *l;
    TRY(jinja_iterate(m, self, &l));
    *out = LIST(l);
    return STATUS_OK;
}

FILTER(sum) {
    list *l;
    value item;
    TRY(jinja_iterate(m, self, &l));
    *out = a[1].kind == V_MISSING ? INT(0) : a[1];
    if (out->kind == V_STRING)
        return jinja_raise(m, "TypeError",
                           "sum() can't sum strings [use ''.join(seq) instead]");
    for (size_t i = 0; i < l->count; i++) {
        TRY(jinja_attribute_path(m, l->items[i], &a[0], NULL, &item));
        TRY(jinja_arithmetic(m, SIGN_ADD, *out, item, out));
        TRY(jinja_step(m, 1));
    }
    return STATUS_OK;
}

static status extreme(machine *m, value self, const value *a, const char *sign, value *out) {
    list *l;
    value best = NONE, key;
    TRY(jinja_iterate(m, self, &l));
    if (!l->count)
        return jinja_make_undefined(m, MISSING, NONE,
                                    "No aggregated item, sequence was empty.", out);
    for (size_t i = 0; i < l->count; i++) {
        int order = *sign == '<' ? -1 : 1;
        TRY(jinja_attribute_path(m, l->items[i], &a[1], NULL, &key));
        TRY(fold_case(m, jinja_truth(&a[0]), &key));
        if (i) TRY(jinja_compare(m, &key, &best, sign, &order));
        if (!i || (*sign == '<' ? order < 0 : order == 1)) *out = l->items[i], best = key;
        TRY(jinja_step(m, 1));
    }
    return STATUS_OK;
}

FILTER(least) {
    return extreme(m, self, a, "<", out);
}
FILTER(most) {
    return extreme(m, self, a, ">", out);
}

/* ---- sorting ---- */

typedef struct sort_item {
    value key, value;
} sort_item;

/* Keys of `sort` are lists of values: equal ones need no order. */
static status compare_keys(machine *m, const value *a, const value *b, int way, int *order) {
    *order = 0;
    bool listed = way == 2 || way == -2;
    return listed && jinja_equal(a, b) ? STATUS_OK : jinja_compare(m, a, b, "<", order);
}

/* Stable merge sort; `way` 1 or -1, doubled for keys that are lists of values. */
static status merge_sort(machine *m, sort_item *items, sort_item *spare, size_t n, int way) {
    if (n < 2) return STATUS_OK;
    size_t half = n / 2, i = 0, k = half, at = 0;
    TRY(merge_sort(m, items, spare, half, way));
    TRY(merge_sort(m, items + half, spare, n - half, way));
    TRY(jinja_step(m, n));
    memcpy(spare, items, n * sizeof *items);
    while (i < half && k < n) {
        int order;
        TRY(compare_keys(m, &spare[k].key, &spare[i].key, way, &order));
        items[at++] =
            order && order != 2 && (order < 0) == (way > 0) ? spare[k++] : spare[i++];
    }
    while (i < half) items[at++] = spare[i++];
    while (k < n) items[at++] = spare[k++];
    return STATUS_OK;
}

static status sort_items(machine *m, sort_item *items, size_t n, int way, list **out) {
    sort_item *spare;
    TRY(jinja_new(m, (n + 1) * sizeof *spare, &spare));
    TRY(merge_sort(m, items, spare, n, way));
    TRY(jinja_make_list(m, n, out));
    for (size_t i = 0; i < n; i++) (*out)->items[i] = items[i].value;
    return STATUS_OK;
}

/* Several paths with commas between them: a tuple of keys. */
static status sort_key(machine *m, value item, const value *path, bool sensitive, value *out) {
    if (path->kind != V_STRING || !memchr(path->string->text, ',', path->string->bytes)) {
        TRY(jinja_attribute_path(m, item, path, NULL, out));
        return fold_case(m, sensitive, out);
    }
    list *keys;
    size_t capacity = 0, at = 0, end;
    TRY(jinja_make_list(m, 0, &keys));
    for (; at <= path->string->bytes; at = end + 1) {
        const string *s = path->string;
        const char *comma = memchr(s->text + at, ',', s->bytes - at);
        value part, key;
        end = comma ? (size_t)(comma - s->text) : s->bytes;
        TRY(jinja_part(m, (string *)s, at, end, &part));
        TRY(jinja_attribute_path(m, item, &part, NULL, &key));
        TRY(fold_case(m, sensitive, &key));
        TRY(jinja_append(m, keys, &capacity, key));
    }
    *out = LIST(keys);
    return STATUS_OK;
}

FILTER(sort) {
    list *l, *sorted;
    sort_item *items;
    TRY(jinja_iterate(m, self, &l));
    TRY(jinja_new(m, (l->count + 1) * sizeof *items, &items));
    for (size_t i = 0; i < l->count; i++) {
        items[i].value = l->items[i];
        TRY(sort_key(m, l->items[i], &a[2], jinja_truth(&a[1]), &items[i].key));
    }
    TRY(sort_items(m, items, l->count, jinja_truth(&a[0]) ? -2 : 2, &sorted));
    *out = LIST(sorted);
    return STATUS_OK;
}

FILTER(dictsort) {
    list *sorted;
    sort_item *items;
    bool by_value = false;
    if (self.kind == V_UNDEFINED) return jinja_raise_undefined(m, self.undefined);
    if (self.kind != V_DICT)
        return jinja_raise(m, "AttributeError", "'%s' object has no attribute 'items'",
                           jinja_type(&self));
    if (a[1].kind != V_MISSING) {
        string key = {.text = "key", .bytes = 3}, value_word = {.text = "value", .bytes = 5};
        by_value = a[1].kind == V_STRING && jinja_string_equal(a[1].string, &value_word);
        if (!by_value && !(a[1].kind == V_STRING && jinja_string_equal(a[1].string, &key)))
            return jinja_raise(m, "FilterArgumentError",
                               "You can only sort by either \"key\" or \"value\"");
    }
    const dict *d = self.dict;
    TRY(jinja_new(m, (d->count + 1) * sizeof *items, &items));
    for (size_t i = 0; i < d->count; i++) {
        TRY(jinja_make_pair(m, d->pairs[i].key, d->pairs[i].value, &items[i].value));
        items[i].key = by_value ? d->pairs[i].value : d->pairs[i].key;
        TRY(fold_case(m, jinja_truth(&a[0]), &items[i].key));
    }
    TRY(sort_items(m, items, d->count, jinja_truth(&a[2]) ? -1 : 1, &sorted));
    *out = LIST(sorted);
    return STATUS_OK;
}

/* groupby: sorted by the attribute, then (key, [values ...]). */
FILTER(groupby) {
    list *l, *sorted, *groups;
    sort_item *items;
    size_t capacity = 0, room = 0;
    bool sensitive = jinja_truth(&a[2]);
    TRY(jinja_iterate(m, self, &l));
    TRY(jinja_new(m, (l->count + 1) * sizeof *items, &items));
    for (size_t i = 0; i < l->count; i++) {
        items[i].value = l->items[i];
        TRY(jinja_attribute_path(m, l->items[i], &a[0], &a[1], &items[i].key));
        TRY(fold_case(m, sensitive, &items[i].key));
    }
    TRY(sort_items(m, items, l->count, 1, &sorted));
    TRY(jinja_make_list(m, 0, &groups));
    for (size_t i = 0; i < sorted->count; i++) {
        if (!i || !jinja_equal(&items[i].key, &items[i - 1].key)) {
            list *members;
            value key, group;
            TRY(jinja_make_list(m, 0, &members));
            TRY(jinja_attribute_path(m, sorted->items[i], &a[0], &a[1], &key));
            TRY(jinja_make_pair(m, key, LIST(members), &group));
            group.list->group = true;
            TRY(jinja_append(m, groups, &capacity, group));
            room = 0;
        }
        list *members = groups->items[groups->count - 1].list->items[1].list;
        TRY(jinja_append(m, members, &room, sorted->items[i]));
    }
    *out = LIST(groups);
    return STATUS_OK;
}

const builtin jinja_sequence_filters[] = {
    {"dictsort", dictsort, {"case_sensitive", "by", "reverse"}, 0, NULL},
    {"first", first, {0}, 0, NULL},
    {"groupby", groupby, {"attribute", "default", "case_sensitive"}, 1, NULL},
    {"join", join, {"d", "attribute"}, 0, NULL},
    {"last", last, {0}, 0, NULL},
    {"list", to_list, {0}, 0, NULL},
    {"max", most, {"case_sensitive", "attribute"}, 0, NULL},
    {"min", least, {"case_sensitive", "attribute"}, 0, NULL},
    {"sort", sort, {"reverse", "case_sensitive", "attribute"}, 0, NULL},
    {"sum", sum, {"attribute", "start"}, 0, NULL},
    {0}};
