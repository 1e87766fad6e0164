/* gemm.h: the one door for matrix products on the CPU, to oneDNN.
 *
 * C[m,n] = beta * C + op(A)[m,k] op(B)[k,n], row-major, f32 accumulation, one rounding to C's
 * type. f32 products always exist. bf16 products exist where the processor multiplies bf16
 * (AVX512_BF16, AMX: gemm_native); elsewhere, and for f16 always, callers convert operands to
 * f32 tiles. Which algorithm runs is a function of the shape and the number of threads; a
 * thread count may change the last bits, as the library splits k. Reductions over rows that
 * must not are ours (skinny.h). Nothing of ours is allocated after gemm_prepare has seen the
 * shape. */
#ifndef NIBBLE_AUTOGRAD_CPU_GEMM_H
#define NIBBLE_AUTOGRAD_CPU_GEMM_H

#include "autograd/tensor.h"

typedef struct gemm gemm;

typedef struct gemm_shape {
    bool ta, tb;   /* A is stored [k,m], B is stored [n,k] */
    dtype in, out; /* f32 -> f32, bf16 -> bf16, bf16 -> f32 */
    bool add;      /* beta 1 instead of 0; f32 only */
    int64_t m, n, k;
    int64_t lda, ldb, ldc; /* elements from stored row to stored row */
} gemm_shape;

status gemm_open(gemm **out, int threads);
void gemm_close(gemm *g);

/* Whether A and B of this type are multiplied as they are. */
bool gemm_native(const gemm *g, dtype type);
/* Library version and what it uses on this processor, for the fingerprint. */
void gemm_describe(const gemm *g, char *text, size_t bytes);

/* Bytes of scratch for this shape; 0 for f32. */
int64_t gemm_scratch(gemm *g, const gemm_shape *s);
/* Makes and keeps the primitive, so that gemm_run does not. */
status gemm_prepare(gemm *g, const gemm_shape *s);
/* Runs; m, n or k may be 0 (k == 0 without `add` writes zeros). scratch: gemm_scratch bytes.
 * STATUS_INTERNAL names the shape when the library refuses it. */
status gemm_run(gemm *g, const gemm_shape *s, const void *a, const void *b, void *c,
                void *scratch);

#endif
