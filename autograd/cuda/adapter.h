/* adapter.h: the LoRA side of OP_LINEAR on the card: thin products, r columns wide.
 *
 * All are bound by reading the wide operand once, so they are kernels of our own: two to four
 * 16-byte loads in flight per thread, products on the tensor cores where C is bf16 (and, where
 * both operands are C, f16). Sums over rows are cut every ADAPTER_SPLIT rows, a function of the
 * shape, and put together in order: the same bits on every card, and no atomics.
 *
 * f32 operands of a bf16 product (v and u) are cut into three bf16 terms, which hold all 24 bits
 * of them, so the result is that of an f32 product; f32 and f16 sum with fused multiply-adds. */
#ifndef NIBBLE_AUTOGRAD_CUDA_ADAPTER_H
#define NIBBLE_AUTOGRAD_CUDA_ADAPTER_H

#include "autograd/cuda/cuda.h"
#include "autograd/cuda/linear_size.h"

extern "C" {
#include "autograd/cpu/dropout.h"
}

/* A product's wide operand: t [rows, cols] of type C, dropped where `drop` is on. */
typedef struct adapter_wide {
    tensor t;
    dropout drop;
    void *
        copy; /* down leaves t there as well, not dropped, `ld` elements from row to row; or NULL */
    int64_t ld;
} adapter_wide;

/* out f32 [rows, r] = scale * wide w^T; w C [r, cols], dense. Nothing, not even a copy, for r 0. */
status cuda_adapter_down(backend *b, const adapter_wide *wide, const void *w, int64_t r,
                         float scale, float *out);
/* turned C [cols, rows] = the transpose of t, dense. */
status cuda_adapter_turn(backend *b, const tensor *t, void *turned);
/* gradient f32 [r, cols] (as_rows) or [cols, r] += the sum over rows of thin[i, :] x wide[i, :];
 * thin f32 [rows, r]. `space`: cuda_adapter_sum_bytes. */
status cuda_adapter_sum(backend *b, const adapter_wide *wide, const float *thin, int64_t r,
                        bool as_rows, float *gradient, float *space);

#endif
