/* vector.h: the few scalar functions that hot loops need in a form the compiler vectorizes.
 *
 * Branch-free and with fused multiply-adds written out, so that every instruction set gives
 * the same bits. Use them in loops compiled twice (SIMD_TWICE of quant/simd.h). */
#ifndef NIBBLE_AUTOGRAD_CPU_VECTOR_H
#define NIBBLE_AUTOGRAD_CPU_VECTOR_H

#include "common/half.h"
#include "quant/simd.h"

/* a where the condition holds, else b: a comparison kept as a number, because the compiler
 * does not turn branches on floating-point comparisons into vector code (they may trap). */
SIMD_INLINE float vector_select(int condition, float a, float b) {
    uint32_t mask = 0u - (uint32_t)condition;
    return bits_float((float_bits(a) & mask) | (float_bits(b) & ~mask));
}

/* e^x within 2 ulp for x in [-87.3, 88.7]; below it is 0, above it +infinity, NaN stays NaN.
 * n = round(x / ln 2) by the magic-number trick, r = x - n ln 2 in two pieces, a polynomial of
 * degree 6 (Cephes expf), then 2^n by two exponents, so that n = 128 does not overflow on the
 * way. */
SIMD_INLINE float vector_exp(float x) {
    const float magic = 0x1.8p23f;
    float bounded = vector_select(x < -87.3f, -87.3f, x);
    bounded = vector_select(bounded > 88.8f, 88.8f, bounded);
    float shifted = __builtin_fmaf(bounded, 0x1.715476p+0f, magic);
    float n = shifted - magic;
    float r = __builtin_fmaf(n, -0x1.62e4p-1f, bounded);
    r = __builtin_fmaf(n, -0x1.7f7d1cp-20f, r);
    float p = 1.9875691500e-4f;
    p = __builtin_fmaf(p, r, 1.3981999507e-3f);
    p = __builtin_fmaf(p, r, 8.3334519073e-3f);
    p = __builtin_fmaf(p, r, 4.1665795894e-2f);
    p = __builtin_fmaf(p, r, 1.6666665459e-1f);
    p = __builtin_fmaf(p, r, 5.0000001201e-1f);
    p = __builtin_fmaf(p, r * r, r) + 1.0f;
    int32_t e = (int32_t)(float_bits(shifted) - float_bits(magic));
    int32_t half = e >> 1;
    float y = p * bits_float((uint32_t)(half + 127) << 23) *
              bits_float((uint32_t)(e - half + 127) << 23);
    return vector_select(x < -87.3f, 0.0f, vector_select(x != x, x, y));
}

#endif
