/* attribute.c: x.name, x[key], x[a:b:c], and calls of what is built in. A dot looks for a
 * method first, brackets for an item first, as in Python's sandboxed jinja2. */
#include "data/jinja/eval.h"
#include "data/unicode.h"

#include <string.h>

/* ---- attributes ---- */

/* Methods that would change the value: reading them is allowed, calling them is not. */
static bool is_changing(const value *of, const char *name) {
    static const char *const on_dict[] = {"clear",      "pop",    "popitem",
                                          "setdefault", "update", NULL},
                             *const on_list[] = {"append",  "clear",  "pop",
                                                 "reverse", "insert", "sort",
                                                 "extend",  "remove", NULL};
    const char *const *names = of->kind == V_DICT ? on_dict : on_list;
    if (of->kind != V_DICT && of->kind != V_LIST) return false;
    for (; *names; names++)
        if (!strcmp(*names, name)) return true;
    return false;
}

static status unsafe(machine *m, value of, string *name, value *out) {
    TRY(jinja_make_undefined(m, of, STRING(name), NULL, out));
    out->undefined->unsafe = true;
    return STATUS_OK;
}

static bool is_internal(const string *name) {
    return name->bytes > 4 && !memcmp(name->text, "__", 2) &&
           !memcmp(name->text + name->bytes - 2, "__", 2);
}

bool jinja_is_plain_key(const char *name) {
    value d = DICT(NULL);
    string s = {.text = name, .bytes = (uint32_t)strlen(name)};
    return !jinja_find_method(&d, name) && !is_changing(&d, name) && !is_internal(&s);
}

static status make_method(machine *m, const builtin *row, value self, value *out) {
    method *made;
    TRY(jinja_new(m, sizeof *made, &made));
    *made = (method){row, self};
    *out = (value){.kind = V_METHOD, .method = made};
    return STATUS_OK;
}

static status macro_attribute(value of, const string *name, value *out, bool *found);

/* An attribute that is no item; *found false when there is none. */
static status own_attribute(machine *m, value of, string *name, value *out, bool *found) {
    char text[40];
    *found = true;
    if (name->bytes >= sizeof text) {
        *found = false;
        return STATUS_OK;
    }
    memcpy(text, name->text, name->bytes);
    text[name->bytes] = 0;
    if (of.kind == V_LOOP) {
        TRY(jinja_loop_attribute(m, of.loop, name, out, found));
        if (*found) return STATUS_OK;
        *found = true;
    }
    const builtin *row = jinja_find_method(&of, text);
    if (row) return make_method(m, row, of, out);
    if (of.kind == V_LOOP) *found = false;
    if (is_changing(&of, text) || (is_internal(name) && of.kind != V_NAMESPACE))
        return unsafe(m, of, name, out);
    if (of.kind == V_MACRO) return macro_attribute(of, name, out, found);
    if (of.kind == V_TUPLE && of.list->group &&
        (!strcmp(text, "grouper") || !strcmp(text, "list"))) {
        *out = of.list->items[*text == 'l'];
        return STATUS_OK;
    }
    if (of.kind == V_NAMESPACE) {
        pair *p = jinja_dict_text(of.dict, text);
        *found = p != NULL;
        if (p) *out = p->value;
        return STATUS_OK;
    }
    *found = false;
    return STATUS_OK;
}

static status macro_attribute(value of, const string *name, value *out, bool *found) {
    const function_body *f = of.macro->body;
    *found = name->bytes == 4 && !memcmp(name->text, "name", 4) && f->name;
    if (*found) *out = STRING((string *)f->name);
    return STATUS_OK;
}

/* ---- items ---- */

