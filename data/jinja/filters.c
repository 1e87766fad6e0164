/* filters.c: filters of one value, and finding a filter by its name. */
#include "data/jinja/filters.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* soft_str: what is a string stays it. */
static status as_string(machine *m, value v, value *out) {
    string *s;
    TRY(jinja_text(m, v, &s));
    *out = STRING(s);
    return STATUS_OK;
}

#define ON_STRING(name)                                                                       \
    FILTER(name##_filter) {                                                                   \
        TRY(as_string(m, self, &self));                                                       \
        return jinja_str_##name(m, self, a, out);                                             \
    }
ON_STRING(lower)
ON_STRING(upper)
ON_STRING(capitalize)
ON_STRING(strip)

FILTER(center_filter) {
    TRY(as_string(m, self, &self));
    if (a[0].kind == V_MISSING) a[0] = INT(80);
    return jinja_str_center(m, self, a, out);
}

FILTER(string_filter) {
    return as_string(m, self, out);
}

static status copy_string(machine *m, value v, bool safe, value *out) {
    string *copy = NULL;
    TRY(jinja_new(m, sizeof *copy, &copy));
    *copy = *v.string;
    copy->safe = safe;
    *out = STRING(copy);
    return STATUS_OK;
}

/* Without escaping it is the text that it was, as long as nothing is added to it. */
FILTER(safe_filter) {
    TRY(as_string(m, self, &self));
    return copy_string(m, self, true, out);
}

FILTER(escape_filter) {
    builder b = {0};
    *out = self;
    if (self.kind == V_STRING && self.string->safe) return STATUS_OK;
    TRY(as_string(m, self, &self));
    TRY(jinja_put_escaped(m, &b, self.string));
    TRY(jinja_build(m, &b, out));
    out->string->safe = true;
    return STATUS_OK;
}

/* str(v), no longer safe. */
static status plain_string(machine *m, value v, value *out) {
    TRY(as_string(m, v, out));
    return out->string->safe ? copy_string(m, *out, false, out) : STATUS_OK;
}

/* jinja2's own rule: words begin after blanks, -, and opening brackets. */
FILTER(title_filter) {
    TRY(as_string(m, self, &self));
    string *s = self.string;
    builder b = {0};
    value none[PARAMETERS] = {{0}}, part;
    for (size_t at = 0, end; at < s->bytes; at = end) {
        bool gap = false;
        for (end = at; end < s->bytes; end++) {
            unsigned char c = (unsigned char)s->text[end];
            bool is = c < 0x80 && (strchr("-({[<", c) || jinja_space(c)) && c;
            if (end == at) gap = is;
            if (is != gap) break;
        }
        TRY(jinja_part(m, s, at, end, &part));
        if (!gap) TRY(jinja_str_capitalize(m, part, none, &part));
        TRY(jinja_put_string(m, &b, part.string));
    }
    return jinja_build(m, &b, out);
}

FILTER(replace_filter) {
    TRY(plain_string(m, self, &self));
    TRY(plain_string(m, a[0], &a[0]));
    TRY(plain_string(m, a[1], &a[1]));
    return jinja_str_replace(m, self, a, out);
}

FILTER(default_filter) {
    value empty;
    bool gone = self.kind == V_UNDEFINED || (jinja_truth(&a[1]) && !jinja_truth(&self));
    TRY(jinja_word(m, "", &empty));
    *out = !gone ? self : a[0].kind == V_MISSING ? empty : a[0];
    return STATUS_OK;
}

FILTER(length_filter) {
    int64_t n;
    if (!jinja_length(m, &self, &n))
        return jinja_raise(m, "TypeError", "object of type '%s' has no len()",
                           jinja_type(&self));
    *out = INT(n);
    return STATUS_OK;
}

FILTER(abs_filter) {
    if (self.kind == V_INT || self.kind == V_BOOL || self.kind == V_REAL) {
        bool minus = self.kind == V_REAL ? signbit(self.real) : self.integer < 0;
        if (self.kind == V_BOOL) minus = false;
        return jinja_negate(m, self, minus, out);
    }
    return jinja_raise(m, "TypeError", "bad operand type for abs(): '%s'", jinja_type(&self));
}

