/* write.c: values as text: str, repr and json.dumps, as Python writes them. */
#include "data/jinja/loop.h"
#include "data/unicode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { WRITE_DEPTH = 200 };

static status enter(machine *m) {
    if (m->depth > JINJA_DEPTH + WRITE_DEPTH)
        return jinja_raise(m, "RecursionError", "maximum recursion depth exceeded");
    m->depth++;
    return jinja_step(m, 1);
}

/* ---- repr ---- */

static bool is_printable(uint32_t code) {
    if (code < 0x7f) return code >= ' ';
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return !(c == UTF8PROC_CATEGORY_CN || c == UTF8PROC_CATEGORY_CC ||
             c == UTF8PROC_CATEGORY_CF || c == UTF8PROC_CATEGORY_CS ||
             c == UTF8PROC_CATEGORY_CO || c == UTF8PROC_CATEGORY_ZL ||
             c == UTF8PROC_CATEGORY_ZP || c == UTF8PROC_CATEGORY_ZS);
}

static size_t escape(uint32_t code, char quote, char out[16]) {
    const char *named = code == '\n'   ? "\\n"
                        : code == '\r' ? "\\r"
                        : code == '\t' ? "\\t"
                                       : NULL;
    if (named) return (size_t)snprintf(out, 16, "%s", named);
    if (code == (unsigned char)quote || code == '\\')
        return (size_t)snprintf(out, 16, "\\%c", (int)code);
    if (is_printable(code)) return 0;
    return (size_t)snprintf(out, 16,
                            code < 0x100     ? "\\x%02x"
                            : code < 0x10000 ? "\\u%04x"
                                             : "\\U%08x",
                            code);
}

static status put_string_repr(machine *m, builder *b, const string *s) {
    bool single = memchr(s->text, '\'', s->bytes) != NULL;
    char quote = single && !memchr(s->text, '"', s->bytes) ? '"' : '\'';
    size_t plain = 0; /* what is not written yet begins here */
    TRY(jinja_step(m, s->bytes / 16));
    TRY(jinja_put(m, b, &quote, 1));
    for (size_t i = 0; i < s->bytes;) {
        char out[16];
        size_t n = utf8_length((unsigned char)s->text[i]);
        size_t more = escape(utf8_get(s->text + i), quote, out);
        if (more) {
            TRY(jinja_put_part(m, b, s, plain, i));
            TRY(jinja_put_instead(m, b, s, i, out, more));
            plain = i + n;
        }
        i += n;
    }
    TRY(jinja_put_part(m, b, s, plain, s->bytes));
    return jinja_put(m, b, &quote, 1);
}

static status put_items(machine *m, builder *b, const list *l, const char *open,
                        const char *close) {
    TRY(jinja_put_word(m, b, open));
    for (size_t i = 0; i < l->count; i++) {
        if (i) TRY(jinja_put_word(m, b, ", "));
        TRY(jinja_put_repr(m, b, l->items[i]));
    }
    return jinja_put_word(m, b, close);
}

static status put_dict_repr(machine *m, builder *b, const dict *d) {
    TRY(jinja_put_word(m, b, "{"));
    for (size_t i = 0; i < d->count; i++) {
        if (i) TRY(jinja_put_word(m, b, ", "));
        TRY(jinja_put_repr(m, b, d->pairs[i].key));
        TRY(jinja_put_word(m, b, ": "));
        TRY(jinja_put_repr(m, b, d->pairs[i].value));
    }
    return jinja_put_word(m, b, "}");
}

static status put_range(machine *m, builder *b, const range *r) {
    char text[100], step[40] = "";
    if (r->step != 1) snprintf(step, sizeof step, ", %lld", (long long)r->step);
    snprintf(text, sizeof text, "range(%lld, %lld%s)", (long long)r->start, (long long)r->stop,
             step);
    return jinja_put_word(m, b, text);
}

static status put_view(machine *m, builder *b, const value *v) {
    static const char *const heads[] = {"dict_keys([", "dict_values([", "dict_items(["};
    list *l;
    TRY(jinja_iterate(m, *v, &l));
    return put_items(m, b, l, heads[v->view->of], "])");
}

