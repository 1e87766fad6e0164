/* convert.h: arrays of fp32, bf16 and fp16 into each other, vectorized.
 *
 * Bit for bit what common/half.h gives for each element: to nearest even, subnormals kept, NaN
 * stays NaN. `in` and `out` do not overlap. No failure. */
#ifndef NIBBLE_QUANT_CONVERT_H
#define NIBBLE_QUANT_CONVERT_H

#include <stddef.h>
#include <stdint.h>

/* Element types of unquantized arrays that quant/ reads and writes. */
typedef enum quant_source {
    QUANT_SRC_F32,
    QUANT_SRC_BF16,
    QUANT_SRC_F16,
} quant_source;

static inline int64_t quant_source_bytes(int dtype) {
    return dtype == QUANT_SRC_F32 ? 4 : 2;
}

void convert_f32_to_bf16(const float *in, uint16_t *out, int64_t n);
void convert_bf16_to_f32(const uint16_t *in, float *out, int64_t n);
void convert_f32_to_f16(const float *in, uint16_t *out, int64_t n);
void convert_f16_to_f32(const uint16_t *in, float *out, int64_t n);

/* Any pair, one rounding at most: n elements of type `from` (quant_source) into type `to`. */
void convert_array(const void *in, int from, void *out, int to, int64_t n);

#endif
