/* linear_size.h: what OP_LINEAR needs on a card, known without one.
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
 * dy), which the pass that makes u (or v) leaves on its way, and for rank 16 on all of a stack
 * of three 2 % more products at a width of 4,096. */
#ifndef NIBBLE_AUTOGRAD_CUDA_LINEAR_SIZE_H
#define NIBBLE_AUTOGRAD_CUDA_LINEAR_SIZE_H

#ifdef __cplusplus
extern "C" {
#endif

#include "autograd/cuda/scratch.h"
#include "autograd/operation.h"

enum {
    LINEAR_EIGHT = 8,    /* elements; scratch rows begin at multiples of 16 bytes */
    LINEAR_CHUNK = 1024, /* rows of backward's f32 tile, with dropout */
    ADAPTER_SPLIT = 512, /* rows of one partial sum of an adapter's gradient */
};

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

/* ---- forward ---- */

typedef struct linear_space {
    void *w, *x; /* [stack, pitch], [rows, depth]; NULL: the operands serve */
    float *u[LINEAR_PARTS];
    void *gemm;
} linear_space;

/* Columns of both operands; in where there is no tail. And W's elements from row to row. */
int64_t cuda_linear_depth(const linear_size *z);
int64_t cuda_linear_pitch(const linear_size *z);
/* W is needed as one matrix: made, or with a tail. */
bool cuda_linear_gathers(const linear_size *z);
void cuda_linear_take(cuda_scratch *s, const linear_size *z, linear_space *out);

/* ---- backward ---- */

typedef struct linear_back_space {
    void *w;                /* [depth, pitch] */
    void *dy;               /* [rows, depth] with tails; NULL: dy itself */
    float *tile;            /* [LINEAR_CHUNK, in], with dropout */
    void *turned;           /* B^T of one part */
    float *v[LINEAR_PARTS]; /* [rows, r] */
    float *u;               /* [rows, r] of one part */
    float *sums;            /* partial sums of one gradient */
    void *gemm;
} linear_back_space;

/* Rows of [W ; A ; A], its elements from row to row, and whether it is made. */
int64_t cuda_linear_back_depth(const linear_size *z);
int64_t cuda_linear_back_pitch(const linear_size *z);
bool cuda_linear_back_gathers(const linear_size *z);
/* gradients: bit i = input i's is wanted. */
void cuda_linear_back_take(cuda_scratch *s, const linear_size *z, uint32_t gradients,
                           linear_back_space *out);
/* Partial sums of a gradient [r, cols] or [cols, r]. */
int64_t cuda_adapter_sum_bytes(int64_t rows, int64_t cols, int64_t r);

#ifdef __cplusplus
}
#endif
#endif
