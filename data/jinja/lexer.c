/* lexer.c: the rules of jinja2's lexer with trim_blocks and lstrip_blocks: where a tag ends,
 * and which white space around it goes away. */
#include "data/jinja/lexer.h"
#include "common/alloc.h"
#include "data/unicode.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct lexer {
    compiler *c;
    const char *text, *end;
    const char *at;
    const char *counted; /* lines and columns are counted up to here */
    int line, column;
    char open[256]; /* brackets that wait for their end */
    size_t open_count;
    bool line_starts; /* the last piece ended with a line */
} lexer;

status jinja_syntax(const compiler *c, int line, int column, const char *format, ...) {
    char what[400];
    va_list list;
    va_start(list, format);
    vsnprintf(what, sizeof what, format, list);
    va_end(list);
    return status_fail(c->code, "%s:%d:%d: %s", c->where, line, column, what);
}

void *jinja_compiler_new(compiler *c, size_t bytes) {
    return jinja_allocate(c->arena, bytes);
}

/* Counts lines up to `to`. */
static void count(lexer *x, const char *to) {
    for (; x->counted < to; x->counted++) {
        if (*x->counted == '\n')
            x->line++, x->column = 1;
        else if (((unsigned char)*x->counted & 0xC0) != 0x80)
            x->column++;
    }
}

static status wrong(lexer *x, const char *at, const char *what) {
    count(x, at);
    return jinja_syntax(x->c, x->line, x->column, "%s", what);
}

static status add(lexer *x, token_type type, const char *at, const char *text, size_t bytes,
                  token **out) {
    compiler *c = x->c;
    if (mem_grow(&c->tokens, &c->capacity, c->count + 1, sizeof *c->tokens, "a template"))
        return STATUS_MEMORY;
    count(x, at);
    *out = &c->tokens[c->count++];
    **out = (token){
        .type = type, .line = x->line, .column = x->column, .text = text, .bytes = bytes};
    return STATUS_OK;
}

static const char *skip_space(const lexer *x, const char *p) {
    while (p < x->end && jinja_space(utf8_get(p))) p += utf8_length((unsigned char)*p);
    return p;
}

static const char *skip_space_back(const char *start, const char *end) {
    while (end > start) {
        const char *p = utf8_back(start, end);
        if (!jinja_space(utf8_get(p))) break;
        end = p;
    }
    return end;
}

static bool is_at(const lexer *x, const char *p, const char *word) {
    size_t n = strlen(word);
    return (size_t)(x->end - p) >= n && !memcmp(p, word, n);
}

/* `sign` follows the tag's beginning; `keep`: a {{ tag, which leaves the line's start alone. */
static status add_data(lexer *x, const char *start, const char *end, char sign, bool keep) {
    if (sign == '-') {
        end = skip_space_back(start, end);
    } else if (sign != '+' && !keep) {
        const char *line = end;
        while (line > start && line[-1] != '\n') line--;
        bool begins = line > start || x->line_starts;
        if (begins && skip_space_back(line, end) == line) end = line;
    }
    token *t;
    return end > start ? add(x, T_DATA, start, start, (size_t)(end - start), &t) : STATUS_OK;
}

/* A tag's end at p ("%}"): its length with sign and white space, 0 when there is none. */
static size_t tag_end(const lexer *x, const char *p, const char *mark, bool trims) {
    const char *q = p;
    bool minus = *p == '-', plus = *p == '+';
    if ((minus || (plus && trims)) && is_at(x, p + 1, mark)) {
        q = p + 3;
        if (minus) q = skip_space(x, q);
    } else if (is_at(x, p, mark)) {
        q = p + 2;
        if (trims && q < x->end && *q == '\n') q++;
    }
    return (size_t)(q - p);
}

static void move(lexer *x, const char *to) {
    if (to > x->at) x->line_starts = to[-1] == '\n';
    x->at = to;
}

/* "{%- raw -%}": the length of the tag, else 0. */
static size_t raw_tag(const lexer *x, const char *p, const char *word, bool trims) {
    const char *q = p + 2;
    if (!is_at(x, p, "{%")) return 0;
    if (q < x->end && (*q == '-' || *q == '+')) q++;
    q = skip_space(x, q);
    if (!is_at(x, q, word)) return 0;
    q = skip_space(x, q + strlen(word));
    size_t n = q < x->end ? tag_end(x, q, "%}", trims) : 0;
    return n ? (size_t)(q - p) + n : 0;
}

static char sign_at(const lexer *x, const char *p) {
    return p < x->end && (*p == '-' || *p == '+') ? *p : 0;
}

static status lex_raw(lexer *x) {
    for (const char *p = x->at; p < x->end; p++) {
        size_t n = raw_tag(x, p, "endraw", true);
        if (!n) continue;
        TRY(add_data(x, x->at, p, sign_at(x, p + 2), false));
        move(x, p + n);
        return STATUS_OK;
    }
    return wrong(x, x->at, "Missing end of raw directive");
}