static status put_other(machine *m, builder *b, const value *v) {
    char text[NUMBER_TEXT + 80];
    switch (v->kind) {
    case V_UNDEFINED:
        return jinja_put_word(m, b, "Undefined");
    case V_NONE:
        return jinja_put_word(m, b, "None");
    case V_BOOL:
        return jinja_put_word(m, b, v->truth ? "True" : "False");
    case V_INT:
        snprintf(text, sizeof text, "%lld", (long long)v->integer);
        return jinja_put_word(m, b, text);
    case V_REAL:
        jinja_real_text(v->real, text);
        return jinja_put_word(m, b, text);
    case V_NAMESPACE:
        TRY(jinja_put_word(m, b, "<Namespace "));
        TRY(put_dict_repr(m, b, v->dict));
        return jinja_put_word(m, b, ">");
    default:
        return jinja_unsupported(m, "a %s as text", jinja_type(v));
    }
}

status jinja_put_repr(machine *m, builder *b, value v) {
    TRY(enter(m));
    status s;
    if (v.kind == V_STRING)
        s = put_string_repr(m, b, v.string);
    else if (v.kind == V_LIST)
        s = put_items(m, b, v.list, "[", "]");
    else if (v.kind == V_TUPLE)
        s = put_items(m, b, v.list, "(", v.list->count == 1 ? ",)" : ")");
    else if (v.kind == V_DICT)
        s = put_dict_repr(m, b, v.dict);
    else if (v.kind == V_VIEW)
        s = put_view(m, b, &v);
    else if (v.kind == V_RANGE)
        s = put_range(m, b, v.range);
    else
        s = put_other(m, b, &v);
    m->depth--;
    return s;
}

/* ---- str ---- */

status jinja_put_value(machine *m, builder *b, value v) {
    if (v.kind == V_STRING) return jinja_put_string(m, b, v.string);
    return v.kind == V_UNDEFINED ? STATUS_OK : jinja_put_repr(m, b, v);
}

status jinja_text(machine *m, value v, string **out) {
    if (v.kind != V_STRING) {
        builder b = {0};
        TRY(jinja_put_value(m, &b, v));
        TRY(jinja_build(m, &b, &v));
    }
    *out = v.string;
    return STATUS_OK;
}

/* ---- json ---- */

static status put_json(machine *m, builder *b, value v, const json_form *f, int level);

static size_t json_escape(uint32_t code, bool ascii, char out[16]) {
    static const char named[] = "\"\"\\\\\nn\rr\tt\bb\ff";
    for (const char *p = named; *p && code < 0x80; p += 2)
        if ((uint32_t)*p == code) return (size_t)snprintf(out, 16, "\\%c", p[1]);
    if (code >= ' ' && (!ascii || code < 0x7f)) return 0;
    if (code < 0x10000) return (size_t)snprintf(out, 16, "\\u%04x", code);
    code -= 0x10000;
    return (size_t)snprintf(out, 16, "\\u%04x\\u%04x", 0xD800 + (code >> 10),
                            0xDC00 + (code & 0x3FF));
}

static status put_json_string(machine *m, builder *b, const string *s, bool ascii) {
    size_t plain = 0;
    TRY(jinja_step(m, s->bytes / 16));
    TRY(jinja_put(m, b, "\"", 1));
    for (size_t i = 0; i < s->bytes;) {
        char out[16];
        unsigned char c = (unsigned char)s->text[i];
        size_t n = utf8_length(c);
        if ((c >= ' ' && c < 0x7f && c != '"' && c != '\\') || (c >= 0x80 && !ascii)) {
            i += n;
            continue;
        }
        size_t more = json_escape(utf8_get(s->text + i), ascii, out);
        if (more) {
            TRY(jinja_put_part(m, b, s, plain, i));
            TRY(jinja_put_instead(m, b, s, i, out, more));
            plain = i + n;
        }
        i += n;
    }
    TRY(jinja_put_part(m, b, s, plain, s->bytes));
    return jinja_put(m, b, "\"", 1);
}

static status put_break(machine *m, builder *b, const json_form *f, int level) {
    if (!f->indent) return STATUS_OK;
    TRY(jinja_put(m, b, "\n", 1));
    for (int i = 0; i < level; i++) TRY(jinja_put_string(m, b, f->indent));
    return STATUS_OK;
}

