/* glob.c: see glob.h. */
#include "data/glob.h"

#include <stddef.h>
#include <string.h>

enum { NAMES = 64 }; /* of a pattern; a longer one matches nothing */

typedef struct span {
    const char *at, *end;
} span;

bool glob_is_pattern(const char *text) {
    return strpbrk(text, "*?[") != NULL;
}

/* Whether c is in the class that begins behind [; *next is behind its ]. Without a ] the
 * bracket is a character like others. */
static bool in_class(const char *p, const char *end, char c, const char **next) {
    bool negated = p < end && (*p == '!' || *p == '^'), found = false;
    const char *first = p += negated, *close = first + (first < end);
    while (close < end && *close != ']') close++;
    if (close >= end) {
        *next = first - negated;
        return c == '[';
    }
    for (; p < close; p++) {
        bool range = p + 2 < close && p[1] == '-';
        unsigned char from = (unsigned char)*p, to = (unsigned char)p[range ? 2 : 0];
        found |= (unsigned char)c >= from && (unsigned char)c <= to;
        if (range) p += 2;
    }
    *next = close + 1;
    return found != negated;
}

/* One name. A * that was passed is tried one character longer, the last of them first. */
static bool name_matches(span pattern, span name) {
    const char *p = pattern.at, *n = name.at, *star = NULL, *from = NULL;
    while (n < name.end) {
        const char *next = p + 1;
        bool ends = p == pattern.end;
        if (!ends && *p == '*') {
            star = ++p;
            from = n;
        } else if (!ends && (*p == '[' ? in_class(p + 1, pattern.end, *n, &next)
                                       : *p == '?' || *p == *n)) {
            p = next;
            n++;
        } else if (star) {
            p = star;
            n = ++from;
        } else
            return false;
    }
    while (p < pattern.end && *p == '*') p++;
    return p == pattern.end;
}

/* Cuts at slashes; how many names, -1 when there are more than NAMES. */
static int cut(const char *text, span *out) {
    int count = 0;
    for (const char *p = text;; p++) {
        if (count == NAMES) return -1;
        const char *end = p + strcspn(p, "/");
        if (end > p || !*end) out[count++] = (span){p, end};
        if (!*end) return count;
        p = end;
    }
}

static bool is_any(span name) {
    return name.end - name.at == 2 && !memcmp(name.at, "**", 2);
}

bool glob_matches(const char *pattern, const char *path) {
    span p[NAMES], n[NAMES];
    int patterns = cut(pattern, p), names = cut(path, n);
    bool row[NAMES + 1] = {true}; /* row[i]: the pattern so far matches the first i names */
    if (patterns < 0 || names < 0) return false;
    for (int k = 0; k < patterns; k++) {
        bool any = is_any(p[k]), last = k == patterns - 1;
        if (any) { /* behind the last name, at least one */
            bool before = row[0];
            if (last) row[0] = false;
            for (int i = 1; i <= names; i++) {
                bool here = row[i];
                row[i] = before || row[i - 1] || (here && !last);
                before = here;
            }
            continue;
        }
        for (int i = names; i > 0; i--) row[i] = row[i - 1] && name_matches(p[k], n[i - 1]);
        row[0] = false;
    }
    return row[names];
}