static status item_at(machine *m, value of, int64_t i, value *out, bool *found) {
    int64_t n = 0;
    if (of.kind == V_STRING)
        n = jinja_chars(of.string);
    else
        n = of.kind == V_RANGE ? of.range->count : (int64_t)of.list->count;
    if (i < 0) i += n;
    *found = i >= 0 && i < n;
    if (!*found) return STATUS_OK;
    if (of.kind == V_STRING) {
        size_t at = jinja_byte_at(of.string, (size_t)i);
        return jinja_part(m, of.string, at,
                          at + utf8_length((unsigned char)of.string->text[at]), out);
    }
    *out = of.kind == V_RANGE ? INT(of.range->start + i * of.range->step) : of.list->items[i];
    return STATUS_OK;
}

/* of[key] as Python does it; *found false for KeyError, IndexError and TypeError. */
static status item(machine *m, value of, value key, value *out, bool *found) {
    int64_t i;
    *found = false;
    switch (of.kind) {
    case V_DICT: {
        uint32_t hash = 0;
        if (jinja_hash(m, &key, &hash) != STATUS_OK) { /* unhashable: no such item */
            *m->r->error = 0;
            return STATUS_OK;
        }
        pair *p = jinja_dict_find(of.dict, &key, hash);
        *found = p != NULL;
        if (p) *out = p->value;
        return STATUS_OK;
    }
    case V_LIST:
    case V_TUPLE:
    case V_STRING:
    case V_RANGE:
        return jinja_integer(&key, &i) ? item_at(m, of, i, out, found) : STATUS_OK;
    default:
        return STATUS_OK;
    }
}

status jinja_getattr(machine *m, value of, string *name, value *out) {
    bool found;
    if (of.kind == V_UNDEFINED) return jinja_raise_undefined(m, of.undefined);
    TRY(own_attribute(m, of, name, out, &found));
    if (!found) TRY(item(m, of, STRING(name), out, &found));
    return found ? STATUS_OK : jinja_make_undefined(m, of, STRING(name), NULL, out);
}

status jinja_getitem(machine *m, value of, value key, value *out) {
    bool found;
    if (of.kind == V_UNDEFINED) return jinja_raise_undefined(m, of.undefined);
    TRY(item(m, of, key, out, &found));
    if (!found && key.kind == V_STRING) TRY(own_attribute(m, of, key.string, out, &found));
    return found ? STATUS_OK : jinja_make_undefined(m, of, key, NULL, out);
}

/* ---- slices ---- */

static status bad_bound(machine *m) {
    return jinja_raise(m, "TypeError",
                       "slice indices must be integers or None or have an __index__ method");
}

static status slice_bound(machine *m, const value *v, int64_t n, int64_t step, int64_t missing,
                          int64_t *out) {
    if (v->kind == V_MISSING || v->kind == V_NONE) {
        *out = missing;
        return STATUS_OK;
    }
    if (!jinja_integer(v, out)) return bad_bound(m);
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    if (*out < 0) *out += n;
    *out = *out < low ? low : *out > high ? high : *out;
    return STATUS_OK;
}

static status slice_string(machine *m, string *s, int64_t first, int64_t count, int64_t step,
                           value *out) {
    if (step == 1) {
        size_t from = jinja_byte_at(s, (size_t)first),
               to = jinja_byte_at(s, (size_t)(first + count));
        return jinja_part(m, s, from, to, out);
    }
    list *all;
    builder b = {0};
    TRY(jinja_iterate(m, STRING(s), &all));
    for (int64_t i = 0; i < count; i++)
        TRY(jinja_put_string(m, &b, all->items[first + i * step].string));
    return jinja_build(m, &b, out);
}

static status slice_list(machine *m, value of, int64_t first, int64_t count, int64_t step,
                         value *out) {
    list *made;
    TRY(jinja_step(m, (uint64_t)count / 4));
    TRY(jinja_make_list(m, (size_t)count, &made));
    for (int64_t i = 0; i < count; i++) made->items[i] = of.list->items[first + i * step];
    *out = (value){.kind = of.kind, .list = made};
    return STATUS_OK;
}