/* ---- numbers ---- */

static status real_to_int(machine *m, double d, const value *usual, value *out) {
    if (isnan(d) || isinf(d)) {
        *out = *usual;
        return STATUS_OK;
    }
    if (fabs(d) >= 9.2e18) return jinja_unsupported(m, "an integer of more than 64 bits");
    *out = INT((int64_t)d);
    return STATUS_OK;
}

FILTER(int_filter) {
    value usual = a[0].kind == V_MISSING ? INT(0) : a[0];
    int64_t i, base;
    double d;
    bool big;
    TRY(jinja_take_integer(m, &a[1], 10, &base));
    if (base != 0 && (base < 2 || base > 36)) base = 10;
    if (self.kind == V_UNDEFINED) return jinja_raise_undefined(m, self.undefined);
    if (jinja_integer(&self, &i)) {
        *out = INT(i);
        return STATUS_OK;
    }
    if (self.kind == V_REAL) return real_to_int(m, self.real, &usual, out);
    if (self.kind == V_STRING && jinja_parse_int(self.string, (int)base, &i, &big)) {
        if (big) return jinja_unsupported(m, "an integer of more than 64 bits");
        *out = INT(i);
        return STATUS_OK;
    }
    if (self.kind == V_STRING && jinja_parse_real(self.string, &d))
        return real_to_int(m, d, &usual, out);
    *out = usual;
    return STATUS_OK;
}

FILTER(float_filter) {
    double d;
    if (self.kind == V_UNDEFINED) return jinja_raise_undefined(m, self.undefined);
    if (jinja_number(&self, &d) ||
        (self.kind == V_STRING && jinja_parse_real(self.string, &d)))
        *out = REAL(d);
    else
        *out = a[0].kind == V_MISSING ? REAL(0) : a[0];
    return STATUS_OK;
}

/* round(d, n) of Python: correctly rounded decimal, ties by the exact value. */
static double round_to(double d, int64_t n) {
    char text[400];
    if (isnan(d) || isinf(d) || n > 300) return d;
    if (n < 0) {
        double unit = pow(10, (double)-n);
        return nearbyint(d / unit) * unit;
    }
    snprintf(text, sizeof text, "%.*f", (int)n, d);
    return strtod(text, NULL);
}

FILTER(round_filter) {
    int64_t precision, i;
    string *method;
    double d;
    TRY(jinja_take_integer(m, &a[0], 0, &precision));
    TRY(jinja_take_string(m, &a[1], &method));
    string common = {.text = "common", .bytes = 6};
    if (!method) method = &common;
    bool up = method->bytes == 4 && !memcmp(method->text, "ceil", 4),
         down = method->bytes == 5 && !memcmp(method->text, "floor", 5);
    if (!up && !down && !jinja_string_equal(method, &common))
        return jinja_raise(m, "FilterArgumentError", "method must be common, ceil or floor");
    if (self.kind == V_UNDEFINED && (up || down))
        return jinja_raise_undefined(m, self.undefined);
    if (!jinja_number(&self, &d))
        return jinja_raise(m, "TypeError", "type %s doesn't define __round__ method",
                           jinja_type(&self));
    if (up || down) {
        double unit = pow(10, (double)precision), scaled = d * unit;
        *out = REAL(((up ? ceil(scaled) : floor(scaled)) + 0.0) /
                    unit); /* no -0.0: they are ints */
    } else if (jinja_integer(&self, &i)) {
        if (precision < 0) return jinja_unsupported(m, "rounding an integer to tens");
        *out = INT(i);
    } else {
        *out = REAL(round_to(d, precision));
    }
    return STATUS_OK;
}

/* ---- text ---- */