static status lex_comment(lexer *x) {
    for (const char *p = x->at; p < x->end; p++) {
        size_t n = tag_end(x, p, "#}", true);
        if (!n) continue;
        move(x, p + n);
        return STATUS_OK;
    }
    return wrong(x, x->at, "Missing end of comment tag");
}

/* ---- inside tags ---- */

static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '_';
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* digits, single _ between them; the place behind. */
static const char *digits(const lexer *x, const char *p) {
    const char *start = p;
    while (p < x->end && (is_digit(*p) || (*p == '_' && p > start && p + 1 < x->end &&
                                           is_digit(p[1]) && is_digit(p[-1]))))
        p++;
    return p;
}

static const char *real_end(const lexer *x, const char *p) {
    if (p > x->text && p[-1] == '.') return NULL;
    const char *q = digits(x, p), *r = q;
    if (q == p) return NULL;
    if (q + 1 < x->end && *q == '.' && is_digit(q[1])) r = digits(x, q + 1);
    if (r < x->end && (*r == 'e' || *r == 'E')) {
        const char *e = r + 1;
        if (e < x->end && (*e == '+' || *e == '-')) e++;
        if (e < x->end && is_digit(*e)) return digits(x, e);
    }
    return r > q ? r : NULL;
}

static int base_of(char c) {
    c |= 0x20;
    return c == 'b' ? 2 : c == 'o' ? 8 : c == 'x' ? 16 : 0;
}

static bool is_digit_of(char c, int base) {
    int v = is_digit(c)                              ? c - '0'
            : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                     : 99;
    return v < base;
}

static status lex_number(lexer *x) {
    const char *p = x->at, *q = real_end(x, p);
    bool real = q != NULL;
    int base = 10;
    if (!real && *p == '0' && p + 2 < x->end && base_of(p[1]) &&
        is_digit_of(p[2] == '_' && p + 3 < x->end ? p[3] : p[2], base_of(p[1]))) {
        base = base_of(p[1]);
        for (q = p + 2; q < x->end && (is_digit_of(*q, base) || *q == '_');) q++;
    } else if (!real && *p == '0') {
        for (q = p + 1;
             q < x->end && (*q == '0' || (*q == '_' && q + 1 < x->end && q[1] == '0'));)
            q++;
    } else if (!real) {
        q = digits(x, p);
    }
    char word[400];
    size_t n = 0;
    for (const char *c = base == 10 ? p : p + 2; c < q && n + 1 < sizeof word; c++)
        if (*c != '_') word[n++] = *c;
    word[n] = 0;
    token *t;
    TRY(add(x, real ? T_REAL : T_INTEGER, p, p, (size_t)(q - p), &t));
    if (real) {
        t->real = strtod(word, NULL);
    } else {
        unsigned long long u = strtoull(word, NULL, base);
        if (n > 64 || u > INT64_MAX)
            return wrong(x, p, "integers of more than 64 bits are not supported");
        t->integer = (int64_t)u;
    }
    move(x, q);
    return STATUS_OK;
}

