/* format.c: '%s: %d' % values and '{}: {name}'.format(...). Of the format language what
 * templates use: width, precision, alignment, signs, s r d i f e g x o c; the rest is refused. */
#include "data/jinja/strings.h"
#include "data/unicode.h"

#include <stdio.h>
#include <string.h>

typedef struct spec { /* of one field */
    bool left, right, center, plus, space, zero, alternate, comma;
    int64_t width, precision; /* -1: not given */
    char type;                /* 0: not given */
    string *fill;
} spec;

enum { LIMIT = 10000 }; /* of widths and precisions */

/* ---- writing a field ---- */

static status pad(machine *m, builder *b, const spec *f, value text, bool number) {
    value args[PARAMETERS] = {{0}}, out;
    args[0] = INT(f->width);
    if (f->fill) args[1] = STRING(f->fill);
    if (f->width <= jinja_chars(text.string)) return jinja_put_string(m, b, text.string);
    if (number && f->zero && !f->left && !f->center) {
        size_t sign = text.string->bytes && strchr("+- ", *text.string->text) != NULL;
        int64_t missing = f->width - jinja_chars(text.string);
        TRY(jinja_put_part(m, b, text.string, 0, sign));
        for (; missing; missing--) TRY(jinja_put(m, b, "0", 1));
        return jinja_put_part(m, b, text.string, sign, text.string->bytes);
    }
    bool right = f->right || (number && !f->left && !f->center);
    const char *name = f->center ? "center" : right ? "rjust" : "ljust";
    TRY(jinja_call_builtin(m, jinja_find_method(&text, name), text,
                           &(arguments){.items = args, .count = f->fill ? 2 : 1}, &out));
    return jinja_put_string(m, b, out.string);
}

static void group_thousands(char *text, size_t room) {
    size_t n = strlen(text),
           digits = strspn(text + (*text == '-' || *text == '+'), "0123456789");
    size_t end = digits + (*text == '-' || *text == '+');
    for (size_t at = end; at > 3u + (*text == '-' || *text == '+') && n + 2 < room;) {
        at -= 3;
        memmove(text + at + 1, text + at, n - at + 1);
        text[at] = ',';
        n++;
    }
}

static status put_number(machine *m, builder *b, const spec *f, value v) {
    char format[40], text[LIMIT / 10 + 400];
    const char *flags = f->plus ? "+" : f->space ? " " : "";
    double d = 0;
    int64_t i = 0;
    char type = f->type;
    if (!type || type == 'n') type = v.kind == V_REAL ? 0 : 'd';
    bool integral = strchr("dixXo", type) && type;
    if (f->precision > 300 || (integral && f->precision >= 0) || (f->alternate))
        return jinja_unsupported(m, "this format of a number");
    if (integral && v.kind == V_REAL && type != 'd' && type != 'i')
        return jinja_raise(m, "TypeError", "%%%c format: an integer is required, not float",
                           type);
    if (integral && v.kind == V_REAL && !(v.real > -9.2e18 && v.real < 9.2e18))
        return jinja_unsupported(m, "an integer of more than 64 bits");
    if (integral && v.kind == V_REAL)
        i = (int64_t)v.real;
    else if (integral && !jinja_integer(&v, &i))
        return jinja_raise(m, "TypeError", "%%%c format: a real number is required, not %s",
                           type, jinja_type(&v));
    if (!integral && !jinja_number(&v, &d))
        return jinja_raise(m, "TypeError", "must be real number, not %s", jinja_type(&v));
    if (integral && (type == 'd' || type == 'i')) {
        snprintf(format, sizeof format, "%%%slld", flags);
        snprintf(text, sizeof text, format, (long long)i);
    } else if (integral) {
        snprintf(format, sizeof format, "%s%%ll%c", i < 0 ? "-" : flags, type);
        snprintf(text, sizeof text, format, (long long)(i < 0 ? -i : i));
    } else if (!type && f->precision < 0) {
        jinja_real_text(d, text);
    } else if (!type) {
        return jinja_unsupported(m, "this format of a number");
    } else {
        snprintf(format, sizeof format, "%%%s.*%c", flags, type == 'F' ? 'f' : type);
        snprintf(text, sizeof text, format, f->precision < 0 ? 6 : (int)f->precision, d);
    }
    if (f->comma) group_thousands(text, sizeof text);
    value word;
    TRY(jinja_word(m, text, &word));
    return pad(m, b, f, word, true);
}

static status put_text(machine *m, builder *b, const spec *f, value v, bool repr) {
    builder t = {0};
    value text;
    TRY(repr ? jinja_put_repr(m, &t, v) : jinja_put_value(m, &t, v));
    TRY(jinja_build(m, &t, &text));
    if (f->precision >= 0)
        TRY(jinja_part(m, text.string, 0, jinja_byte_at(text.string, (size_t)f->precision),
                       &text));
    return pad(m, b, f, text, false);
}

/* ---- % ---- */

typedef struct percent {
    const string *format;
    size_t at;
    value values;
    size_t used; /* of a tuple */
} percent;

