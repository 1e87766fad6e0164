/* oniguruma.c: see oniguruma.h. One pass from left to right; `atom` remembers where in the
 * output the last thing that a quantifier could repeat begins, so that it can be wrapped in a
 * group. */
#include "data/oniguruma.h"
#include "data/character_set.h"
#include "data/text_buffer.h"
#include "data/unicode.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_DEPTH = 64, NO_ATOM = -1 };

typedef struct translator {
    const char *start, *at, *end;
    text_buffer out;
    long atom; /* offset in `out`, or NO_ATOM */
    bool quantified, fold;
    uint32_t literal; /* the literal character just before, 0 if none: for foldings */
    int depth;
    struct {
        size_t start;
        bool fold;
    } group[MAX_DEPTH];
} translator;

static status refuse(const translator *t, const char *what) {
    return status_fail(STATUS_MODEL, "pattern \"%.200s\": %s at byte %td is not supported",
                       t->start, what, t->at - t->start);
}

static status add_named(translator *t, character_set *s, const char *name, bool negated) {
    bool known;
    TRY(character_set_add_named(s, name, negated, &known));
    return known ? STATUS_OK : refuse(t, "this property");
}

/* ---- escapes ---- */

static uint32_t take_code(translator *t) {
    uint32_t code = utf8_get(t->at);
    t->at += utf8_length((unsigned char)*t->at);
    return code;
}

static status take_hex(translator *t, int most, uint32_t *code) {
    int digits = 0;
    *code = 0;
    for (; digits < most && t->at < t->end && isxdigit((unsigned char)*t->at);
         digits++, t->at++)
        *code = *code * 16 + (uint32_t)strtoul((char[2]){*t->at, 0}, NULL, 16);
    return digits && *code < 0x110000 && (*code < 0xD800 || *code > 0xDFFF)
               ? STATUS_OK
               : refuse(t, "this number");
}

static status take_braced_hex(translator *t, uint32_t *code) {
    t->at++;
    TRY(take_hex(t, 8, code));
    if (t->at == t->end || *t->at++ != '}') return refuse(t, "this number");
    return STATUS_OK;
}

/* After the backslash: an escape that stands for one character. *is is false (and nothing is
 * taken) when it is something else. */
static status take_character_escape(translator *t, uint32_t *code, bool *is) {
    static const char from[] = "tnrfvae", to[] = "\t\n\r\f\v\a\033";
    *is = true;
    char c = *t->at;
    const char *simple = isalpha((unsigned char)c) ? strchr(from, c) : NULL;
    if (simple) {
        t->at++;
        *code = (uint32_t)to[simple - from];
    } else if (c == 'x' || c == 'u') {
        t->at++;
        if (t->at < t->end && *t->at == '{' && c == 'x') return take_braced_hex(t, code);
        TRY(take_hex(t, c == 'x' ? 2 : 4, code));
        if (c == 'x' && *code > 0x7F) return refuse(t, "a byte above \\x7F");
    } else if (c == '0') {
        for (*code = 0; t->at < t->end && *t->at >= '0' && *t->at <= '7' && *code < 8; t->at++)
            *code = *code * 8 + (uint32_t)(*t->at - '0');
    } else if (isalnum((unsigned char)c)) {
        *is = false;
    } else {
        *code = take_code(t);
    }
    return STATUS_OK;
}

/* After the backslash: w s d h and their capitals, p{..} and P{..}, into the set. */
static status take_set_escape(translator *t, character_set *s, bool *is) {
    *is = true;
    static const char letters[] = "wsdh";
    static const char *const names[] = {"word", "space", "digit", "xdigit"};
    char c = *t->at, name[32] = {0};
    const char *letter = strchr(letters, tolower((unsigned char)c));
    if (c && letter) {
        t->at++;
        return add_named(t, s, names[letter - letters], isupper((unsigned char)c));
    }
    *is = c == 'p' || c == 'P';
    if (!*is) return STATUS_OK;
    bool negated = c == 'P';
    t->at++;
    if (t->at == t->end || *t->at++ != '{') return refuse(t, "this property");
    if (t->at < t->end && *t->at == '^') {
        negated = !negated;
        t->at++;
    }
    size_t n = 0;
    for (; t->at < t->end && *t->at != '}'; t->at++) {
        if (*t->at == ' ' || *t->at == '_') continue;
        if (n + 1 == sizeof name) return refuse(t, "this property");
        name[n++] = *t->at;
    }
    if (t->at == t->end) return refuse(t, "an open property");
    TRY(add_named(t, s, name, negated));
    t->at++;
    return STATUS_OK;
}

