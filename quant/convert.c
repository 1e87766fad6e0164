/* convert.c: half.h over arrays. bf16 is half.h's own code, which vectorizes as it is; the two
 * fp16 functions are written again without branches, so that they do too. */
#include "quant/convert.h"

#include "common/checked.h"
#include "common/half.h"
#include "quant/simd.h"

#include <string.h>

/* Rounds by adding a power of two that leaves just the half's mantissa bits, as PyTorch's and
 * XNNPACK's fp16 (M. Dukhan) do. The two products push what is too large to infinity and undo
 * it else; below the normal halves the power of two stays, which is their fixed spacing. NaN
 * is told by arithmetic: with a comparison the compiler makes branches and does not vectorize.
 */
SIMD_INLINE uint16_t select_f32_to_f16(float x) {
    uint32_t u = float_bits(x), sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;
    uint32_t is_nan = (0x7f800000u - a) >> 31; /* 1 or 0 */
    uint32_t exponent = u & 0x7f800000, least = 113u << 23;
    float power = bits_float((exponent < least ? least : exponent) + (15u << 23));
    uint32_t sum = float_bits(power + bits_float(a) * 0x1p112f * 0x1p-110f);
    uint32_t magnitude = ((sum >> 13) & 0x7c00) + (sum & 0xfff);
    return (uint16_t)(sign | (magnitude & (is_nan - 1)) | is_nan * 0x7e00);
}

/* The half's bits as a float are 2^112 too small, subnormals included; the product is exact.
 * The exponent 31 comes out as 143 and is raised to 255, infinity and NaN keeping their
 * mantissa. */
SIMD_INLINE float select_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, a = h & 0x7fff;
    uint32_t magnitude = float_bits(bits_float(a << 13) * 0x1p112f);
    return bits_float(sign | magnitude | (a >= 0x7c00 ? 0x7f800000 : 0));
}

SIMD_INLINE void convert_f32_to_bf16_body(const float *restrict in, uint16_t *restrict out,
                                          int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = f32_to_bf16(in[i]);
}
SIMD_INLINE void convert_bf16_to_f32_body(const uint16_t *restrict in, float *restrict out,
                                          int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = bf16_to_f32(in[i]);
}
SIMD_INLINE void convert_f32_to_f16_body(const float *restrict in, uint16_t *restrict out,
                                         int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = select_f32_to_f16(in[i]);
}
SIMD_INLINE void convert_f16_to_f32_body(const uint16_t *restrict in, float *restrict out,
                                         int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = select_f16_to_f32(in[i]);
}

SIMD_TWICE(convert_f32_to_bf16, (const float *in, uint16_t *out, int64_t n), (in, out, n))
SIMD_TWICE(convert_bf16_to_f32, (const uint16_t *in, float *out, int64_t n), (in, out, n))
SIMD_TWICE(convert_f32_to_f16, (const float *in, uint16_t *out, int64_t n), (in, out, n))
SIMD_TWICE(convert_f16_to_f32, (const uint16_t *in, float *out, int64_t n), (in, out, n))

static void to_f32(const void *in, int from, float *out, int64_t n) {
    if (from == QUANT_SRC_BF16)
        convert_bf16_to_f32(in, out, n);
    else if (from == QUANT_SRC_F16)
        convert_f16_to_f32(in, out, n);
    else
        memcpy(out, in, (size_t)n * 4);
}

static void from_f32(const float *in, void *out, int to, int64_t n) {
    if (to == QUANT_SRC_BF16)
        convert_f32_to_bf16(in, out, n);
    else if (to == QUANT_SRC_F16)
        convert_f32_to_f16(in, out, n);
    else
        memcpy(out, in, (size_t)n * 4);
}

void convert_array(const void *in, int from, void *out, int to, int64_t n) {
    if (from == to) {
        memcpy(out, in, (size_t)(n * quant_source_bytes(to)));
    } else if (from == QUANT_SRC_F32) {
        from_f32(in, out, to, n);
    } else if (to == QUANT_SRC_F32) {
        to_f32(in, from, out, n);
    } else { /* bf16 and fp16 meet in fp32, which holds both exactly */
        float tile[512];
        for (int64_t i = 0; i < n; i += 512) {
            int64_t m = min_i64(512, n - i);
            to_f32((const uint16_t *)in + i, from, tile, m);
            from_f32(tile, (uint16_t *)out + i, to, m);
        }
    }
}
