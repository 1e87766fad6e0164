/* hash.h: XXH3-128, the identity of tensors, files and datasets. Not cryptographic. */
#ifndef NIBBLE_COMMON_HASH_H
#define NIBBLE_COMMON_HASH_H

#include <stddef.h>
#include <stdint.h>

typedef struct hash128 {
    uint64_t low, high;
} hash128;

hash128 hash_bytes(const void *data, size_t bytes);

/* Streaming: open, update any number of times, close. hash_open returns NULL when out of
 * memory. */
typedef struct hash_stream hash_stream;
hash_stream *hash_open(void);
void hash_update(hash_stream *h, const void *data, size_t bytes);
hash128 hash_close(hash_stream *h); /* frees h */

/* 32 lower-case hexadecimal digits, high word first, and back; parse returns 0 or -1. */
enum { HASH_TEXT = 33 };
void hash_format(hash128 h, char text[HASH_TEXT]);
int hash_parse(const char *text, hash128 *out);

static inline int hash_equal(hash128 a, hash128 b) {
    return a.low == b.low && a.high == b.high;
}

#endif
