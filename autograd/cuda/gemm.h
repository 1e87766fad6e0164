/* gemm.h: the one door for matrix products on the card, to cuBLASLt.
 *
 * C[m,n] = beta * C + alpha op(A)[m,k] op(B)[k,n], row-major, f32 accumulation (no TF32), one
 * rounding to C's type. The algorithm is the library's first heuristic for the shape, asked once
 * in cuda_gemm_plan, or the row of a measured table; only algorithms whose sums have a fixed order.
 * The library's workspace is the caller's: planned, never its own. */
#ifndef NIBBLE_AUTOGRAD_CUDA_GEMM_H
#define NIBBLE_AUTOGRAD_CUDA_GEMM_H

#include "autograd/tensor.h"
#include "common/json.h"

typedef struct cuda_gemm cuda_gemm;

enum { CUDA_GEMM_SPACE = 32 << 20 /* bytes of workspace that any product may use */ };

/* The same for a result of m x n: room for sixteen partial sums, where that is less. */
static inline int64_t cuda_gemm_space(int64_t m, int64_t n) {
    int64_t bytes = 256 << 10;
    if (m * n >= CUDA_GEMM_SPACE / 64) return CUDA_GEMM_SPACE;
    return bytes + 64 * m * n < CUDA_GEMM_SPACE ? bytes + 64 * m * n : CUDA_GEMM_SPACE;
}

typedef struct cuda_gemm_shape {
    bool ta, tb;   /* A is stored [k,m], B is stored [n,k] */
    bool add;      /* beta is 1, else 0 */
    dtype in, out; /* f32 -> f32; bf16 or f16 -> the same or f32 */
    int64_t m, n, k;
    int64_t lda, ldb, ldc; /* elements from stored row to stored row */
    float alpha;
} cuda_gemm_shape;

/* STATUS_DEVICE when the library does not start. */
status cuda_gemm_open(cuda_gemm **out, int device);
void cuda_gemm_close(cuda_gemm *g);
/* Library version, for the fingerprint. */
void cuda_gemm_describe(const cuda_gemm *g, char *text, size_t bytes);
/* Asks the library for an algorithm for this shape and keeps it. */
status cuda_gemm_plan(cuda_gemm *g, const cuda_gemm_shape *s);
/* Enqueues on `stream` (a cudaStream_t); a shape that was not planned for is asked for now. m, n or
 * k may be 0 (k == 0 without `add` writes zeros). `space`: cuda_gemm_space(m, n) bytes, aligned to
 * 256. */
status cuda_gemm_run(cuda_gemm *g, void *stream, const cuda_gemm_shape *s, const void *a,
                     const void *b, void *c, void *space);

/* ---- gemm_table.cu ---- */

/* Times what the library offers for every product that was planned so far, on memory of its own
 * (STATUS_MEMORY where the largest does not fit), and gives a table of those that beat its first
 * choice by more than the noise: {"card", "library", "measured", "products": [...]}. `card` names it;
 * `go_on` is asked between products. */
status cuda_gemm_tune(cuda_gemm *g, void *stream, const char *card,
                      status (*go_on)(int64_t done, int64_t total), json_t **table);
/* Takes such a table for what is planned from now on. *fits: false, and nothing is taken, when
 * it is of another card or another version of the library. STATUS_MODEL: it is no such table. */
status cuda_gemm_use_table(cuda_gemm *g, const char *card, const json_t *table, bool *fits);

#endif