static status next_value(machine *m, percent *p, const string *key, value *out) {
    if (key) {
        if (p->values.kind != V_DICT)
            return jinja_raise(m, "TypeError", "format requires a mapping");
        value name = STRING((string *)key);
        pair *found = jinja_dict_find(p->values.dict, &name, jinja_string_hash((string *)key));
        if (!found) return jinja_raise(m, "KeyError", "'%.*s'", (int)key->bytes, key->text);
        *out = found->value;
        return STATUS_OK;
    }
    size_t count = p->values.kind == V_TUPLE ? p->values.list->count : 1;
    if (p->used >= count)
        return jinja_raise(m, "TypeError", "not enough arguments for format string");
    *out = p->values.kind == V_TUPLE ? p->values.list->items[p->used] : p->values;
    p->used++;
    return STATUS_OK;
}

static status take_size(machine *m, percent *p, int64_t *out) {
    const string *s = p->format;
    if (p->at < s->bytes && s->text[p->at] == '*')
        return jinja_unsupported(m, "a width of * in a format");
    for (*out = 0; p->at < s->bytes && s->text[p->at] >= '0' && s->text[p->at] <= '9';
         p->at++) {
        *out = *out * 10 + (s->text[p->at] - '0');
        if (*out > LIMIT) return jinja_unsupported(m, "a width of more than 10000");
    }
    return STATUS_OK;
}

static status take_flags(machine *m, percent *p, spec *f) {
    const string *s = p->format;
    for (; p->at < s->bytes && strchr("-+ 0#", s->text[p->at]) && s->text[p->at]; p->at++) {
        char c = s->text[p->at];
        f->left |= c == '-', f->plus |= c == '+', f->space |= c == ' ', f->zero |= c == '0';
        f->alternate |= c == '#';
    }
    TRY(take_size(m, p, &f->width));
    if (p->at < s->bytes && s->text[p->at] == '.') {
        p->at++;
        TRY(take_size(m, p, &f->precision));
    }
    return STATUS_OK;
}

static status put_field(machine *m, builder *b, percent *p) {
    spec f = {.precision = -1};
    const string *s = p->format;
    value key, v;
    bool named = p->at < s->bytes && s->text[p->at] == '(';
    if (named) {
        const char *end = memchr(s->text + p->at, ')', s->bytes - p->at);
        if (!end) return jinja_raise(m, "ValueError", "incomplete format key");
        TRY(jinja_part(m, (string *)s, p->at + 1, (size_t)(end - s->text), &key));
        p->at = (size_t)(end - s->text) + 1;
    }
    TRY(take_flags(m, p, &f));
    if (p->at >= s->bytes) return jinja_raise(m, "ValueError", "incomplete format");
    f.type = s->text[p->at++];
    if (f.type == '%') return jinja_put(m, b, "%", 1);
    if (!strchr("srdifFeEgGxXo", f.type) || !f.type)
        return jinja_unsupported(m, "the format %%%c", f.type);
    TRY(next_value(m, p, named ? key.string : NULL, &v));
    if (f.type == 's' || f.type == 'r') {
        f.right = !f.left; /* text stands to the right here */
        return put_text(m, b, &f, v, f.type == 'r');
    }
    return put_number(m, b, &f, v);
}

status jinja_percent(machine *m, string *format, value values, value *out) {
    percent p = {.format = format, .values = values};
    builder b = {0};
    while (p.at < format->bytes) {
        const char *sign = memchr(format->text + p.at, '%', format->bytes - p.at);
        size_t to = sign ? (size_t)(sign - format->text) : format->bytes;
        TRY(jinja_put_part(m, &b, format, p.at, to));
        p.at = to + 1;
        if (sign) TRY(put_field(m, &b, &p));
        TRY(jinja_step(m, 1));
    }
    bool loose = values.kind == V_TUPLE
                     ? p.used < values.list->count
                     : !p.used && values.kind != V_DICT && values.kind != V_LIST;
    if (loose)
        return jinja_raise(m, "TypeError",
                           "not all arguments converted during string formatting");
    return jinja_build(m, &b, out);
}

/* ---- str.format ---- */

typedef struct fields {
    const arguments *arguments;
    size_t next;
} fields;

