/* scanner.c: see scanner.h. `\s+(?!\S)|\s+` is: a run of white space without its last
 * character, unless the text ends there or the run is a single character. */
#include "data/scanner.h"
#include "data/unicode.h"

#include <stdbool.h>
#include <string.h>

const char scanner_gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

#define CL100K(digits)                                                                        \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" digits                \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* The class of the character at p, and where the next begins. */
static inline enum unicode_class class_at(const char *p, const char **next) {
    unsigned char c = (unsigned char)*p;
    if (c < 0x80) {
        *next = p + 1;
        return (enum unicode_class)unicode_classes[c];
    }
    *next = p + utf8_length(c);
    return unicode_class_of(utf8_get(p));
}

/* Past the characters of one class. */
static inline const char *run(const char *p, const char *end, enum unicode_class wanted) {
    const char *next;
    while (p < end && class_at(p, &next) == wanted) p = next;
    return p;
}

/* After an apostrophe: the end of s t m d re ve ll, or NULL. `fold` adds capitals and the long
 * s, which folds to s. */
static inline const char *contraction(const char *p, const char *end, bool fold) {
    if (p == end) return NULL;
    unsigned char bit = fold ? 0x20 : 0, a = (unsigned char)*p | bit;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return p + 1;
    if (end - p < 2) return NULL;
    unsigned char b = (unsigned char)p[1] | bit;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return p + 2;
    return fold && !memcmp(p, "\xC5\xBF", 2) ? p + 2 : NULL;
}

/* At white space: \s+(?!\S)|\s+ */
static inline const char *space(const char *p, const char *end) {
    const char *last = p, *q = p, *next;
    while (q < end && class_at(q, &next) >= CLASS_SPACE) {
        last = q;
        q = next;
    }
    return q == end || last == p ? q : last;
}

const char *scanner_gpt2(const char *p, const char *end) {
    const char *next, *start = p;
    if (*p == '\'') {
        const char *short_form = contraction(p + 1, end, false);
        if (short_form) return short_form;
    }
    if (*p == ' ' && p + 1 < end) p++;
    enum unicode_class c = class_at(p, &next);
    return c >= CLASS_SPACE ? space(start, end) : run(next, end, c);
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ */
static inline const char *space_or_lines(const char *p, const char *end) {
    const char *newline = NULL, *last = p, *q = p, *next;
    enum unicode_class c;
    while (q < end && (c = class_at(q, &next)) >= CLASS_SPACE) {
        last = q;
        q = next;
        if (c == CLASS_NEWLINE) newline = next;
    }
    if (newline) return newline;
    return q == end || last == p ? q : last;
}

static inline const char *cl100k(const char *p, const char *end, int digits) {
    const char *next, *after;
    if (*p == '\'') {
        const char *short_form = contraction(p + 1, end, true);
        if (short_form) return short_form;
    }
    enum unicode_class c = class_at(p, &next);
    if (c == CLASS_LETTER) return run(next, end, CLASS_LETTER);
    if (c == CLASS_NUMBER) {
        for (int i = 1; (!digits || i < digits) && next < end; i++) {
            if (class_at(next, &after) != CLASS_NUMBER) break;
            next = after;
        }
        return next;
    }
    if (c != CLASS_NEWLINE && next < end && class_at(next, &after) == CLASS_LETTER)
        return run(after, end, CLASS_LETTER);
    if (*p == ' ' && next < end && class_at(next, &after) == CLASS_OTHER) {
        c = CLASS_OTHER;
        next = after;
    }
    if (c != CLASS_OTHER) return space_or_lines(p, end);
    return run(run(next, end, CLASS_OTHER), end, CLASS_NEWLINE);
}

static const char *cl100k_three(const char *p, const char *end) {
    return cl100k(p, end, 3);
}
static const char *cl100k_one(const char *p, const char *end) {
    return cl100k(p, end, 1);
}
static const char *cl100k_any(const char *p, const char *end) {
    return cl100k(p, end, 0);
}

scanner scanner_for(const char *pattern, size_t bytes) {
    static const struct {
        const char *pattern;
        scanner scan;
    } known[] = {{scanner_gpt2_pattern, scanner_gpt2},
                 {CL100K("{1,3}"), cl100k_three},
                 {CL100K(""), cl100k_one},
                 {CL100K("+"), cl100k_any}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i].pattern) == bytes && !memcmp(known[i].pattern, pattern, bytes))
            return known[i].scan;
    return NULL;
}
