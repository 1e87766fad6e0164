/* vocabulary.h: byte strings to ids and back: one blob of all keys and an open-addressing
 * hash.
 *
 * Knows nothing of tokens' meaning. Ids may have holes; a vocabulary whose largest id is far
 * above its number of keys is refused (a hostile file must not make us allocate gigabytes). */
#ifndef NIBBLE_DATA_VOCABULARY_H
#define NIBBLE_DATA_VOCABULARY_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { VOCABULARY_IDS = 1 << 24 }; /* ids are below */

typedef struct vocabulary {
    char *bytes; /* keys one after another, each followed by a NUL */
    size_t bytes_count, bytes_capacity;
    struct vocabulary_place {
        uint32_t offset,
            length; /* in bytes; length is VOCABULARY_HOLE where there is no key */
    } * places;     /* by id */
    int32_t size;   /* largest id + 1 */
    size_t places_capacity;
    size_t count, announced; /* keys; keys that vocabulary_open was told of */
    size_t longest;          /* bytes of the longest key */
    struct vocabulary_slot {
        uint64_t mark; /* up to 7 bytes: the key itself; more: its hash */
        int32_t id;    /* -1: empty */
    } * slots;
    size_t mask; /* slots - 1, a power of two minus 1 */
} vocabulary;

#define VOCABULARY_HOLE UINT32_MAX

/* Room for about `keys` keys. */
status vocabulary_open(vocabulary *v, size_t keys);
void vocabulary_close(vocabulary *v); /* a zeroed one is fine */

/* Adds a key under a free id. STATUS_MODEL when the id or the key is taken, or when the id is
 * above 4 x keys + 65,536, keys being the larger of what was announced and what is there. */
status vocabulary_add(vocabulary *v, const char *key, size_t bytes, int32_t id);

/* The id, or -1. Thread-safe as long as nothing is added. */
int32_t vocabulary_find(const vocabulary *v, const char *key, size_t bytes);

static inline bool vocabulary_has(const vocabulary *v, int64_t id) {
    return id >= 0 && id < v->size && v->places[id].length != VOCABULARY_HOLE;
}
/* The key of an id that is there, NUL-terminated. */
static inline const char *vocabulary_key(const vocabulary *v, int32_t id, size_t *bytes) {
    if (bytes) *bytes = v->places[id].length;
    return v->bytes + v->places[id].offset;
}

#endif
