/* json_scan.c: see json_scan.h. Recursive descent over the bytes; strings are copied once
 * where they hold no escape. Allocations that fail leave by json.c's longjmp, so nothing is
 * held but jansson's own memory. */
#include "common/json_scan.h"

#include <errno.h>
#include <locale.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH = 200, KEY = 256, NUMBER = 64, DIGITS = 18 };

typedef struct scan {
    const char *at, *end;
    int depth;
} scan;

static json_t *scan_value(scan *s);

static inline void skip_space(scan *s) {
    while (s->at < s->end &&
           (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t'))
        s->at++;
}

static inline bool take(scan *s, char c) {
    if (s->at == s->end || *s->at != c) return false;
    s->at++;
    return true;
}

/* ---- strings ---- */

/* How many bytes the character at p has, 0 when it is none of UTF-8 (RFC 3629). */
static size_t character(const unsigned char *p, const unsigned char *end) {
    static const struct {
        unsigned char first, last, low, high; /* of the first byte; of the second */
        size_t bytes;
    } forms[] = {{0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
                 {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3},
                 {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
                 {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (*p < forms[i].first || *p > forms[i].last) continue;
        if ((size_t)(end - p) < forms[i].bytes || p[1] < forms[i].low || p[1] > forms[i].high)
            return 0;
        for (size_t k = 2; k < forms[i].bytes; k++)
            if ((p[k] & 0xc0) != 0x80) return 0;
        return forms[i].bytes;
    }
    return 0;
}

/* Whether eight bytes are all printable ASCII but quotes and backslashes. */
static inline bool is_plain(const char *text) {
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    uint64_t w;
    memcpy(&w, text, sizeof w);
    uint64_t quote = w ^ ones * '"', slash = w ^ ones * '\\';
    return !((w | ((w - ones * 0x20) & ~w) | ((quote - ones) & ~quote) |
              ((slash - ones) & ~slash)) &
             high);
}

/* Past what needs no thought: up to a quote, a backslash, or what is not allowed. */
static const char *skip_plain(const char *p, const char *end) {
    for (;;) {
        while (end - p >= 8 && is_plain(p)) p += 8;
        if (p == end) return p;
        unsigned char c = (unsigned char)*p;
        if (c == '"' || c == '\\' || c < 0x20) return p;
        size_t n =
            c < 0x80 ? 1 : character((const unsigned char *)p, (const unsigned char *)end);
        if (!n) return end;
        p += n;
    }
}

static int hex4(const char *p, const char *end) {
    int value = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* The code point of an escape behind \u, a pair of surrogates taken together; -1: none. */
static int32_t code_point(const char **at, const char *end) {
    int32_t high = hex4(*at, end);
    if (high < 0) return -1;
    *at += 4;
    if (high < 0xd800 || high > 0xdfff) return high;
    if (high > 0xdbff || end - *at < 6 || (*at)[0] != '\\' || (*at)[1] != 'u') return -1;
    int32_t low = hex4(*at + 2, end);
    if (low < 0xdc00 || low > 0xdfff) return -1;
    *at += 6;
    return 0x10000 + ((high - 0xd800) << 10 | (low - 0xdc00));
}

static size_t encode(int32_t c, char *out) {
    unsigned char *p = (unsigned char *)out;
    if (c < 0x80) {
        p[0] = (unsigned char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char marks[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; c >>= 6) p[i] = (unsigned char)(0x80 | (c & 0x3f));
    p[0] = (unsigned char)(marks[n] | c);
    return n;
}

/* The string behind a quote, unescaped, into `out`, which has room for all up to its end.
 * Returns where it ends, behind the quote; NULL when it is none. */
static const char *unescape(const char *p, const char *end, char *out, size_t *bytes) {
    static const char letters[] = "\"\"\\\\//b\bf\fn\nr\rt\t"; /* a letter, what it means */
    size_t n = 0;
    for (;;) {
        const char *stop = skip_plain(p, end);
        memcpy(out + n, p, (size_t)(stop - p));
        n += (size_t)(stop - p);
        if (stop == end || (*stop != '"' && *stop != '\\')) return NULL;
        p = stop + 1;
        if (*stop == '"') break;
        if (p == end) return NULL;
        const char *letter = letters;
        while (*letter && *letter != *p) letter += 2;
        if (*p == 'u') {
            p++;
            int32_t c = code_point(&p, end);
            if (c < 0) return NULL;
            n += encode(c, out + n);
        } else if (*letter) {
            out[n++] = letter[1];
            p++;
        } else
            return NULL;
    }
    *bytes = n;
    return p;
}

/* Behind the quote. The end is looked for first, so that an escaped string's room is known. */
static json_t *scan_string(scan *s) {
    const char *from = s->at, *stop = skip_plain(from, s->end);
    if (stop < s->end && *stop == '"') {
        s->at = stop + 1;
        return json_stringn_nocheck(from, (size_t)(stop - from));
    }
    while (stop < s->end && *stop == '\\' && s->end - stop > 2)
        stop = skip_plain(stop + 2, s->end);
    if (stop == s->end || *stop != '"') return NULL;
    json_malloc_t allocate;
    json_free_t release;
    json_get_alloc_funcs(&allocate, &release);
    char *room = allocate((size_t)(stop - from) + 1);
    size_t bytes;
    const char *end = room ? unescape(from, s->end, room, &bytes) : NULL;
    json_t *value = end ? json_stringn_nocheck(room, bytes) : NULL;
    if (room) release(room);
    s->at = end ? end : s->at;
    return value;
}

/* A key into `out` [KEY], NUL-terminated; longer ones, and those that hold a NUL, are left to
 * jansson. */
static bool scan_key(scan *s, char *out) {
    if (!take(s, '"')) return false;
    const char *end = s->end - s->at > KEY - 1 ? s->at + KEY - 1 : s->end;
    size_t bytes;
    const char *behind = unescape(s->at, end, out, &bytes);
    if (!behind || memchr(out, 0, bytes)) return false;
    out[bytes] = 0;
    s->at = behind;
    return true;
}

/* ---- numbers ---- */

static const char *skip_digits(const char *p, const char *end) {
    while (p < end && *p >= '0' && *p <= '9') p++;
    return p;
}

static json_t *scan_real(scan *s, const char *end) {
    char text[NUMBER];
    size_t n = (size_t)(end - s->at);
    if (n >= sizeof text || *localeconv()->decimal_point != '.') return NULL;
    memcpy(text, s->at, n);
    text[n] = 0;
    errno = 0;
    double value = strtod(text, NULL);
    if (errno) return NULL;
    s->at = end;
    return json_real(value);
}

/* Behind the digits of a whole number: the end of a fraction and an exponent, NULL when they
 * are broken. */
static const char *skip_fraction(const char *p, const char *end) {
    if (p < end && *p == '.') {
        const char *digits = p + 1;
        p = skip_digits(digits, end);
        if (p == digits) return NULL;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        const char *digits = p + 1;
        if (digits < end && (*digits == '+' || *digits == '-')) digits++;
        p = skip_digits(digits, end);
        if (p == digits) return NULL;
    }
    return p;
}

static json_t *scan_number(scan *s) {
    bool negative = *s->at == '-';
    const char *digits = s->at + negative, *p = skip_digits(digits, s->end);
    if (p == digits || (*digits == '0' && p > digits + 1)) return NULL;
    const char *end = skip_fraction(p, s->end);
    if (!end) return NULL;
    if (end > p) return scan_real(s, end);
    if (p - digits > DIGITS) return NULL;
    json_int_t value = 0;
    for (const char *d = digits; d < p; d++) value = value * 10 + (*d - '0');
    s->at = p;
    return json_integer(negative ? -value : value);
}

/* ---- the rest ---- */

static json_t *scan_word(scan *s, const char *word, json_t *value) {
    size_t n = strlen(word);
    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n) != 0) return NULL;
    s->at += n;
    return value;
}

/* One more member; false when it is none, or its key was there. */
static bool add_member(scan *s, json_t *object) {
    char key[KEY];
    skip_space(s);
    if (!scan_key(s, key)) return false;
    skip_space(s);
    if (!take(s, ':')) return false;
    json_t *value = scan_value(s);
    size_t before = json_object_size(object);
    return value && !json_object_set_new_nocheck(object, key, value) &&
           json_object_size(object) == before + 1;
}

static bool add_element(scan *s, json_t *list) {
    json_t *value = scan_value(s);
    return value && !json_array_append_new(list, value);
}

/* The members behind an opening bracket. */
static json_t *scan_members(scan *s, json_t *out, char close, bool (*add)(scan *, json_t *)) {
    skip_space(s);
    if (take(s, close)) return out;
    if (++s->depth > DEPTH) goto unsure;
    for (;;) {
        if (!add(s, out)) goto unsure;
        skip_space(s);
        if (take(s, ',')) continue;
        if (!take(s, close)) goto unsure;
        s->depth--;
        return out;
    }
unsure:
    json_decref(out);
    return NULL;
}

static json_t *scan_value(scan *s) {
    skip_space(s);
    if (s->at == s->end) return NULL;
    switch (*s->at) {
    case '{':
        s->at++;
        return scan_members(s, json_object(), '}', add_member);
    case '[':
        s->at++;
        return scan_members(s, json_array(), ']', add_element);
    case '"':
        s->at++;
        return scan_string(s);
    case 't':
        return scan_word(s, "true", json_true());
    case 'f':
        return scan_word(s, "false", json_false());
    case 'n':
        return scan_word(s, "null", json_null());
    default:
        return *s->at == '-' || (*s->at >= '0' && *s->at <= '9') ? scan_number(s) : NULL;
    }
}

json_t *json_scan(const char *text, size_t bytes) {
    scan s = {.at = text, .end = text + bytes};
    json_t *value = scan_value(&s);
    skip_space(&s);
    if (value && s.at == s.end) return value;
    json_decref(value);
    return NULL;
}
