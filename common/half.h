/* half.h: bfloat16 and IEEE half <-> float, one value at a time, rounding to nearest even.
 * NaN stays NaN; subnormals are kept. The exact reference for every vectorized conversion. */
#ifndef NIBBLE_COMMON_HALF_H
#define NIBBLE_COMMON_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
static inline float bits_float(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static inline float bf16_to_f32(uint16_t h) {
    return bits_float((uint32_t)h << 16);
}

static inline uint16_t f32_to_bf16(float x) {
    uint32_t u = float_bits(x);
    uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    return (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? (u >> 16) | 0x40 : rounded);
}

static inline float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = (h >> 10) & 31, m = h & 0x3ff;
    if (e == 31) return bits_float(sign | 0x7f800000 | m << 13);
    if (e) return bits_float(sign | (e + 112) << 23 | m << 13);
    float x = (float)m * 0x1p-24f;
    return bits_float(sign | float_bits(x));
}

static inline uint16_t f32_to_f16(float x) {
    uint32_t u = float_bits(x), sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (a >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* rounds to 65,536 or more */
    if (a >= 0x38800000)
        return (uint16_t)(sign | ((a + 0xfff + ((a >> 13) & 1) - 0x38000000) >> 13));
    /* subnormal: adding 0.5 aligns the mantissa so that the FPU rounds at 2^-24 */
    return (uint16_t)(sign | (float_bits(bits_float(a) + 0.5f) - 0x3f000000));
}

#endif
