/* scratch.h: carving one planned block into pieces. The same code run without a base only
 * counts, so what is planned and what is used cannot differ. The library's scratch comes last:
 * whatever remains of what was planned at capacity. */
#ifndef NIBBLE_AUTOGRAD_CPU_SCRATCH_H
#define NIBBLE_AUTOGRAD_CPU_SCRATCH_H

#include "autograd/cpu/gemm.h"
#include "common/checked.h"

typedef struct scratch {
    char *base;   /* NULL: only count */
    int64_t used; /* bytes so far */
} scratch;

/* The next `bytes`, aligned; NULL while counting. */
static inline void *scratch_take(scratch *s, int64_t bytes) {
    char *at = s->base ? s->base + s->used : NULL;
    s->used += round_up_i64(bytes, TENSOR_ALIGN);
    return at;
}

/* All that is left of a block of `given` bytes; only as the last piece. */
static inline gemm_space scratch_rest(const scratch *s, int64_t given) {
    return (gemm_space){s->base ? s->base + s->used : NULL, max_i64(given - s->used, 0)};
}

/* Refuses a block that is smaller than what was carved. */
static inline status scratch_check(const scratch *s, const char *operation, int64_t given) {
    if (s->used <= given) return STATUS_OK;
    return status_fail(STATUS_INTERNAL, "%s needs %lld bytes of scratch and got %lld",
                       operation, (long long)s->used, (long long)given);
}

#endif
