/* fake.h: fake quantization, dequantize(quantize(x)) in the type of x, for quantization-aware
 * training: the forward pass sees what the quantized weight would be, the gradient passes
 * straight through (no element lies outside the range, absmax is the range).
 *
 * Values only, no codes kept. `x` and `out` are both of `dtype` (quant_source); they may be
 * the same buffer. An element that is not finite turns its whole block (row) into NaN, so that
 * a diverged weight shows in the loss; nothing fails. */
#ifndef NIBBLE_QUANT_FAKE_H
#define NIBBLE_QUANT_FAKE_H

#include "quant/nf4.h"

/* The values that quant_quantize and quant_dequantize_* would give, scales in fp32. `block` is
 * even and in 2..4096, as there; block-aligned ranges may be done separately. */
void fake_quant4(quant_type type, const void *x, int dtype, int64_t count, int32_t block,
                 void *out);

/* int8, one scale per row of [rows, cols], in the arithmetic of bitsandbytes' LLM.int8
 * vectors:
 *   q = rint(x * (127/absmax)),  value = (q * absmax) * 7.874015718698502e-3f
 * (the literal is their 1/127), rounded to dtype. A row whose 127/absmax overflows (absmax
 * below 3.8e-37) becomes zeros; above 2.6e36 q * absmax overflows, as it does there. */
void fake_quant_int8_rows(const void *x, int dtype, int64_t rows, int64_t cols, void *out);

#endif
