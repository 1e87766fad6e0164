/* functions.c: what is called by its name: range, dict, namespace, raise_exception,
 * strftime_now. */
#include "data/jinja/strings.h"

#include <string.h>

static status no_names(machine *m, const char *name, const arguments *a) {
    if (!a->named_count) return STATUS_OK;
    return jinja_raise(m, "TypeError", "%s() takes no keyword arguments", name);
}

static status make_range(machine *m, const arguments *a, value *out) {
    int64_t part[3] = {0, 0, 1}, count;
    TRY(no_names(m, "range", a));
    if (a->count < 1 || a->count > 3)
        return jinja_raise(m, "TypeError", "range expected at %s 1 argument%s, got %zu",
                           a->count ? "most" : "least", a->count ? "s" : "", a->count);
    for (size_t i = 0; i < a->count; i++) {
        if (a->items[i].kind == V_NONE || a->items[i].kind == V_UNDEFINED)
            return jinja_raise(m, "TypeError",
                               "'%s' object cannot be interpreted as an integer",
                               jinja_type(&a->items[i]));
        TRY(jinja_take_integer(m, &a->items[i], 0, &part[a->count == 1 ? 1 : i]));
    }
    if (!part[2]) return jinja_raise(m, "ValueError", "range() arg 3 must not be zero");
    __int128 span = (__int128)part[1] - part[0], step = part[2];
    if (step < 0) span = -span, step = -step;
    span = span > 0 ? (span - 1) / step + 1 : 0;
    count = span > JINJA_RANGE ? JINJA_RANGE + 1 : (int64_t)span;
    if (count > JINJA_RANGE)
        return jinja_raise(
            m, "OverflowError",
            "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).",
            JINJA_RANGE);
    range *r;
    TRY(jinja_new(m, sizeof *r, &r));
    *r = (range){part[0], part[1], part[2], count};
    *out = (value){.kind = V_RANGE, .range = r};
    return STATUS_OK;
}

static status add_pairs(machine *m, dict *d, value from) {
    list *pairs;
    if (from.kind == V_DICT) {
        for (size_t i = 0; i < from.dict->count; i++)
            TRY(jinja_dict_set(m, d, from.dict->pairs[i].key, from.dict->pairs[i].value));
        return STATUS_OK;
    }
    TRY(jinja_iterate(m, from, &pairs));
    for (size_t i = 0; i < pairs->count; i++) {
        list *pair;
        TRY(jinja_iterate(m, pairs->items[i], &pair));
        if (pair->count != 2)
            return jinja_raise(m, "ValueError",
                               "dictionary update sequence element #%zu has length %zu; 2 is "
                               "required",
                               i, pair->count);
        TRY(jinja_dict_set(m, d, pair->items[0], pair->items[1]));
    }
    return STATUS_OK;
}

static status fill_dict(machine *m, const char *name, const arguments *a, dict **out) {
    if (a->count > 1)
        return jinja_raise(m, "TypeError", "%s expected at most 1 argument, got %zu", name,
                           a->count);
    TRY(jinja_dict_new(m, a->named_count, out));
    if (a->count) TRY(add_pairs(m, *out, a->items[0]));
    for (size_t i = 0; i < a->named_count; i++)
        TRY(jinja_dict_set(m, *out, STRING((string *)a->names[i]), a->named[i]));
    return STATUS_OK;
}

static status make_dict(machine *m, const arguments *a, value *out) {
    out->kind = V_DICT;
    return fill_dict(m, "dict", a, &out->dict);
}

static status make_namespace(machine *m, const arguments *a, value *out) {
    out->kind = V_NAMESPACE;
    TRY(fill_dict(m, "dict", a, &out->dict));
    for (size_t i = 0; i < out->dict->count; i++) {
        const value *key = &out->dict->pairs[i].key;
        if (key->kind == V_STRING && key->string->bytes && *key->string->text == '_')
            return jinja_raise(m, "SecurityError",
                               "Chat templates cannot store underscore-prefixed attributes on "
                               "a namespace, but got '%.*s'. Please rename the attribute.",
                               (int)key->string->bytes, key->string->text);
    }
    return STATUS_OK;
}

static status raise_exception(machine *m, const arguments *a, value *out) {
    string *s;
    if (a->count + a->named_count != 1)
        return jinja_raise(m, "TypeError", "raise_exception() takes 1 argument");
    TRY(jinja_text(m, a->count ? a->items[0] : a->named[0], &s));
    return jinja_raise(m, "TemplateError", "%.*s", (int)s->bytes, s->text);
}

static status strftime_now(machine *m, const arguments *a, value *out) {
    char text[512], format[200];
    if (a->count != 1 || a->named_count || a->items[0].kind != V_STRING)
        return jinja_raise(m, "TypeError", "strftime_now() takes a format, a string");
    const string *s = a->items[0].string;
    if (!m->r->today) return jinja_unsupported(m, "the date");
    if (s->bytes + 1 >= sizeof format || memchr(s->text, 0, s->bytes))
        return jinja_unsupported(m, "a format of a date of such a length");
    memcpy(format, s->text, s->bytes);
    format[s->bytes] = ' '; /* so that 0 is no good length */
    format[s->bytes + 1] = 0;
    size_t n = strftime(text, sizeof text, format, m->r->today);
    if (!n) return jinja_unsupported(m, "a date of such a length");
    text[n - 1] = 0;
    return jinja_word(m, text, out);
}

static status refuse(machine *m, const arguments *a, value *out) {
    return jinja_unsupported(m, "cycler(), joiner() or lipsum()");
}

static const function functions[] = {{"range", make_range},
                                     {"dict", make_dict},
                                     {"namespace", make_namespace},
                                     {"raise_exception", raise_exception},
                                     {"strftime_now", strftime_now},
                                     {"cycler", refuse},
                                     {"joiner", refuse},
                                     {"lipsum", refuse}};

const function *jinja_find_function(const char *name) {
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (!strcmp(functions[i].name, name)) return &functions[i];
    return NULL;
}
