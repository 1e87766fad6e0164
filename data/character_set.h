/* character_set.h: a set of characters with Oniguruma's meaning, as text of PCRE2.
 *
 * A set is the union of ranges and named sets and of complements of named sets. PCRE2's own \w
 * and \s mean something else, and its tables may be older (Unicode 14 in Debian 12, 16 in the
 * library), so named sets are spelled out. What cannot be said is that a character left a
 * category: U+1171E is Mc since Unicode 15 and stays in PCRE2 10.42's \p{Mn}. */
#ifndef NIBBLE_DATA_CHARACTER_SET_H
#define NIBBLE_DATA_CHARACTER_SET_H

#include "common/status.h"
#include "data/text_buffer.h"

#include <stdbool.h>
#include <stdint.h>

enum { CHARACTER_SET_NEGATIVES = 8 };

typedef struct character_set {
    text_buffer positive;                          /* the inside of a class */
    text_buffer negative[CHARACTER_SET_NEGATIVES]; /* the same, to be complemented */
    int negatives;
    bool inverted; /* the whole is complemented */
    bool in_class; /* it stands in brackets, where \w has six characters less */
} character_set;

void character_set_free(character_set *s);

status character_set_add_range(character_set *s, uint32_t first, uint32_t last);
/* A general category, script or POSIX name ("L", "Han", "space"), or its complement. *known is
 * false for another name, or when there are too many complements. */
status character_set_add_named(character_set *s, const char *name, bool negated, bool *known);
/* Another set, which may lose its content. *can is false, and nothing done, when it holds
 * complements itself. */
status character_set_add_set(character_set *s, character_set *other, bool *can);

/* Appends something that matches one character of the set. */
status character_set_write(text_buffer *out, const character_set *s);
/* Appends one literal character. */
status character_write(text_buffer *out, uint32_t code);

#endif
