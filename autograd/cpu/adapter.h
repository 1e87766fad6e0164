/* adapter.h: the LoRA side of OP_LINEAR: skinny products with A [r, in] and B [out, r] in f32.
 *
 * Everything is cut by fixed sizes that are functions of the shape: chunks of rows where the
 * result has a row per token, slabs of columns where rows are summed. A piece is one
 * single-threaded product, so the bits do not depend on the number of threads (the library's
 * own split of the rows does), and there are no atomics. */
#ifndef NIBBLE_AUTOGRAD_CPU_ADAPTER_H
#define NIBBLE_AUTOGRAD_CPU_ADAPTER_H

#include "autograd/cpu/cpu.h"
#include "autograd/cpu/dropout.h"

enum {
    ADAPTER_ROWS = 64, /* rows per chunk */
    ADAPTER_DEPTH =
        512,           /* columns of an input, or rows of a sum, that are widened at a time */
    ADAPTER_SLAB = 64, /* columns per slab */
};
/* Floats of scratch per thread: the widened piece of an operand. */
enum { ADAPTER_FLOATS = ADAPTER_SLAB * ADAPTER_DEPTH };

/* One part's adapter in f32; a == NULL: none. */
typedef struct adapter {
    int64_t rank, in, out;
    float scale;
    const float *a, *b; /* [r, in], [out, r] */
    dropout drop;
} adapter;

/* u [rows, r] = scale * drop(x) A^T; x [rows, in] of type C. */
status adapter_down(backend *b, const adapter *p, const tensor *x, float *u, float *pieces);
/* v [rows, r] = scale * dy B; dy [rows, out] of type C. */
status adapter_down_gradient(backend *b, const adapter *p, const tensor *dy, float *v,
                             float *pieces);
/* da [r, in] += v^T drop(x), db [out, r] += dy^T u, both f32. */
status adapter_gradient_a(backend *b, const adapter *p, const tensor *x, const float *v,
                          float *da, float *pieces);
status adapter_gradient_b(backend *b, const adapter *p, const tensor *dy, const float *u,
                          float *db, float *pieces);

#endif
