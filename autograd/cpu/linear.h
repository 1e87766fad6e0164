/* linear.h: what the three files of OP_LINEAR share: sizes, tiles, adapters.
 *
 * W is worked on in tiles of about 4 M elements: rows of W going forward, columns going back,
 * so that a dequantized tile takes 8 MB in bf16 whatever the model's width, and every element
 * of the result is one whole sum, rounded once. */
#ifndef NIBBLE_AUTOGRAD_CPU_LINEAR_H
#define NIBBLE_AUTOGRAD_CPU_LINEAR_H

#include "autograd/cpu/adapter.h"
#include "autograd/cpu/scratch.h"
#include "autograd/cpu/weights.h"

enum {
    LINEAR_TILE_ELEMENTS = 4 << 20,
    LINEAR_TILE_LEAST = 128, /* rows or columns of W per tile, at least and at most */
    LINEAR_TILE_MOST = 2048,
    LINEAR_CHUNK = 64,     /* rows finished at a time by one thread */
    LINEAR_SUM_ROWS = 512, /* rows per product of dW: the fixed split of its sum */
    LINEAR_FEW_ROWS = 4, /* at most so many rows: matrix-vector products, W is never written */
};

/* One call's numbers, from a planned shape or from a call. */
typedef struct linear_size {
    dtype type; /* C */
    int64_t rows, in, out[LINEAR_PARTS];
    int parts, rank[LINEAR_PARTS]; /* rank 0: no adapter */
    bool made[LINEAR_PARTS];       /* W is 4-bit */
    bool dropout;
} linear_size;

linear_size linear_size_of_shape(const op_shape *s);
linear_size linear_size_of_call(const op_call *c);

/* Rows of W per forward tile (of part k), columns per backward tile. */
int64_t linear_tile_rows(const linear_size *z, int k);
int64_t linear_tile_cols(const linear_size *z);

/* Where A and B lie in f32. */
typedef struct linear_adapters {
    float *a[LINEAR_PARTS], *b[LINEAR_PARTS]; /* scratch; NULL: C is f32, the operands serve */
    float *pieces;                            /* [threads, ADAPTER_FLOATS] */
} linear_adapters;
void linear_adapters_take(scratch *s, const linear_size *z, int threads, linear_adapters *out);
/* Part k's adapter, widened if need be; rank 0 if it has none. */
adapter linear_adapter(const op_call *c, const linear_size *z, const linear_adapters *space,
                       int k);

/* Column window of part k of a tensor [rows, sum out]. */
tensor linear_part_of(const tensor *t, const linear_size *z, int k);

/* rows <= LINEAR_FEW_ROWS. scratch: linear_few_take. */
typedef struct linear_few {
    float *x, *u[LINEAR_PARTS];
    linear_adapters adapters;
} linear_few;
void linear_few_take(scratch *s, const linear_size *z, int threads, linear_few *out);
status linear_few_forward(backend *b, const op_call *c, const linear_size *z,
                          const linear_few *space);

int64_t linear_backward_scratch(backend *b, const op_shape *s);
status linear_backward_prepare(backend *b, const op_shape *s);

#endif