/* [[fill]align][sign][0][width][,][.precision][type] */
static status read_spec(machine *m, string *s, size_t at, spec *f) {
    size_t n = at < s->bytes ? utf8_length((unsigned char)s->text[at]) : 0;
    const char *aligns = "<>^";
    *f = (spec){.precision = -1};
    if (n && at + n < s->bytes && strchr(aligns, s->text[at + n]) && s->text[at + n]) {
        value fill;
        TRY(jinja_part(m, s, at, at + n, &fill));
        f->fill = fill.string;
        at += n;
    }
    if (at < s->bytes && strchr(aligns, s->text[at]) && s->text[at]) {
        f->left = s->text[at] == '<', f->right = s->text[at] == '>',
        f->center = s->text[at] == '^';
        at++;
    }
    if (at < s->bytes && (s->text[at] == '+' || s->text[at] == ' ' || s->text[at] == '-')) {
        f->plus = s->text[at] == '+', f->space = s->text[at] == ' ';
        at++;
    }
    f->zero = at < s->bytes && s->text[at] == '0';
    percent p = {.format = s, .at = at};
    TRY(take_size(m, &p, &f->width));
    if (p.at < s->bytes && s->text[p.at] == ',') f->comma = true, p.at++;
    if (p.at < s->bytes && s->text[p.at] == '.') {
        p.at++;
        TRY(take_size(m, &p, &f->precision));
    }
    if (p.at < s->bytes) f->type = s->text[p.at++];
    if (p.at < s->bytes || (f->type && !strchr("sdfFeEgGxXo", f->type)))
        return jinja_unsupported(m, "the format `%.40s`", s->text);
    return STATUS_OK;
}

static status find_field(machine *m, fields *f, string *name, value *out) {
    const arguments *a = f->arguments;
    size_t index = 0;
    bool number = name->bytes > 0 && name->bytes < 6;
    for (uint32_t i = 0; i < name->bytes; i++) {
        number &= name->text[i] >= '0' && name->text[i] <= '9';
        if (number) index = index * 10 + (size_t)(name->text[i] - '0');
        if (strchr(".[", name->text[i]))
            return jinja_unsupported(m, "an attribute in a format");
    }
    if (!name->bytes) index = f->next++, number = true;
    if (number && index < a->count) {
        *out = a->items[index];
        return STATUS_OK;
    }
    if (number)
        return jinja_raise(m, "IndexError",
                           "Replacement index %zu out of range for positional args tuple",
                           index);
    for (size_t i = 0; i < a->named_count; i++)
        if (jinja_string_equal((string *)a->names[i], name)) {
            *out = a->named[i];
            return STATUS_OK;
        }
    return jinja_raise(m, "KeyError", "'%.*s'", (int)name->bytes, name->text);
}

/* {name!r:spec}; the text between the braces. */
static status put_replacement(machine *m, builder *b, fields *f, string *inside) {
    const char *colon = memchr(inside->text, ':', inside->bytes);
    size_t end = colon ? (size_t)(colon - inside->text) : inside->bytes, name_end = end;
    spec form;
    value name, v, rest;
    bool repr = false;
    const char *mark = memchr(inside->text, '!', end);
    if (mark) {
        name_end = (size_t)(mark - inside->text);
        if (end != name_end + 2 || (mark[1] != 'r' && mark[1] != 's'))
            return jinja_unsupported(m, "this conversion in a format");
        repr = mark[1] == 'r';
    }
    if (memchr(inside->text, '{', inside->bytes))
        return jinja_unsupported(m, "a format in a format");
    TRY(jinja_part(m, inside, 0, name_end, &name));
    TRY(find_field(m, f, name.string, &v));
    TRY(jinja_part(m, inside, colon ? end + 1 : inside->bytes, inside->bytes, &rest));
    TRY(read_spec(m, rest.string, 0, &form));
    bool number = (v.kind == V_INT || v.kind == V_REAL) && !mark;
    if (v.kind != V_STRING && !number && !mark && rest.string->bytes)
        return jinja_unsupported(m, "a format of a %s", jinja_type(&v));
    if (number && form.type == 's')
        return jinja_raise(m, "ValueError", "Unknown format code 's' for object of type '%s'",
                           jinja_type(&v));
    if (!number && form.type && form.type != 's')
        return jinja_raise(m, "ValueError",
                           "Unknown format code '%c' for object of type 'str'", form.type);
    return number ? put_number(m, b, &form, v) : put_text(m, b, &form, v, repr);
}

status jinja_format(machine *m, string *format, const arguments *a, value *out) {
    fields f = {.arguments = a};
    builder b = {0};
    static const arguments none;
    if (!a) f.arguments = &none;
    for (size_t at = 0; at < format->bytes;) {
        char c = format->text[at], next = at + 1 < format->bytes ? format->text[at + 1] : 0;
        TRY(jinja_step(m, 1));
        if ((c == '{' || c == '}') && next == c) {
            TRY(jinja_put_part(m, &b, format, at, at + 1));
            at += 2;
        } else if (c == '}') {
            return jinja_raise(m, "ValueError", "Single '}' encountered in format string");
        } else if (c == '{') {
            const char *end = memchr(format->text + at, '}', format->bytes - at);
            value inside;
            if (!end) return jinja_raise(m, "ValueError", "expected '}' before end of string");
            TRY(jinja_part(m, format, at + 1, (size_t)(end - format->text), &inside));
            TRY(put_replacement(m, &b, &f, inside.string));
            at = (size_t)(end - format->text) + 1;
        } else {
            size_t end = at;
            while (end < format->bytes && format->text[end] != '{' && format->text[end] != '}')
                end++;
            TRY(jinja_put_part(m, &b, format, at, end));
            at = end;
        }
    }
    return jinja_build(m, &b, out);
}
