/* vocabulary.c: see vocabulary.h. */
#include "data/vocabulary.h"
#include "common/alloc.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

status vocabulary_open(vocabulary *v, size_t keys) {
    memset(v, 0, sizeof *v);
    v->announced = keys;
    size_t slots = 16;
    while (slots < 2 * keys + 2) slots *= 2;
    v->slots = mem_alloc_array(slots, sizeof *v->slots, "the vocabulary");
    if (!v->slots) return STATUS_MEMORY;
    v->mask = slots - 1;
    for (size_t i = 0; i < slots; i++) v->slots[i].id = -1;
    return STATUS_OK;
}

void vocabulary_close(vocabulary *v) {
    mem_free(v->bytes);
    mem_free(v->places);
    mem_free(v->slots);
    memset(v, 0, sizeof *v);
}

enum { SHORT = 7 }; /* bytes of a key that fits its mark, with its length in the last byte */

static inline uint64_t mark_short(const char *key, size_t bytes) {
    uint64_t mark = (uint64_t)bytes << 56;
    const unsigned char *u = (const unsigned char *)key;
    if (bytes >= 4) {
        uint32_t low, high; /* they overlap */
        memcpy(&low, key, 4);
        memcpy(&high, key + bytes - 4, 4);
        return mark | low | (uint64_t)high << (8 * (bytes - 4));
    }
    if (bytes)
        mark |= u[0] | (uint64_t)u[bytes / 2] << 8 * (bytes / 2) |
                (uint64_t)u[bytes - 1] << 8 * (bytes - 1);
    return mark;
}

static inline uint64_t mark_of(const char *key, size_t bytes) {
    return bytes <= SHORT ? mark_short(key, bytes)
                          : XXH3_64bits(key, bytes) | (uint64_t)1 << 63;
}

/* The slot that holds the key, or the empty one where it belongs. */
static inline size_t slot_of(const vocabulary *v, const char *key, size_t bytes,
                             uint64_t mark) {
    uint64_t spread = mark * 0x9E3779B97F4A7C15u;
    size_t i = (size_t)(spread ^ spread >> 32) & v->mask;
    for (; v->slots[i].id >= 0; i = (i + 1) & v->mask) {
        if (v->slots[i].mark != mark) continue;
        const struct vocabulary_place *place = &v->places[v->slots[i].id];
        if (bytes <= SHORT ||
            (place->length == bytes && !memcmp(v->bytes + place->offset, key, bytes)))
            break;
    }
    return i;
}

static status grow_slots(vocabulary *v) {
    vocabulary bigger = *v;
    size_t slots = 2 * (v->mask + 1);
    bigger.slots = mem_alloc_array(slots, sizeof *bigger.slots, "the vocabulary");
    if (!bigger.slots) return STATUS_MEMORY;
    bigger.mask = slots - 1;
    for (size_t i = 0; i < slots; i++) bigger.slots[i].id = -1;
    for (size_t i = 0; i <= v->mask; i++) {
        const struct vocabulary_slot *slot = &v->slots[i];
        if (slot->id < 0) continue;
        size_t bytes;
        const char *key = vocabulary_key(v, slot->id, &bytes);
        bigger.slots[slot_of(&bigger, key, bytes, slot->mark)] = *slot;
    }
    mem_free(v->slots);
    *v = bigger;
    return STATUS_OK;
}

/* Makes v->size reach beyond `id`, with holes. */
static status reach(vocabulary *v, const char *key, int32_t id) {
    size_t keys = v->count > v->announced ? v->count : v->announced;
    if (id < 0 || id >= VOCABULARY_IDS || (size_t)id > 4 * keys + 65536)
        return status_fail(STATUS_MODEL,
                           "token \"%.80s\" has the id %d in a vocabulary of %zu tokens", key,
                           id, keys);
    size_t need = (size_t)id + 1;
    if (mem_grow(&v->places, &v->places_capacity, need, sizeof *v->places, "the vocabulary"))
        return STATUS_MEMORY;
    for (; v->size <= id; v->size++) v->places[v->size].length = VOCABULARY_HOLE;
    return STATUS_OK;
}

status vocabulary_add(vocabulary *v, const char *key, size_t bytes, int32_t id) {
    if (id < 0 || id >= v->size) TRY(reach(v, key, id));
    if (vocabulary_has(v, id))
        return status_fail(STATUS_MODEL, "tokens \"%.80s\" and \"%.80s\" have the same id %d",
                           vocabulary_key(v, id, NULL), key, id);
    if (2 * (v->count + 1) > v->mask) TRY(grow_slots(v));
    size_t need = v->bytes_count + bytes + 1;
    if (need > UINT32_MAX - 1)
        return status_fail(STATUS_MODEL, "a vocabulary of more than 4 GB is not supported");
    if (mem_grow(&v->bytes, &v->bytes_capacity, need, 1, "the vocabulary"))
        return STATUS_MEMORY;
    uint64_t mark = mark_of(key, bytes);
    size_t i = slot_of(v, key, bytes, mark);
    if (v->slots[i].id >= 0)
        return status_fail(STATUS_MODEL, "token \"%.80s\" has two ids, %d and %d", key,
                           v->slots[i].id, id);
    v->slots[i] = (struct vocabulary_slot){mark, id};
    v->places[id] = (struct vocabulary_place){(uint32_t)v->bytes_count, (uint32_t)bytes};
    if (bytes) memcpy(v->bytes + v->bytes_count, key, bytes);
    v->bytes[v->bytes_count + bytes] = 0;
    v->bytes_count = need;
    if (bytes > v->longest) v->longest = bytes;
    v->count++;
    return STATUS_OK;
}

int32_t vocabulary_find(const vocabulary *v, const char *key, size_t bytes) {
    if (bytes > v->longest || !v->slots) return -1;
    return v->slots[slot_of(v, key, bytes, mark_of(key, bytes))].id;
}
