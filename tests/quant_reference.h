/* quant_reference.h: 4-bit quantization straight from the definition, one element at a time, and
 * material to quantize. */
#ifndef NIBBLE_TESTS_QUANT_REFERENCE_H
#define NIBBLE_TESTS_QUANT_REFERENCE_H

#include "common/half.h"
#include "common/philox.h"
#include "quant/convert.h"
#include "quant/double.h"
#include "quant/dynamic.h"
#include "quant/nf4.h"

#include <math.h>

/* ---- plain references: straight from the definition, one element at a time ---- */

static float to_float(const void *x, int dtype, int64_t i) {
    if (dtype == QUANT_SRC_F32) return ((const float *)x)[i];
    uint16_t h = ((const uint16_t *)x)[i];
    return dtype == QUANT_SRC_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
}

static int reference_code(quant_type type, float y) {
    static const float magnitude[7] = {0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f,
                                       0.4166667f,  0.583333f,  0.8333333f};
    static const int order[8] = {0, 1, 6, 7, 4, 5, 2, 3};
    const float *level = nf4_codebook();
    int rank = 0;
    if (type == QUANT_NF4) {
        for (int t = 0; t < 15; t++) rank += y > (level[t] + level[t + 1]) / 2.0f;
        return rank;
    }
    for (int t = 0; t < 7; t++) rank += fabsf(y) > magnitude[t];
    return order[rank] + (y < 0 ? 8 : 0);
}

static void reference_quantize(quant_type type, const void *x, int dtype, int64_t count,
                               int32_t block, uint8_t *codes, float *absmax) {
    memset(codes, 0, (size_t)quant_code_bytes(count));
    for (int64_t b = 0; b * block < count; b++) {
        int64_t end = (b + 1) * block < count ? (b + 1) * block : count;
        float a = 0;
        for (int64_t i = b * block; i < end; i++) a = fmaxf(a, fabsf(to_float(x, dtype, i)));
        absmax[b] = a;
        float inverse = 1.0f / a;
        for (int64_t i = b * block; i < end + end % 2; i++) {
            float value = i < end ? to_float(x, dtype, i) : 0.0f;
            int code = reference_code(type, value == 0.0f ? 0.0f : value * inverse);
            codes[i / 2] |= (uint8_t)(i % 2 ? code : code << 4);
        }
    }
}

static float reference_value(const quant_view *v, int64_t i) {
    int64_t b = i / v->block;
    float absmax = v->absmax ? v->absmax[b] : 0;
    if (!v->absmax) {
        absmax = v->map2[v->absmax_codes[b]] * v->absmax2[b / 256];
        absmax += v->offset;
    }
    uint8_t byte = v->codes[i / 2];
    return v->code[i % 2 ? byte & 15 : byte >> 4] * absmax;
}

/* bitsandbytes' dQuantize<0>: a pivot walk, ties to the even index. */
static int reference_dynamic(const float *map, float x) {
    int pivot = 127, upper_pivot = 255, lower_pivot = 0;
    for (int i = 64; i > 0; i >>= 1) {
        if (x > map[pivot]) {
            lower_pivot = pivot;
            pivot += i;
        } else {
            upper_pivot = pivot;
            pivot -= i;
        }
    }
    if (x > map[pivot])
        return x > (map[upper_pivot] + map[pivot]) * 0.5f ? upper_pivot : pivot;
    return x < (map[lower_pivot] + map[pivot]) * 0.5f ? lower_pivot : pivot;
}

/* ---- material ---- */

static float normal(const philox_stream *s, uint64_t i) {
    float u = philox_uniform(philox_word(s, 2 * i)),
          v = philox_uniform(philox_word(s, 2 * i + 1));
    return sqrtf(-2.0f * logf(u)) * cosf(6.2831853f * v);
}

/* Weights as the world has them, with ugly blocks strewn in: zeros, subnormals, one outlier,
 * values on and beside thresholds, the largest finite numbers. */
static void fill(float *x, int64_t n, uint64_t seed) {
    philox_stream s = philox_open(seed, PHILOX_INIT, 0, 0, 0);
    for (int64_t i = 0; i < n; i++) {
        float z = normal(&s, (uint64_t)i);
        switch (i / 96 % 8) {
        case 1:
            x[i] = 0.0f;
            break;
        case 2:
            x[i] = z * 1e-39f;
            break; /* subnormal, 1/absmax may overflow */
        case 3:
            x[i] = i % 50 ? z * 1e-3f : 40.0f;
            break;
        case 4:
            x[i] =
                i % 31 ? (nf4_codebook()[i % 15] + nf4_codebook()[i % 15 + 1]) * 0.5f : -1.0f;
            break;
        case 5:
            x[i] = i % 3 ? z * 1e38f : -0.0f;
            break;
        default:
            x[i] = z * 0.02f;
        }
        if (!isfinite(x[i])) x[i] = 3e38f;
    }
}

#endif