FILTER(indent_filter) {
    builder b = {0};
    value lines, width;
    list *l;
    bool first = jinja_truth(&a[1]), blank = jinja_truth(&a[2]);
    int64_t n;
    if (self.kind == V_UNDEFINED) return jinja_raise_undefined(m, self.undefined);
    if (self.kind == V_LIST)
        return jinja_raise(m, "AttributeError", "'list' object has no attribute 'splitlines'");
    if (self.kind != V_STRING)
        return jinja_raise(m, "TypeError",
                           "unsupported operand type(s) for +=: '%s' and 'str'",
                           jinja_type(&self));
    width = a[0];
    if (width.kind != V_STRING) {
        value space;
        TRY(jinja_take_integer(m, &a[0], 4, &n));
        TRY(jinja_word(m, " ", &space));
        TRY(jinja_arithmetic(m, SIGN_MUL, space, INT(n), &width));
    }
    value newline, none[PARAMETERS] = {{0}};
    TRY(jinja_word(m, "\n", &newline));
    TRY(jinja_arithmetic(m, SIGN_ADD, self, newline,
                         &lines)); /* so that an empty text is a line */
    TRY(jinja_str_splitlines(m, lines, none, &lines));
    l = lines.list;
    if (first) TRY(jinja_put_string(m, &b, width.string));
    for (size_t i = 0; i < l->count; i++) {
        if (i) TRY(jinja_put_string(m, &b, newline.string));
        if (i && (blank || l->items[i].string->bytes))
            TRY(jinja_put_string(m, &b, width.string));
        TRY(jinja_put_string(m, &b, l->items[i].string));
    }
    return jinja_build(m, &b, out);
}

FILTER(truncate_filter) {
    int64_t length, leeway, n;
    string *end;
    value dots, head;
    int64_t size;
    TRY(jinja_take_integer(m, &a[0], 255, &length));
    TRY(jinja_word(m, "...", &dots));
    TRY(jinja_take_string(m, &a[2], &end));
    if (!end) end = dots.string;
    TRY(jinja_take_integer(m, &a[3], 5, &leeway));
    n = (int64_t)jinja_chars(end);
    if (length < n)
        return jinja_raise(m, "AssertionError", "expected length >= %lld, got %lld",
                           (long long)n, (long long)length);
    if (leeway < 0)
        return jinja_raise(m, "AssertionError", "expected leeway >= 0, got %lld",
                           (long long)leeway);
    *out = self;
    if (!jinja_length(m, &self, &size))
        return jinja_raise(m, "TypeError", "object of type '%s' has no len()",
                           jinja_type(&self));
    if (size <= length + leeway) return STATUS_OK;
    if (self.kind != V_STRING)
        return jinja_unsupported(m, "truncating a %s", jinja_type(&self));
    TRY(jinja_part(m, self.string, 0, jinja_byte_at(self.string, (size_t)(length - n)),
                   &head));
    const char *space =
        jinja_truth(&a[1]) ? NULL : memrchr(head.string->text, ' ', head.string->bytes);
    if (space) TRY(jinja_part(m, head.string, 0, (size_t)(space - head.string->text), &head));
    return jinja_arithmetic(m, SIGN_ADD, head, STRING(end), out);
}

FILTER(tojson_filter) {
    string comma = {.text = ", ", .bytes = 2}, colon = {.text = ": ", .bytes = 2},
           bare = {.text = ",", .bytes = 1};
    json_form form = {.ascii = jinja_truth(&a[0]), .sort = jinja_truth(&a[3])};
    builder b = {0};
    value indent = a[1];
    int64_t n;
    if (indent.kind == V_STRING) {
        form.indent = indent.string;
    } else if (indent.kind != V_MISSING && indent.kind != V_NONE) {
        value space;
        TRY(jinja_take_integer(m, &indent, 0, &n));
        TRY(jinja_word(m, " ", &space));
        TRY(jinja_arithmetic(m, SIGN_MUL, space, INT(n), &indent));
        form.indent = indent.string;
    }
    form.item = form.indent ? &bare : &comma;
    form.key = &colon;
    if (a[2].kind != V_MISSING && a[2].kind != V_NONE) {
        list *pair;
        TRY(jinja_iterate(m, a[2], &pair));
        if (pair->count != 2 || pair->items[0].kind != V_STRING ||
            pair->items[1].kind != V_STRING)
            return jinja_raise(m, "ValueError", "separators must be two strings");
        form.item = pair->items[0].string, form.key = pair->items[1].string;
    }
    TRY(jinja_put_json(m, &b, self, &form));
    return jinja_build(m, &b, out);
}