/* ---- classes ---- */

static status take_class(translator *t, character_set *s, int depth);

static status take_posix(translator *t, character_set *s) {
    const char *name = t->at + 2;
    bool negated = name < t->end && *name == '^';
    if (negated) name++;
    const char *stop = memchr(name, ':', (size_t)(t->end - name));
    char copy[16] = {0};
    if (!stop || stop + 1 == t->end || stop[1] != ']' || stop - name >= (long)sizeof copy)
        return refuse(t, "this bracket");
    memcpy(copy, name, (size_t)(stop - name));
    TRY(add_named(t, s, copy, negated));
    t->at = stop + 2;
    return STATUS_OK;
}

static status take_nested(translator *t, character_set *s, int depth) {
    if (depth == MAX_DEPTH) return refuse(t, "so deep a class");
    character_set inner = {.in_class = true};
    bool can = true;
    t->at++;
    status code = take_class(t, &inner, depth + 1);
    if (code == STATUS_OK) code = character_set_add_set(s, &inner, &can);
    if (!can) code = refuse(t, "a nested class with complements");
    character_set_free(&inner);
    return code;
}

/* One character or escape inside a class; *single says that it was one character. */
static status take_member(translator *t, character_set *s, uint32_t *code, bool *single) {
    *single = true;
    if (*t->at != '\\') {
        *code = take_code(t);
        return STATUS_OK;
    }
    if (++t->at == t->end) return refuse(t, "a backslash at the end");
    if (*t->at == 'b') {
        t->at++;
        *code = 8;
        return STATUS_OK;
    }
    TRY(take_character_escape(t, code, single));
    if (*single) return STATUS_OK;
    bool is;
    TRY(take_set_escape(t, s, &is));
    return is ? STATUS_OK : refuse(t, "this escape");
}

/* After the '[': up to and with the ']'. */
static status take_class(translator *t, character_set *s, int depth) {
    if (t->at < t->end && *t->at == '^') {
        s->inverted = true;
        t->at++;
    }
    for (bool first = true; t->at < t->end; first = false) {
        if (*t->at == ']' && !first) {
            t->at++;
            return STATUS_OK;
        }
        size_t left = (size_t)(t->end - t->at);
        if (left > 1 && t->at[0] == '&' && t->at[1] == '&')
            return refuse(t, "a class intersection");
        if (left > 1 && t->at[0] == '[' && t->at[1] == ':') {
            TRY(take_posix(t, s));
            continue;
        }
        if (*t->at == '[') {
            TRY(take_nested(t, s, depth));
            continue;
        }
        uint32_t low, high;
        bool single;
        TRY(take_member(t, s, &low, &single));
        if (!single) continue;
        high = low;
        left = (size_t)(t->end - t->at);
        if (left > 1 && t->at[0] == '-' && t->at[1] != ']') { /* a range */
            t->at++;
            if (*t->at == '[') return refuse(t, "this range");
            TRY(take_member(t, s, &high, &single));
            if (!single || high < low) return refuse(t, "this range");
        }
        TRY(character_set_add_range(s, low, high));
    }
    return refuse(t, "an open class");
}

static status emit_set(translator *t, character_set *s, status read) {
    if (read == STATUS_OK) {
        t->atom = (long)t->out.bytes;
        read = character_set_write(&t->out, s);
    }
    character_set_free(s);
    return read;
}

/* ---- outside classes ---- */

static status emit_literal(translator *t, uint32_t code) {
    static const char *const ligatures[] = {"ss", "ff", "fi", "fl", "st"};
    if (t->fold && code < 0x80)
        for (size_t i = 0; i < sizeof ligatures / sizeof *ligatures; i++)
            if ((uint32_t)tolower((int)t->literal) == (uint32_t)ligatures[i][0] &&
                (uint32_t)tolower((int)code) == (uint32_t)ligatures[i][1])
                return refuse(t, "case-insensitive text that equals a ligature");
    t->atom = (long)t->out.bytes;
    TRY(character_write(&t->out, code));
    t->literal = code < 0x80 ? code : 0;
    return STATUS_OK;
}

