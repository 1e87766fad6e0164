/* gemm.h: the one door for matrix products on the CPU, to oneDNN.
 *
 * C[m,n] = beta * C + op(A)[m,k] op(B)[k,n], row-major, f32 accumulation, one rounding to C's
 * type. bf16 operands are multiplied as they are where the processor can (AVX512_BF16, AMX:
 * gemm_native); elsewhere, and f16 always, tile by tile in f32 inside. Which algorithm runs is
 * a function of the shape and the number of threads; a thread count may change the last bits,
 * as the library cuts the product by threads. Sums over rows that must not change are
 * adapter.h's. */
#ifndef NIBBLE_AUTOGRAD_CPU_GEMM_H
#define NIBBLE_AUTOGRAD_CPU_GEMM_H

#include "autograd/tensor.h"

typedef struct gemm gemm;

enum { GEMM_ROWS = 64 /* the bucket of rows */ };

typedef struct gemm_shape {
    bool ta, tb;   /* A is stored [k,m], B is stored [n,k] */
    bool add;      /* beta is 1, else 0; only where out is f32 */
    dtype in, out; /* f32 -> f32; bf16 or f16 -> the same or f32 */
    int64_t m, n, k;
    int64_t lda, ldb, ldc; /* elements from stored row to stored row */
} gemm_shape;

/* STATUS_DEVICE when the library does not start. */
status gemm_open(gemm **out, int threads);
void gemm_close(gemm *g);

/* Whether A and B of this type are multiplied as they are. */
bool gemm_native(const gemm *g, dtype type);
/* Library version and what it uses on this processor, for the fingerprint. */
void gemm_describe(const gemm *g, char *text, size_t bytes);

/* Memory that the library may use during one product. */
typedef struct gemm_space {
    void *at;
    int64_t bytes;
} gemm_space;

/* Makes and keeps what the library needs for this shape and for the same with fewer rows of a
 * micro-batch (m, or k where A is transposed) in steps of GEMM_ROWS, so that gemm_run only
 * runs. *bytes: scratch that is enough for all of them; 0 for f32. */
status gemm_plan(gemm *g, const gemm_shape *s, int64_t *bytes);
/* Runs; m, n or k may be 0 (k == 0 without `add` writes zeros). STATUS_INTERNAL names the
 * shape when the library refuses it or `space` is too small. */
status gemm_run(gemm *g, const gemm_shape *s, const void *a, const void *b, void *c,
                gemm_space space);

/* C = alpha op(A) op(B) (+ C) in f32 on the calling thread alone: its bits are a function of
 * the operands and the shape only. For pieces inside PARALLEL_FOR; k == 0 does nothing. */
status gemm_f32(const gemm_shape *s, float alpha, const float *a, const float *b, float *c);

/* Test hook: f32 products too go through kept primitives, the code of the native 16-bit path.
 */
void gemm_always_primitive(gemm *g, bool always);

#endif