static status put_json_list(machine *m, builder *b, const list *l, const json_form *f,
                            int level) {
    if (!l->count) return jinja_put_word(m, b, "[]");
    TRY(jinja_put_word(m, b, "["));
    for (size_t i = 0; i < l->count; i++) {
        if (i) TRY(jinja_put_string(m, b, f->item));
        TRY(put_break(m, b, f, level + 1));
        TRY(put_json(m, b, l->items[i], f, level + 1));
    }
    TRY(put_break(m, b, f, level));
    return jinja_put_word(m, b, "]");
}

static status put_json_real(machine *m, builder *b, double d) {
    char text[NUMBER_TEXT];
    jinja_real_text(d, text);
    return jinja_put_word(m, b,
                          isnan(d)   ? "NaN"
                          : isinf(d) ? d < 0 ? "-Infinity" : "Infinity"
                                     : text);
}

static status put_json_key(machine *m, builder *b, const value *key, const json_form *f) {
    if (key->kind == V_STRING) return put_json_string(m, b, key->string, f->ascii);
    if (key->kind != V_NONE && key->kind != V_BOOL && key->kind != V_INT &&
        key->kind != V_REAL)
        return jinja_raise(m, "TypeError",
                           "keys must be str, int, float, bool or None, not %s",
                           jinja_type(key));
    TRY(jinja_put_word(m, b, "\""));
    TRY(put_json(m, b, *key, f, 0));
    return jinja_put_word(m, b, "\"");
}

static status sort_pairs(machine *m, const dict *d, pair **out) {
    TRY(jinja_new(m, (d->count + 1) * sizeof **out, out));
    if (d->count) memcpy(*out, d->pairs, d->count * sizeof **out);
    TRY(jinja_step(m, d->count * d->count / 4));
    for (size_t i = 1; i < d->count; i++) { /* few, and mostly in order */
        pair p = (*out)[i];
        size_t k = i;
        for (; k > 0; k--) {
            int order;
            TRY(jinja_compare(m, &p.key, &(*out)[k - 1].key, "<", &order));
            if (order >= 0) break;
            (*out)[k] = (*out)[k - 1];
        }
        (*out)[k] = p;
    }
    return STATUS_OK;
}

static status put_json_dict(machine *m, builder *b, const dict *d, const json_form *f,
                            int level) {
    pair *pairs = d->pairs;
    if (!d->count) return jinja_put_word(m, b, "{}");
    if (f->sort) TRY(sort_pairs(m, d, &pairs));
    TRY(jinja_put_word(m, b, "{"));
    for (size_t i = 0; i < d->count; i++) {
        if (i) TRY(jinja_put_string(m, b, f->item));
        TRY(put_break(m, b, f, level + 1));
        TRY(put_json_key(m, b, &pairs[i].key, f));
        TRY(jinja_put_string(m, b, f->key));
        TRY(put_json(m, b, pairs[i].value, f, level + 1));
    }
    TRY(put_break(m, b, f, level));
    return jinja_put_word(m, b, "}");
}

static status put_json(machine *m, builder *b, value v, const json_form *f, int level) {
    TRY(enter(m));
    status s = STATUS_OK;
    switch (v.kind) {
    case V_STRING:
        s = put_json_string(m, b, v.string, f->ascii);
        break;
    case V_LIST:
    case V_TUPLE:
        s = put_json_list(m, b, v.list, f, level);
        break;
    case V_DICT:
        s = put_json_dict(m, b, v.dict, f, level);
        break;
    case V_NONE:
        s = jinja_put_word(m, b, "null");
        break;
    case V_BOOL:
        s = jinja_put_word(m, b, v.truth ? "true" : "false");
        break;
    case V_INT:
        s = put_other(m, b, &v);
        break;
    case V_REAL:
        s = put_json_real(m, b, v.real);
        break;
    default:
        s = jinja_raise(m, "TypeError", "Object of type %s is not JSON serializable",
                        jinja_type(&v));
    }
    m->depth--;
    return s;
}

status jinja_put_json(machine *m, builder *b, value v, const json_form *form) {
    return put_json(m, b, v, form, 0);
}