static status emit_text(translator *t, const char *text, bool atom) {
    t->atom = atom ? (long)t->out.bytes : NO_ATOM;
    return text_append_string(&t->out, text);
}

static status emit_boundary(translator *t, bool inside) {
    static const char *const at[] = {"(?:(?<=", ")(?!", ")|(?<!", ")(?=", "))"};
    static const char *const not_at[] = {"(?:(?<=", ")(?=", ")|(?<!", ")(?!", "))"};
    character_set word = {0};
    bool known;
    status s = character_set_add_named(&word, "word", false, &known);
    t->atom = (long)t->out.bytes;
    for (int i = 0; i < 5 && s == STATUS_OK; i++) {
        s = text_append_string(&t->out, (inside ? not_at : at)[i]);
        if (s == STATUS_OK && i < 4) s = character_set_write(&t->out, &word);
    }
    character_set_free(&word);
    return s;
}

static status take_escape(translator *t) {
    if (++t->at == t->end) return refuse(t, "a backslash at the end");
    uint32_t code;
    bool is;
    TRY(take_character_escape(t, &code, &is));
    if (is) return emit_literal(t, code);
    t->literal = 0;
    character_set s = {0};
    status read = take_set_escape(t, &s, &is);
    if (is) return emit_set(t, &s, read);
    character_set_free(&s);
    char c = *t->at++;
    switch (c) {
    case 'b':
        return emit_boundary(t, false);
    case 'B':
        return emit_boundary(t, true);
    case 'A':
        return emit_text(t, "\\A", true);
    case 'z':
        return emit_text(t, "\\z", true);
    case 'Z':
        return emit_text(t, "\\Z", true);
    case 'G':
        return emit_text(t, "\\G", true);
    case 'R':
        return emit_text(t, "(?>\\r\\n|[\\n-\\r\\x{85}\\x{2028}\\x{2029}])", true);
    default:
        if (c >= '1' && c <= '9' && (t->at == t->end || !isdigit((unsigned char)*t->at)))
            return emit_text(t, (char[4]){'\\', c, 0}, true);
        t->at--;
        return refuse(t, "this escape");
    }
}

/* What a quantifier repeats becomes one group where PCRE2 would read the two otherwise. */
static status wrap_atom(translator *t) {
    size_t tail = t->out.bytes - (size_t)t->atom;
    TRY(text_reserve(&t->out, 4));
    char *from = t->out.data + t->atom;
    memmove(from + 3, from, tail);
    memcpy(from, "(?:", 3);
    t->out.bytes += 3;
    return text_append(&t->out, ")", 1);
}

static status before_quantifier(translator *t) {
    t->literal = 0;
    if (t->atom == NO_ATOM) return refuse(t, "a quantifier with nothing to repeat");
    if (t->quantified) TRY(wrap_atom(t));
    t->quantified = true;
    return STATUS_OK;
}

/* * + ? with a following ? (lazy) or + (possessive). */
static status take_quantifier(translator *t) {
    TRY(before_quantifier(t));
    TRY(text_append(&t->out, t->at++, 1));
    if (t->at < t->end && (*t->at == '?' || *t->at == '+'))
        TRY(text_append(&t->out, t->at++, 1));
    return STATUS_OK;
}

static const char *take_number(const char *p, const char *end, long *n) {
    for (*n = -1; p < end && isdigit((unsigned char)*p) && *n < 100000; p++)
        *n = (*n < 0 ? 0 : *n) * 10 + (*p - '0');
    return p;
}

/* {n} {n,} {n,m} {,m}; any other brace is a literal. {n}? is an optional {n}; a + after the
 * brace repeats the whole (it is no possessive mark as in PCRE2). */
static status take_interval(translator *t) {
    long low, high;
    const char *p = take_number(t->at + 1, t->end, &low);
    bool comma = p < t->end && *p == ',';
    high = low;
    if (comma) p = take_number(p + 1, t->end, &high);
    if (p == t->end || *p != '}' || (low < 0 && high < 0)) {
        t->at++;
        t->quantified = false;
        return emit_literal(t, '{');
    }
    if (high >= 0 && low > high) return refuse(t, "this interval");
    TRY(before_quantifier(t));
    char text[48];
    snprintf(text, sizeof text, "{%ld,", low < 0 ? 0 : low);
    TRY(text_append_string(&t->out, text));
    snprintf(text, sizeof text, high < 0 ? "}" : "%ld}", high);
    TRY(text_append_string(&t->out, text));
    t->at = p + 1;
    if (t->at == t->end || *t->at != '?') return STATUS_OK;
    t->at++;
    if (!comma) TRY(wrap_atom(t));
    return text_append(&t->out, "?", 1);
}

