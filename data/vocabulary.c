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
    mem_free(v->offset);
    mem_free(v->length);
    mem_free(v->slots);
    memset(v, 0, sizeof *v);
}

/* The slot that holds the key, or the empty one where it belongs. */
static inline size_t slot_of(const vocabulary *v, const char *key, size_t bytes, uint32_t *tag) {
    uint64_t hash = XXH3_64bits(key, bytes);
    *tag = (uint32_t)(hash >> 32);
    size_t i = (size_t)hash & v->mask;
    while (v->slots[i].id >= 0) {
        int32_t id = v->slots[i].id;
        if (v->slots[i].tag == *tag && v->length[id] == bytes &&
            !memcmp(v->bytes + v->offset[id], key, bytes))
            break;
        i = (i + 1) & v->mask;
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
    for (int32_t id = 0; id < v->size; id++) {
        if (v->length[id] == VOCABULARY_HOLE) continue;
        uint32_t tag;
        size_t i = slot_of(&bigger, v->bytes + v->offset[id], v->length[id], &tag);
        bigger.slots[i] = (struct vocabulary_slot){tag, id};
    }
    mem_free(v->slots);
    *v = bigger;
    return STATUS_OK;
}

/* Makes v->size reach beyond `id`, with holes. */
static status reach(vocabulary *v, const char *key, int32_t id) {
    size_t keys = v->count > v->announced ? v->count : v->announced;
    if (id < 0 || id >= VOCABULARY_IDS || (size_t)id > 4 * keys + 65536)
        return status_fail(STATUS_MODEL, "token \"%.80s\" has the id %d in a vocabulary of %zu tokens", key,
                           id, keys);
    size_t need = (size_t)id + 1;
    if (mem_grow(&v->offset, &v->offset_capacity, need, sizeof *v->offset, "the vocabulary") ||
        mem_grow(&v->length, &v->length_capacity, need, sizeof *v->length, "the vocabulary"))
        return STATUS_MEMORY;
    for (; v->size <= id; v->size++) v->length[v->size] = VOCABULARY_HOLE;
    return STATUS_OK;
}

status vocabulary_add(vocabulary *v, const char *key, size_t bytes, int32_t id) {
    if (id < 0 || id >= v->size) TRY(reach(v, key, id));
    if (v->length[id] != VOCABULARY_HOLE)
        return status_fail(STATUS_MODEL, "tokens \"%.80s\" and \"%.80s\" have the same id %d",
                           v->bytes + v->offset[id], key, id);
    if (2 * (v->count + 1) > v->mask) TRY(grow_slots(v));
    size_t need = v->bytes_count + bytes + 1;
    if (need > UINT32_MAX - 1)
        return status_fail(STATUS_MODEL, "a vocabulary of more than 4 GB is not supported");
    if (mem_grow(&v->bytes, &v->bytes_capacity, need, 1, "the vocabulary")) return STATUS_MEMORY;
    uint32_t tag;
    size_t i = slot_of(v, key, bytes, &tag);
    if (v->slots[i].id >= 0)
        return status_fail(STATUS_MODEL, "token \"%.80s\" has two ids, %d and %d", key, v->slots[i].id, id);
    v->slots[i] = (struct vocabulary_slot){tag, id};
    v->offset[id] = (uint32_t)v->bytes_count;
    v->length[id] = (uint32_t)bytes;
    memcpy(v->bytes + v->bytes_count, key, bytes);
    v->bytes[v->bytes_count + bytes] = 0;
    v->bytes_count = need;
    if (bytes > v->longest) v->longest = bytes;
    v->count++;
    return STATUS_OK;
}

int32_t vocabulary_find(const vocabulary *v, const char *key, size_t bytes) {
    if (bytes > v->longest || !v->slots) return -1;
    uint32_t tag;
    return v->slots[slot_of(v, key, bytes, &tag)].id;
}
