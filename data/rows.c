/* rows.c: see rows.h. Three flat arrays that double as they grow. */
#include "data/rows.h"
#include "common/alloc.h"
#include "common/checked.h"

#include <string.h>

static status grow(row_set *set, int64_t tokens) {
    if (tokens > set->id_capacity) {
        int64_t wanted = max_i64(tokens, set->id_capacity * 2);
        uint64_t bytes;
        if (!checked_mul_u64((uint64_t)wanted, sizeof *set->ids, &bytes))
            return status_fail(STATUS_MEMORY, "out of memory: %lld tokens", (long long)wanted);
        int32_t *ids = mem_resize(set->ids, bytes, "token ids");
        if (!ids) return STATUS_MEMORY;
        set->ids = ids;
        int32_t *labels = mem_resize(set->labels, bytes, "labels");
        if (!labels) return STATUS_MEMORY;
        set->labels = labels;
        set->id_capacity = wanted;
    }
    if (set->count + 2 > set->row_capacity) {
        int64_t wanted = max_i64(64, set->row_capacity * 2);
        int64_t *offsets =
            mem_resize(set->offsets, (uint64_t)wanted * sizeof *set->offsets, "row offsets");
        if (!offsets) return STATUS_MEMORY;
        offsets[set->count] = set->count ? offsets[set->count] : 0;
        set->offsets = offsets;
        set->row_capacity = wanted;
    }
    return STATUS_OK;
}

status row_set_append(row_set *set, const int32_t *ids, const int32_t *labels, int64_t n) {
    int64_t used = set->count ? set->offsets[set->count] : 0, tokens;
    if (!checked_add_i64(used, n, &tokens))
        return status_fail(STATUS_MEMORY, "out of memory: too many tokens");
    TRY(grow(set, tokens));
    if (n) {
        memcpy(set->ids + used, ids, (size_t)n * sizeof *ids);
        memcpy(set->labels + used, labels ? labels : ids, (size_t)n * sizeof *ids);
    }
    set->offsets[++set->count] = tokens;
    return STATUS_OK;
}

void row_set_free(row_set *set) {
    mem_free(set->ids);
    mem_free(set->labels);
    mem_free(set->offsets);
    memset(set, 0, sizeof *set);
}

int64_t row_set_length(const row_set *set, int64_t row) {
    return set->offsets[row + 1] - set->offsets[row];
}

int64_t row_set_targets(const row_set *set, int64_t row) {
    int64_t targets = 0;
    for (int64_t i = set->offsets[row] + 1; i < set->offsets[row + 1]; i++)
        targets += set->labels[i] != LABEL_IGNORED;
    return targets;
}
