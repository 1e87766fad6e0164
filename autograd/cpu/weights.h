/* weights.h: windows of a weight matrix [out, in] in the compute type, dequantized where
 * needed. */
#ifndef NIBBLE_AUTOGRAD_CPU_WEIGHTS_H
#define NIBBLE_AUTOGRAD_CPU_WEIGHTS_H

#include "autograd/cpu/cpu.h"

/* Rows [row, row + rows) x columns [col, col + cols) of a 4-bit W in type C: dense into `to`.
 */
void weights_window(backend *b, const tensor *w, int64_t row, int64_t rows, int64_t col,
                    int64_t cols, dtype type, void *to);

/* n elements of W from [row, col] on in f32, after rounding to `type` (C). */
void weights_load(const tensor *w, const quant_view *view, int64_t row, int64_t col, int64_t n,
                  dtype type, float *to);

/* sums[row] += sum over i of w[i] * x[row * ld + i], in 32 lanes with fused multiply-adds
 * folded by halves: the same bits on every processor. */
void weights_dots(const float *w, const float *x, int64_t ld, int64_t rows, int64_t n,
                  float *sums);

#endif
