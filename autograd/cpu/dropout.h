/* dropout.h: the mask of the adapters' input, made again wherever it is needed, never stored.
 *
 * Element (row, col) of an input of `width` columns is number row * width + col of a Philox
 * stream (NUMERICS 3): kept iff its word >= threshold, and then multiplied by 1/(1-p). */
#ifndef NIBBLE_AUTOGRAD_CPU_DROPOUT_H
#define NIBBLE_AUTOGRAD_CPU_DROPOUT_H

#include "autograd/operation.h"
#include "common/philox.h"

typedef struct dropout {
    bool on;
    philox_stream stream;
    uint64_t threshold;
    float keep;    /* 1/(1-p) */
    int64_t width; /* columns of the whole input */
} dropout;

/* The mask of part `part` of an OP_LINEAR; off when p is 0 or the call says so. */
dropout dropout_of(const op_call *call, int part);
/* x[i] *= keep or = 0, for n elements from (row, col) on within one row. */
void dropout_apply(const dropout *d, int64_t row, int64_t col, int64_t n, float *x);

#endif
