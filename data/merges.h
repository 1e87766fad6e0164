/* merges.h: the merge table: (left id, right id) to (rank, merged id), an open-addressing
 * hash. */
#ifndef NIBBLE_DATA_MERGES_H
#define NIBBLE_DATA_MERGES_H

#include "common/json.h"
#include "common/status.h"
#include "data/vocabulary.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct merge_table {
    struct merge_slot {
        uint64_t pair;  /* left << 32 | right; MERGE_NONE: empty */
        uint64_t value; /* rank << 32 | merged id */
    } * slots;
    size_t mask;
} merge_table;

#define MERGE_NONE UINT64_MAX

/* Reads "merges", as "left right" or as [left, right]. STATUS_MODEL for a malformed merge or
 * one whose parts or product are no tokens. */
status merges_open(merge_table *m, const json_t *list, const vocabulary *tokens);
void merges_close(merge_table *m);

/* rank << 32 | merged id, or MERGE_NONE. Smaller values merge first. */
static inline uint64_t merges_find(const merge_table *m, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint64_t hash = pair * 0x9E3779B97F4A7C15u;
    size_t i = (size_t)(hash ^ hash >> 32) & m->mask;
    while (m->slots[i].pair != pair) {
        if (m->slots[i].pair == MERGE_NONE) return MERGE_NONE;
        i = (i + 1) & m->mask;
    }
    return m->slots[i].value;
}

#endif
