/* character_set.c: see character_set.h. */
#include "data/character_set.h"
#include "common/alloc.h"
#include "data/unicode.h"

#include <ctype.h>
#include <stdio.h>
#include <strings.h>

status character_write(text_buffer *b, uint32_t code) {
    char text[16];
    if (code < 0x80 && isalnum((int)code))
        snprintf(text, sizeof text, "%c", (int)code);
    else
        snprintf(text, sizeof text, "\\x{%X}", code);
    return text_append_string(b, text);
}

static status put_range(text_buffer *b, uint32_t first, uint32_t last) {
    TRY(character_write(b, first));
    if (first == last) return STATUS_OK;
    TRY(text_append(b, "-", 1));
    return character_write(b, last);
}

/* The category, or all categories that begin with its one letter, as of Unicode 16. */
static status put_category(text_buffer *b, const char *name) {
    static const char names[][3] = {"Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc",
                                    "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe",
                                    "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs",
                                    "Zl", "Zp", "Cc", "Cf", "Cs", "Co"};
    TRY(text_append_string(b, "\\p{"));
    TRY(text_append_string(b, name));
    TRY(text_append(b, "}", 1));
    for (size_t i = 0; i < unicode_newer_count; i++) {
        const unicode_range *r = &unicode_newer[i];
        if (!strncmp(names[r->category], name, strlen(name)))
            TRY(put_range(b, r->first, r->last));
    }
    return STATUS_OK;
}

/* \w. Outside a class Oniguruma counts some fractions and superscripts of Latin-1 as well. */
static status put_word(text_buffer *b, bool in_class) {
    if (!in_class) TRY(text_append_string(b, "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"));
    TRY(put_category(b, "L"));
    TRY(put_category(b, "M"));
    TRY(put_category(b, "Nd"));
    TRY(put_category(b, "Nl"));
    TRY(put_category(b, "Pc"));
    return text_append_string(
        b,
        "\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}");
}

/* A named set: of POSIX brackets and \p{Name}. */
static status put_named(text_buffer *b, const char *name, bool in_class, bool *known) {
    static const char space[] =
        "\\x{9}-\\x{D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}"
        "\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
    static const char *const categories[] = {
        "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N", "Nd",
        "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm",
        "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};
    static const char *const scripts[] = {
        "Hiragana", "Katakana", "Hangul", "Latin", "Greek",   "Cyrillic", "Arabic",
        "Hebrew",   "Thai",     "Lao",    "Khmer", "Myanmar", "Bengali",  "Devanagari"};
    *known = true;
    for (size_t i = 0; i < sizeof categories / sizeof *categories; i++)
        if (!strcasecmp(name, categories[i])) return put_category(b, categories[i]);
    if (!strcasecmp(name, "word")) return put_word(b, in_class);
    if (!strcasecmp(name, "space")) return text_append_string(b, space);
    if (!strcasecmp(name, "digit")) return put_category(b, "Nd");
    if (!strcasecmp(name, "xdigit")) return text_append_string(b, "0-9A-Fa-f");
    if (!strcasecmp(name, "cntrl")) return put_category(b, "Cc");
    if (!strcasecmp(name, "punct")) {
        TRY(put_category(b, "P"));
        return put_category(b, "S");
    }
    if (!strcasecmp(name, "alpha") || !strcasecmp(name, "alnum")) {
        TRY(text_append_string(b, "\\p{Alphabetic}"));
        TRY(put_category(b, "L"));
        return strcasecmp(name, "alnum") ? STATUS_OK : put_category(b, "Nd");
    }
    if (!strcasecmp(name, "Han"))
        return text_append_string(b, "\\p{sc:Han}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}");
    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++) {
        if (strcasecmp(name, scripts[i])) continue;
        TRY(text_append_string(b, "\\p{sc:"));
        TRY(text_append_string(b, scripts[i]));
        return text_append(b, "}", 1);
    }
    *known = false;
    return STATUS_OK;
}

void character_set_free(character_set *s) {
    mem_free(s->positive.data);
    for (int i = 0; i < s->negatives; i++) mem_free(s->negative[i].data);
}

static status put_braced(text_buffer *b, const char *before, const text_buffer *body,
                         const char *after) {
    TRY(text_append_string(b, before));
    TRY(text_append(b, body->data, body->bytes));
    return text_append_string(b, after);
}

status character_set_write(text_buffer *b, const character_set *s) {
    if (!s->negatives) {
        if (!s->positive.bytes) return text_append_string(b, s->inverted ? "(?s:.)" : "(?!)");
        return put_braced(b, s->inverted ? "[^" : "[", &s->positive, "]");
    }
    TRY(text_append_string(b, "(?:"));
    if (s->inverted) {
        if (s->positive.bytes) TRY(put_braced(b, "(?![", &s->positive, "])"));
        for (int i = 0; i < s->negatives; i++)
            TRY(put_braced(b, "(?=[", &s->negative[i], "])"));
        return text_append_string(b, "(?s:.))");
    }
    for (int i = 0; i < s->negatives; i++)
        TRY(put_braced(b, i ? "|[^" : "[^", &s->negative[i], "]"));
    if (s->positive.bytes) TRY(put_braced(b, "|[", &s->positive, "]"));
    return text_append(b, ")", 1);
}

status character_set_add_range(character_set *s, uint32_t first, uint32_t last) {
    return put_range(&s->positive, first, last);
}

status character_set_add_named(character_set *s, const char *name, bool negated, bool *known) {
    text_buffer *b = &s->positive;
    *known = false;
    if (negated) {
        if (s->negatives == CHARACTER_SET_NEGATIVES) return STATUS_OK;
        b = &s->negative[s->negatives++];
        *b = (text_buffer){0};
    }
    return put_named(b, name, s->in_class, known);
}

status character_set_add_set(character_set *s, character_set *other, bool *can) {
    *can = !other->negatives && !(other->inverted && s->negatives == CHARACTER_SET_NEGATIVES);
    if (!*can) return STATUS_OK;
    if (!other->inverted)
        return text_append(&s->positive, other->positive.data, other->positive.bytes);
    s->negative[s->negatives++] = other->positive;
    other->positive = (text_buffer){0};
    return STATUS_OK;
}