static value slice_range(range *made, const range *of, int64_t first, int64_t count,
                         int64_t step, int64_t to) {
    *made = (range){.start = of->start + first * of->step,
                    .stop = of->start + to * of->step,
                    .step = of->step * step,
                    .count = count};
    return (value){.kind = V_RANGE, .range = made};
}

status jinja_slice(machine *m, value of, const value bounds[3], value *out) {
    int64_t n, step = 1, from, to;
    bool stepped = bounds[2].kind != V_MISSING && bounds[2].kind != V_NONE;
    if (of.kind == V_UNDEFINED) return jinja_raise_undefined(m, of.undefined);
    if (of.kind == V_DICT) return jinja_raise(m, "TypeError", "unhashable type: 'slice'");
    if (of.kind != V_STRING && of.kind != V_LIST && of.kind != V_TUPLE && of.kind != V_RANGE)
        return jinja_raise(m, "TypeError", "'%s' object is not subscriptable",
                           jinja_type(&of));
    if (stepped && !jinja_integer(&bounds[2], &step)) return bad_bound(m);
    if (!step) return jinja_raise(m, "ValueError", "slice step cannot be zero");
    if (step == INT64_MIN) step++;
    jinja_length(m, &of, &n);
    TRY(slice_bound(m, &bounds[0], n, step, step < 0 ? n - 1 : 0, &from));
    TRY(slice_bound(m, &bounds[1], n, step, step < 0 ? -1 : n, &to));
    int64_t span = step < 0 ? from - to : to - from, stride = step < 0 ? -step : step;
    int64_t count = span > 0 ? (span - 1) / stride + 1 : 0;
    if (of.kind == V_RANGE) {
        range *made;
        TRY(jinja_new(m, sizeof *made, &made));
        *out = slice_range(made, of.range, from, count, step, to);
        return STATUS_OK;
    }
    if (count < 2) step = 1;
    if (!count) from = 0;
    return of.kind == V_STRING ? slice_string(m, of.string, from, count, step, out)
                               : slice_list(m, of, from, count, step, out);
}

/* ---- calls ---- */

static int parameter_of(const builtin *b, const string *name) {
    for (int i = 0; i < PARAMETERS && b->parameters[i]; i++)
        if (strlen(b->parameters[i]) == name->bytes &&
            !memcmp(b->parameters[i], name->text, name->bytes))
            return i;
    return -1;
}

status jinja_call_builtin(machine *m, const builtin *b, value self, const arguments *a,
                          value *out) {
    value bound[PARAMETERS] = {{0}};
    size_t room = 0;
    while (room < PARAMETERS && b->parameters[room]) room++;
    TRY(jinja_step(m, 1));
    bool given = a && (a->count || a->named_count);
    if (given && self.kind == V_STRING && self.string->safe && jinja_is_string_method(b))
        return jinja_unsupported(m, "a method of what the filter safe gave");
    if (b->variadic) return b->variadic(m, self, a, out);
    if (a && a->count > room)
        return jinja_raise(m, "TypeError", "%s() takes at most %zu arguments (%zu given)",
                           b->name, room, a->count);
    for (size_t i = 0; a && i < a->count; i++) bound[i] = a->items[i];
    for (size_t i = 0; a && i < a->named_count; i++) {
        int at = parameter_of(b, a->names[i]);
        if (at < 0 || bound[at].kind != V_MISSING)
            return jinja_raise(m, "TypeError",
                               "%s() got an unexpected keyword argument '%.*s'", b->name,
                               (int)a->names[i]->bytes, a->names[i]->text);
        bound[at] = a->named[i];
    }
    for (int i = 0; i < b->needed; i++)
        if (bound[i].kind == V_MISSING)
            return jinja_raise(m, "TypeError", "%s() missing required argument: '%s'", b->name,
                               b->parameters[i]);
    return b->call(m, self, bound, out);
}
