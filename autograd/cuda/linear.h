/* linear.h: what the files of OP_LINEAR on the card share: sizes, the stack's scratch, its tails.
 *
 * A stack's parts are decoded into one scratch of type C, so each direction is one product of
 * the library. Adapters and biases ride in it: the operands get a tail of a few columns,
 *
 *   forward   y = [x | u u' | 1] [W | B B | bias]^T      u = scale drop(x) A^T
 *   backward  dx = [dy | v v'] [W ; A ; A]               v = scale dy B
 *
 * where a part's B stands in its own rows and columns only and zeros elsewhere. u is f32 and C
 * may be 16 bits, so u = u + u' are two terms, each rounded to C (f32: one): y is one sum in
 * f32, rounded once, and nothing passes over y a second time. What it costs is a copy of x (or
 * dy) and for rank 16 on all of a stack of three 2 % more products at a width of 4,096. */
#ifndef NIBBLE_AUTOGRAD_CUDA_LINEAR_H
#define NIBBLE_AUTOGRAD_CUDA_LINEAR_H

#include "autograd/cuda/adapter.h"
#include "autograd/cuda/scratch.h"

enum { LINEAR_EIGHT = 8 /* elements; scratch rows begin at multiples of 16 bytes */ };

/* One call's numbers, from a planned shape or from a call. */
typedef struct linear_size {
    dtype type; /* C */
    int64_t rows, in, out[LINEAR_PARTS], stack /* sum of out */;
    int parts, rank[LINEAR_PARTS]; /* rank 0: no adapter */
    int terms;                     /* of u and v: 1 where C is f32, else 2 */
    bool made;                     /* some W is 4-bit */
    bool bias, dropout;            /* dropout: of an adapter's input */
} linear_size;

linear_size cuda_linear_size_of_shape(const op_shape *s);
linear_size cuda_linear_size_of_call(const op_call *c);
int cuda_linear_rank(const linear_size *z); /* of all parts together */

/* The tail's columns: per part `terms` times its rank, then the bias's, then zeros. */
typedef struct linear_tail {
    int parts, terms, bias; /* column of the bias or -1 */
    int rank[LINEAR_PARTS], first[LINEAR_PARTS + 1];
    int64_t row[LINEAR_PARTS + 1]; /* of the stack, where each part begins */
    const float *thin[LINEAR_PARTS];
    const void *b[LINEAR_PARTS], *offset[LINEAR_PARTS]; /* B [out, r] and bias of type C */
} linear_tail;
linear_tail cuda_linear_tail(const linear_size *z, bool bias);

/* [wide | terms of thin | 1 | zeros] of type C to `to`, `ld` elements from row to row. */
status cuda_linear_extend(backend *b, const tensor *wide, const linear_tail *tail, void *to,
                          int64_t ld);
/* W of every part in C to `to` [stack, ld]. */
status cuda_linear_gather(backend *b, const op_call *c, const linear_size *z, void *to,
                          int64_t ld);
/* Column window of part k of a tensor [rows, sum out], and what its adapter multiplies. */
tensor cuda_linear_part(const tensor *t, const linear_size *z, int k);
adapter_wide cuda_linear_input(const op_call *c, const linear_size *z, int k);

int64_t cuda_linear_backward_scratch(backend *b, const op_shape *s);
status cuda_linear_backward_prepare(backend *b, const op_shape *s);

#endif
