/* scratch.h: carving one planned block into pieces. The same code run without a base only counts,
 * so what is planned and what is used cannot differ. */
#ifndef NIBBLE_AUTOGRAD_CUDA_SCRATCH_H
#define NIBBLE_AUTOGRAD_CUDA_SCRATCH_H

#include "common/checked.h"
#include "common/status.h"

enum { CUDA_ALIGN = 256 /* bytes; of every planned address */ };

typedef struct cuda_scratch {
    char *base;   /* NULL: only count */
    int64_t used; /* bytes so far */
} cuda_scratch;

/* The next `bytes`, aligned; NULL while counting. */
static inline void *cuda_take(cuda_scratch *s, int64_t bytes) {
    char *at = s->base ? s->base + s->used : NULL;
    s->used += round_up_i64(bytes, CUDA_ALIGN);
    return at;
}

/* Refuses a block that is smaller than what was carved. */
static inline status cuda_scratch_check(const cuda_scratch *s, const char *operation,
                                        int64_t given) {
    if (s->used <= given) return STATUS_OK;
    return status_fail(STATUS_INTERNAL, "%s needs %lld bytes of scratch and got %lld",
                       operation, (long long)s->used, (long long)given);
}

#endif
