/* quantize.h: quantizing to 4 bits on the card.
 *
 * The codes and scales of quant/nf4.c and quant/double.c, bit for bit, with one exception: the
 * mean of the scales is summed in double in a fixed order that is not the CPU's (its eight
 * lanes would take a millisecond for a large matrix). The sum is exact, and so the same, where
 * scales are bf16 or f16 numbers within a factor of 2^20 or so; for f32 weights the two means
 * may differ in the last bit, once in some 10^7 tensors. Either is a valid file (NUMERICS
 * 1). */
#ifndef NIBBLE_AUTOGRAD_CUDA_QUANTIZE_H
#define NIBBLE_AUTOGRAD_CUDA_QUANTIZE_H

#ifdef __cplusplus
extern "C" {
#endif

#include "autograd/backend.h"

/* Enqueues the quantization of x [w->rows, w->cols], dense, of type `from` (f32, bf16, f16)
 * into the 4-bit W (type, nesting; blocks of 64): its codes, scales and tables, all on the
 * device. An element that is not finite makes its block's scale NaN, and all of them where W
 * is nested, so that it shows when W is decoded. `scratch`: cuda_quantize_scratch bytes
 * (sizes.h). STATUS_INTERNAL for other blocks, STATUS_DEVICE. */
status cuda_quantize(backend *b, const void *x, dtype from, const tensor *w, void *scratch);

/* Only the scales that nesting leaves, f32 [blocks] at the start of `scratch` (as of a nested
 * tensor of n elements): with something not finite in x the plain scales, NaN in its block. */
status cuda_quantize_scales(backend *b, const void *x, dtype from, int64_t n, void *scratch);

#ifdef __cplusplus
}
#endif
#endif