/* \x41, \u00e9, \U0001f600: *p stands behind the letter; false: too few digits. */
static bool hex(const char **p, const char *end, int n, uint32_t *out) {
    *out = 0;
    for (int i = 0; i < n; i++, ++*p) {
        if (*p >= end || !is_digit_of(**p, 16)) return false;
        char c = **p;
        *out = *out * 16 + (uint32_t)(is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return true;
}

/* One escape; *p stands behind the backslash. Returns how many bytes go to `out`, or -1. */
static int unescape(const char **p, const char *end, char *out) {
    static const char plain[] = "\\\\''\"\"a\ab\bf\fn\nr\rt\tv\v";
    char c = *(*p)++;
    uint32_t code;
    if (c == '\n') return 0;
    for (const char *q = plain; *q; q += 2)
        if (*q == c) {
            *out = q[1];
            return 1;
        }
    if (c == 'x' || c == 'u' || c == 'U') {
        if (!hex(p, end, c == 'x' ? 2 : c == 'u' ? 4 : 8, &code)) return -1;
        if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return -1;
        return (int)utf8_put(code, out);
    }
    if (c >= '0' && c <= '7') {
        code = (uint32_t)(c - '0');
        for (int i = 0; i < 2 && *p < end && **p >= '0' && **p <= '7'; i++)
            code = code * 8 + (uint32_t)(*(*p)++ - '0');
        return (int)utf8_put(code, out);
    }
    if (c == 'N') return -1;
    out[0] = '\\', out[1] = c;
    return 2;
}

static status lex_string(lexer *x) {
    const char *p = x->at + 1, *q = p;
    char quote = *x->at;
    while (q < x->end && *q != quote) q += *q == '\\' ? 2 : 1;
    if (q >= x->end) return wrong(x, x->at, "a string without its end");
    char *out = jinja_compiler_new(x->c, (size_t)(q - p) * 2 + 8);
    size_t n = 0;
    if (!out) return STATUS_MEMORY;
    while (p < q) {
        if (*p != '\\') {
            out[n++] = *p++;
            continue;
        }
        p++;
        int more = unescape(&p, q, out + n);
        if (more < 0)
            return wrong(x, x->at, "an escape in a string that is broken or not supported");
        n += (size_t)more;
    }
    token *t;
    TRY(add(x, T_STRING, x->at, out, n, &t));
    move(x, q + 1);
    return STATUS_OK;
}

static status balance(lexer *x, char c) {
    const char *pairs = "{}()[]", *p = strchr(pairs, c);
    if (!p) return STATUS_OK;
    if ((p - pairs) % 2 == 0) {
        if (x->open_count == sizeof x->open)
            return wrong(x, x->at, "brackets are nested too deeply");
        x->open[x->open_count++] = p[1];
        return STATUS_OK;
    }
    if (!x->open_count || x->open[--x->open_count] != c)
        return wrong(x, x->at, "a closing bracket that closes nothing");
    return STATUS_OK;
}

static status lex_operator(lexer *x) {
    static const char *const signs[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                        "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                        ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    token *t;
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (is_at(x, x->at, signs[i])) {
            TRY(balance(x, *x->at));
            TRY(add(x, T_OPERATOR, x->at, signs[i], strlen(signs[i]), &t));
            move(x, x->at + strlen(signs[i]));
            return STATUS_OK;
        }
    char what[60];
    snprintf(what, sizeof what, "unexpected character '%.*s'",
             (int)utf8_length((unsigned char)*x->at), x->at);
    return wrong(x, x->at, what);
}

static status lex_name(lexer *x) {
    const char *q = x->at;
    while (q < x->end && is_word(*q)) q++;
    if (q < x->end && (unsigned char)*q >= 0x80 && !jinja_space(utf8_get(q)))
        return wrong(x, q, "names of other letters than a to z are not supported");
    size_t n = (size_t)(q - x->at);
    char *name = jinja_compiler_new(x->c, n + 1);
    if (!name) return STATUS_MEMORY;
    memcpy(name, x->at, n);
    token *t;
    TRY(add(x, T_NAME, x->at, name, n, &t));
    move(x, q);
    return STATUS_OK;
}

/* A tag from behind "{%" or "{{" to behind its end. */
static status lex_tag(lexer *x, bool print) {
    token *t;
    for (;;) {
        const char *p = skip_space(x, x->at);
        move(x, p);
        if (p >= x->end) return STATUS_OK; /* the parser misses the end */
        size_t n = x->open_count ? 0 : tag_end(x, p, print ? "}}" : "%}", !print);
        if (n) {
            TRY(add(x, print ? T_PRINT_END : T_BLOCK_END, p, p, n, &t));
            move(x, p + n);
            return STATUS_OK;
        }
        if (is_digit(*p))
            TRY(lex_number(x));
        else if (is_word(*p))
            TRY(lex_name(x));
        else if (*p == '"' || *p == '\'')
            TRY(lex_string(x));
        else
            TRY(lex_operator(x));
    }
}

static status lex_text(lexer *x) {
    token *t;
    while (x->at < x->end) {
        const char *p = x->at;
        while (p < x->end && !(*p == '{' && p + 1 < x->end && strchr("%{#", p[1]) && p[1]))
            p++;
        if (p == x->end) return add(x, T_DATA, x->at, x->at, (size_t)(p - x->at), &t);
        char sign = sign_at(x, p + 2), tag = p[1];
        size_t raw = raw_tag(x, p, "raw", false);
        TRY(add_data(x, x->at, p, sign, tag == '{'));
        if (raw) {
            move(x, p + raw);
            TRY(lex_raw(x));
            continue;
        }
        if (tag != '#') TRY(add(x, tag == '%' ? T_BLOCK : T_PRINT, p, p, 2, &t));
        move(x, p + 2 + (sign != 0));
        x->open_count = 0;
        TRY(tag == '#' ? lex_comment(x) : lex_tag(x, tag == '{'));
    }
    return STATUS_OK;
}

/* Lines end with \n; one at the end of the text does not count. */
static status normalize(compiler *c, const char *text, size_t bytes, lexer *x) {
    char *out = jinja_compiler_new(c, bytes + 1);
    size_t n = 0;
    if (!out) return STATUS_MEMORY;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == '\r' && i + 1 < bytes && text[i + 1] == '\n') continue;
        out[n++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (n && out[n - 1] == '\n') n--;
    *x = (lexer){.c = c,
                 .text = out,
                 .end = out + n,
                 .at = out,
                 .counted = out,
                 .line = 1,
                 .column = 1,
                 .line_starts = true};
    return STATUS_OK;
}

status jinja_lex(compiler *c, const char *text, size_t bytes) {
    lexer x;
    token *t;
    if (utf8_valid(text, bytes) != bytes)
        return status_fail(c->code, "%s: no UTF-8 from byte %zu on", c->where,
                           utf8_valid(text, bytes));
    TRY(normalize(c, text, bytes, &x));
    TRY(lex_text(&x));
    return add(&x, T_END, x.end, x.end, 0, &t);
}
