/* unicode.h: code points, UTF-8 and the character classes that tokenizers split by.
 *
 * The classes are those of the libraries that Hugging Face's `tokenizers` 0.23 is built on,
 * which differ from utf8proc's and PCRE2's by Unicode version: Oniguruma (patterns) and Rust
 * (Digits, Whitespace, Lowercase). What differs is in unicode.c's tables, checked for every
 * code point by tests/interop/tokenizers_unicode.py. Text is valid UTF-8 once utf8_valid said
 * so. */
#ifndef NIBBLE_DATA_UNICODE_H
#define NIBBLE_DATA_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How many leading bytes are valid UTF-8 (no surrogates, nothing overlong); `bytes` when all
 * are. */
size_t utf8_valid(const char *text, size_t bytes);

/* Bytes of the maximal ill-formed piece at the start of `text`, which is one U+FFFD of a lossy
 * decoding (the Unicode standard's and Rust's rule). At least 1. */
size_t utf8_bad(const char *text, size_t bytes);

/* Bytes of a character by its first byte; the text is valid. */
static inline size_t utf8_length(unsigned char first) {
    return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

/* The code point at `p` in valid text. */
static inline uint32_t utf8_get(const char *p) {
    const unsigned char *u = (const unsigned char *)p;
    if (u[0] < 0x80) return u[0];
    if (u[0] < 0xE0) return (u[0] & 0x1Fu) << 6 | (u[1] & 0x3Fu);
    if (u[0] < 0xF0) return (u[0] & 0x0Fu) << 12 | (u[1] & 0x3Fu) << 6 | (u[2] & 0x3Fu);
    return (u[0] & 0x07u) << 18 | (u[1] & 0x3Fu) << 12 | (u[2] & 0x3Fu) << 6 | (u[3] & 0x3Fu);
}

/* Where the character that ends before `p` starts; p > start. */
static inline const char *utf8_back(const char *start, const char *p) {
    do p--;
    while (p > start && ((unsigned char)*p & 0xC0) == 0x80);
    return p;
}

/* Writes 1 to 4 bytes; returns how many. */
size_t utf8_put(uint32_t code, char *out);

/* What the well-known split patterns tell apart: \p{L}, \p{N}, \s without and with line ends.
 */
enum unicode_class { CLASS_OTHER, CLASS_LETTER, CLASS_NUMBER, CLASS_SPACE, CLASS_NEWLINE };

/* Fills the tables below; called once before anything else here, thread-safe. */
void unicode_setup(void);
enum { UNICODE_TABLE = 0x20000 }; /* code points in the table; rarer ones are computed */
extern uint8_t unicode_classes[UNICODE_TABLE];
enum unicode_class unicode_class_rare(uint32_t code);
static inline enum unicode_class unicode_class_of(uint32_t code) {
    return code < UNICODE_TABLE ? (enum unicode_class)unicode_classes[code]
                                : unicode_class_rare(code);
}

static inline bool unicode_is_space(uint32_t code) { /* White_Space */
    return unicode_class_of(code) >= CLASS_SPACE;
}
bool unicode_is_word(uint32_t code);        /* \w of Rust's regex */
bool unicode_is_numeric(uint32_t code);     /* Rust's char::is_numeric */
bool unicode_is_punctuation(uint32_t code); /* of the Punctuation pre-tokenizer */
/* Rust's char::to_lowercase; returns how many code points (1 or 2). */
int unicode_lower(uint32_t code, uint32_t out[2]);

/* Whether normalization leaves the character alone although a newer Unicode does not: the
 * `tokenizers` library normalizes by the tables of Unicode 9. */
bool unicode_is_inert(uint32_t code);

/* Ranges that Oniguruma 6.9.10 (Unicode 16) puts into a general category while PCRE2 10.42
 * (Unicode 14) does not know them. `category` is utf8proc's. */
typedef struct unicode_range {
    uint32_t first, last;
    uint8_t category;
} unicode_range;
extern const unicode_range unicode_newer[];
extern const size_t unicode_newer_count;

#endif
