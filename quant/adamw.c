/* adamw.c: see adamw.h. The loops are plain C, compiled for the baseline and for AVX2; fma is
 * asked for by name, so both give the same bits. */
#include "quant/adamw.h"

#include "common/checked.h"
#include "quant/dynamic.h"
#include "quant/scan.h"

#include <math.h>

adamw_scalars adamw_scalars_make(double lr, double beta1, double beta2, double eps,
                                 double weight_decay, int64_t t) {
    double correction1 = 1.0 - pow(beta1, (double)t);
    double root2 = sqrt(1.0 - pow(beta2, (double)t));
    return (adamw_scalars){
        .grad_scale = 1.0f,
        .decay = (float)(1.0 - lr * weight_decay),
        .beta1 = (float)beta1,
        .beta2 = (float)beta2,
        .rest1 = (float)(1.0 - beta1),
        .rest2 = (float)(1.0 - beta2),
        .root2 = (float)root2,
        .step = (float)(-lr / correction1),
        .eps = (float)eps,
        .step8 = (float)(-lr * root2 / correction1),
        .eps8 = (float)(root2 * eps),
    };
}

/* torch's lerp starts from the nearer end. */
SIMD_INLINE float lerp(float m, float g, float rest1, int from_g) {
    return from_g ? __builtin_fmaf(rest1 - 1.0f, g - m, g) : __builtin_fmaf(rest1, g - m, m);
}

SIMD_INLINE void adamw32_range(float *restrict p, float *restrict m, float *restrict v,
                               const float *restrict g, int64_t n,
                               const adamw_scalars *scalars, int from_g) {
    const adamw_scalars s = *scalars;
    for (int64_t i = 0; i < n; i++) {
        float gradient = g[i] * s.grad_scale;
        float first = lerp(m[i], gradient, s.rest1, from_g);
        float second = __builtin_fmaf(s.rest2 * gradient, gradient, s.beta2 * v[i]);
        float denominator = sqrtf(second) / s.root2 + s.eps;
        m[i] = first;
        v[i] = second;
        p[i] = p[i] * s.decay + (s.step * first) / denominator;
    }
}

SIMD_INLINE void adamw32_update_body(float *p, float *m, float *v, const float *g, int64_t n,
                                     const adamw_scalars *scalars) {
    if (scalars->rest1 < 0.5f)
        adamw32_range(p, m, v, g, n, scalars, 0);
    else
        adamw32_range(p, m, v, g, n, scalars, 1);
}
SIMD_TWICE(adamw32_update,
           (float *p, float *m, float *v, const float *g, int64_t n,
            const adamw_scalars *scalars),
           (p, m, v, g, n, scalars))

/* One block's states, decoded, updated, and applied to p. */
SIMD_INLINE void update_block(float *restrict p, float *restrict s1, float *restrict s2,
                              const float *restrict g, int n, const adamw_scalars *scalars) {
    const adamw_scalars s = *scalars;
    const float rest1 = 1.0f - s.beta1, rest2 = 1.0f - s.beta2;
    for (int i = 0; i < n; i++) {
        float gradient = g[i] * s.grad_scale;
        float second = s2[i] * s.beta2 + rest2 * gradient * gradient;
        float first = s1[i] * s.beta1 + rest1 * gradient;
        s1[i] = first;
        s2[i] = second;
        p[i] = (p[i] + s.step8 * (first / (sqrtf(second) + s.eps8))) * s.decay;
    }
}

/* x / scale in place, zeros where the whole block is zero. */
SIMD_INLINE void normalize(float *x, int n, float scale) {
    for (int i = 0; i < n; i++) x[i] = scale > 0.0f ? x[i] / scale : 0.0f;
}

/* Codes of the first moment: the sign survives the rounding, or the update would turn round.
 */
SIMD_INLINE void encode_signed(const float *y, const float *s1, int n, uint8_t *codes) {
    const dynamic_finder *finder = dynamic_finder_signed();
    for (int i = 0; i < n; i++) {
        int code = dynamic_nearest(finder, y[i]);
        int is_negative = s1[i] < 0.0f, code_is_negative = code < DYNAMIC_ZERO_SIGNED;
        codes[i] = (uint8_t)(code + code_is_negative - is_negative);
    }
}

SIMD_INLINE void encode_unsigned(const float *y, int n, uint8_t *codes) {
    const dynamic_finder *finder = dynamic_finder_unsigned();
    for (int i = 0; i < n; i++) codes[i] = dynamic_nearest(finder, y[i]);
}

SIMD_INLINE void adamw8_block(float *p, uint8_t *codes1, float *absmax1, uint8_t *codes2,
                              float *absmax2, const float *g, int n,
                              const adamw_scalars *scalars) {
    const float *map1 = dynamic_map_signed(), *map2 = dynamic_map_unsigned();
    float s1[ADAMW8_BLOCK], s2[ADAMW8_BLOCK], y[ADAMW8_BLOCK];
    for (int i = 0; i < n; i++) {
        s1[i] = map1[codes1[i]] * *absmax1;
        s2[i] = map2[codes2[i]] * *absmax2;
    }
    update_block(p, s1, s2, g, n, scalars);
    *absmax1 = bits_float((uint32_t)scan_largest_bits(s1, n));
    *absmax2 = bits_float((uint32_t)scan_largest_bits(s2, n));
    for (int i = 0; i < n; i++) y[i] = s1[i];
    normalize(y, n, *absmax1);
    encode_signed(y, s1, n, codes1);
    normalize(s2, n, *absmax2);
    encode_unsigned(s2, n, codes2);
}

SIMD_INLINE void adamw8_update_body(float *p, uint8_t *codes1, float *absmax1, uint8_t *codes2,
                                    float *absmax2, const float *g, int64_t n,
                                    const adamw_scalars *scalars) {
    for (int64_t i = 0; i < n; i += ADAMW8_BLOCK) {
        int64_t b = i / ADAMW8_BLOCK;
        adamw8_block(p + i, codes1 + i, absmax1 + b, codes2 + i, absmax2 + b, g + i,
                     (int)min_i64(ADAMW8_BLOCK, n - i), scalars);
    }
}
SIMD_TWICE(adamw8_update,
           (float *p, uint8_t *codes1, float *absmax1, uint8_t *codes2, float *absmax2,
            const float *g, int64_t n, const adamw_scalars *scalars),
           (p, codes1, absmax1, codes2, absmax2, g, n, scalars))