static status push_group(translator *t, const char *open) {
    if (t->depth == MAX_DEPTH) return refuse(t, "so deep a group");
    t->group[t->depth].start = t->out.bytes;
    t->group[t->depth++].fold = t->fold;
    t->atom = NO_ATOM;
    return text_append_string(&t->out, open);
}

/* (?imx-imx) and (?imx-imx:...; Ruby's m is PCRE2's s. */
static status take_options(translator *t, bool at_start) {
    char open[16] = "(?";
    bool on = true, fold = t->fold;
    size_t n = 2;
    for (t->at += 2; t->at < t->end && strchr("im-", *t->at); t->at++) {
        if (n + 2 == sizeof open) return refuse(t, "this group");
        if (*t->at == '-') on = false;
        if (*t->at == 'i') fold = on;
        open[n++] = *t->at == 'm' ? 's' : *t->at;
    }
    if (t->at == t->end || (*t->at != ':' && *t->at != ')')) return refuse(t, "this group");
    open[n] = *t->at;
    if (*t->at++ == ':')
        TRY(push_group(t, open));
    else if (at_start)
        TRY(text_append_string(&t->out, open));
    else
        return refuse(t, "an option in the middle of a group");
    t->fold = fold;
    return STATUS_OK;
}

static status take_group(translator *t, bool at_start) {
    static const char *const plain[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"};
    size_t left = (size_t)(t->end - t->at);
    t->literal = 0;
    if (left > 1 && t->at[1] == '*') return refuse(t, "a callout");
    if (left < 2 || t->at[1] != '?') {
        t->at++;
        return push_group(t, "(");
    }
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (left >= strlen(plain[i]) && !memcmp(t->at, plain[i], strlen(plain[i]))) {
            t->at += strlen(plain[i]);
            return push_group(t, plain[i]);
        }
    return take_options(t, at_start);
}

static status take_close(translator *t) {
    if (!t->depth) return refuse(t, "a parenthesis that closes nothing");
    t->depth--;
    t->atom = (long)t->group[t->depth].start;
    t->fold = t->group[t->depth].fold;
    t->literal = 0;
    t->at++;
    return text_append(&t->out, ")", 1);
}

static status take_one(translator *t, size_t *fresh) {
    char c = *t->at;
    if (c == '*' || c == '+' || c == '?') return take_quantifier(t);
    if (c == '{') return take_interval(t);
    t->quantified = false;
    if (c == '\\') return take_escape(t);
    if (c == '(') {
        TRY(take_group(t, t->out.bytes == *fresh));
        *fresh = t->out.bytes;
        return STATUS_OK;
    }
    if (c == ')') return take_close(t);
    if (c == '[') {
        character_set s = {.in_class = true};
        t->at++;
        t->literal = 0;
        return emit_set(t, &s, take_class(t, &s, 0));
    }
    if (c == '|' || c == '.' || c == '^' || c == '$') {
        t->at++;
        t->literal = 0;
        return emit_text(t, (char[2]){c, 0}, c == '.');
    }
    return emit_literal(t, take_code(t));
}

status oniguruma_to_pcre2(const char *pattern, size_t bytes, char **out, size_t *out_bytes) {
    translator t = {.start = pattern, .at = pattern, .end = pattern + bytes, .atom = NO_ATOM};
    size_t fresh = 0;
    status s = text_reserve(&t.out, 1);
    if (s == STATUS_OK && utf8_valid(pattern, bytes) != bytes)
        s = status_fail(STATUS_MODEL, "a pattern is not valid UTF-8");
    while (s == STATUS_OK && t.at < t.end) s = take_one(&t, &fresh);
    if (s == STATUS_OK && t.depth) s = refuse(&t, "an open parenthesis");
    if (s == STATUS_OK) s = text_append(&t.out, "", 1);
    if (s != STATUS_OK) {
        mem_free(t.out.data);
        return s;
    }
    *out = t.out.data;
    *out_bytes = t.out.bytes - 1;
    return STATUS_OK;
}
