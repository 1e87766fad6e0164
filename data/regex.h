/* regex.h: the patterns of tokenizer.json: Oniguruma's syntax run by PCRE2 with its JIT.
 *
 * Matches come in the order and with the rules of the Rust crate `onig`, which `tokenizers`
 * uses. Bounded: the JIT has its own stack; what exceeds it falls back to PCRE2's interpreter
 * on the heap; both give up cleanly (STATUS_DATA) past a limit. A regex is immutable and
 * shared, a scratch belongs to one thread. */
#ifndef NIBBLE_DATA_REGEX_H
#define NIBBLE_DATA_REGEX_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct regex regex;
typedef struct regex_scratch regex_scratch;

/* A pattern, or (literal) the text itself. STATUS_MODEL when it is not understood. */
status regex_open(regex **out, const char *pattern, size_t bytes, bool literal);
void regex_close(regex *r); /* NULL is fine */

status regex_scratch_open(regex_scratch **out);
void regex_scratch_close(regex_scratch *s); /* NULL is fine */

/* A walk over the matches in valid UTF-8; start with {.text, .bytes} and the rest zero. */
typedef struct regex_walk {
    const char *text;
    size_t bytes;
    size_t start, end; /* the match found */
    size_t next;       /* where the next search begins */
    bool skip_empty;   /* the next empty match does not count */
} regex_walk;

/* Finds the next match; *found says whether there was one. */
status regex_next(const regex *r, regex_scratch *s, regex_walk *w, bool *found);

#endif
