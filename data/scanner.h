/* scanner.h: the split patterns that nearly all byte-level tokenizers use, written by hand.
 *
 * GPT-2's pattern and the family of cl100k (Llama 3, Qwen 2): the alternatives in order,
 * without backtracking, several times faster than PCRE2's JIT. tests/test_tokenizer.c compares
 * them with the patterns themselves on random text. */
#ifndef NIBBLE_DATA_SCANNER_H
#define NIBBLE_DATA_SCANNER_H

#include <stddef.h>

/* The end of the piece that starts at p < end, in valid UTF-8. Every byte belongs to a piece.
 */
typedef const char *(*scanner)(const char *p, const char *end);

/* The scanner for exactly this pattern, or NULL. */
scanner scanner_for(const char *pattern, size_t bytes);

/* The pattern of the ByteLevel pre-tokenizer (GPT-2's). */
extern const char scanner_gpt2_pattern[];
const char *scanner_gpt2(const char *p, const char *end);

#endif