static status format_filter(machine *m, value self, const arguments *a, value *out) {
    if (a && a->count && a->named_count)
        return jinja_raise(m, "FilterArgumentError",
                           "can't handle positional and keyword arguments at the same time");
    value values;
    list *l;
    TRY(as_string(m, self, &self));
    if (a && a->named_count) {
        dict *d;
        TRY(jinja_dict_new(m, a->named_count, &d));
        for (size_t i = 0; i < a->named_count; i++)
            TRY(jinja_dict_set(m, d, STRING((string *)a->names[i]), a->named[i]));
        values = DICT(d);
    } else {
        TRY(jinja_make_list(m, a ? a->count : 0, &l));
        if (l->count) memcpy(l->items, a->items, l->count * sizeof *l->items);
        values = TUPLE(l);
    }
    return jinja_percent(m, self.string, values, out);
}

FILTER(wordcount_filter) {
    TRY(as_string(m, self, &self));
    int64_t n = 0;
    bool inside = false;
    for (uint32_t i = 0; i < self.string->bytes; i++) {
        unsigned char c = (unsigned char)self.string->text[i];
        if (c >= 0x80) return jinja_unsupported(m, "wordcount of other letters than ASCII");
        bool word =
            c == '_' || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
        n += word && !inside;
        inside = word;
    }
    *out = INT(n);
    return STATUS_OK;
}

FILTER(attr_filter) {
    string *name;
    TRY(jinja_take_string(m, &a[0], &name));
    if (!name) return jinja_raise(m, "TypeError", "attribute name must be string");
    if (self.kind == V_UNDEFINED) return jinja_raise_undefined(m, self.undefined);
    if (self.kind == V_DICT && !jinja_find_method(&self, name->text))
        return jinja_make_undefined(m, self, STRING(name), NULL, out); /* items do not count */
    return jinja_getattr(m, self, name, out);
}

const builtin jinja_text_filters[] = {
    {"abs", abs_filter, {0}, 0, NULL},
    {"attr", attr_filter, {"name"}, 1, NULL},
    {"capitalize", capitalize_filter, {0}, 0, NULL},
    {"center", center_filter, {"width"}, 0, NULL},
    {"count", length_filter, {0}, 0, NULL},
    {"d", default_filter, {"default_value", "boolean"}, 0, NULL},
    {"default", default_filter, {"default_value", "boolean"}, 0, NULL},
    {"e", escape_filter, {0}, 0, NULL},
    {"escape", escape_filter, {0}, 0, NULL},
    {"float", float_filter, {"default"}, 0, NULL},
    {"format", NULL, {0}, 0, format_filter},
    {"indent", indent_filter, {"width", "first", "blank"}, 0, NULL},
    {"int", int_filter, {"default", "base"}, 0, NULL},
    {"length", length_filter, {0}, 0, NULL},
    {"lower", lower_filter, {0}, 0, NULL},
    {"replace", replace_filter, {"old", "new", "count"}, 2, NULL},
    {"round", round_filter, {"precision", "method"}, 0, NULL},
    {"safe", safe_filter, {0}, 0, NULL},
    {"string", string_filter, {0}, 0, NULL},
    {"title", title_filter, {0}, 0, NULL},
    {"tojson", tojson_filter, {"ensure_ascii", "indent", "separators", "sort_keys"}, 0, NULL},
    {"trim", strip_filter, {"chars"}, 0, NULL},
    {"truncate", truncate_filter, {"length", "killwords", "end", "leeway"}, 0, NULL},
    {"upper", upper_filter, {0}, 0, NULL},
    {"wordcount", wordcount_filter, {0}, 0, NULL},
    {0}};

const builtin *jinja_find_filter(const char *name) {
    static const builtin *const tables[] = {jinja_text_filters, jinja_sequence_filters,
                                            jinja_lazy_filters};
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (const builtin *row = tables[t]; row->name; row++)
            if (!strcmp(row->name, name)) return row;
    return NULL;
}
