/* double.c: one pass for the mean, one per block of 256 for the codes. */
#include "quant/double.h"

#include "common/checked.h"
#include "quant/dynamic.h"
#include "quant/nf4.h"

#include <math.h>

float quant_nest_offset(const float *absmax, int64_t blocks) {
    double lane[8] = {0};
    for (int64_t i = 0; i < blocks; i++) lane[i % 8] += (double)absmax[i];
    double even = (lane[0] + lane[4]) + (lane[2] + lane[6]);
    double odd = (lane[1] + lane[5]) + (lane[3] + lane[7]);
    return blocks ? (float)((even + odd) / (double)blocks) : 0.0f;
}

/* One block of at most 256 scales. Returns its second-level scale. */
static float nest_block(const float *absmax, int n, float offset, const dynamic_finder *finder,
                        uint8_t *codes) {
    float d[QUANT_NEST], largest = 0.0f;
    for (int i = 0; i < n; i++) d[i] = absmax[i] - offset;
    for (int i = 0; i < n; i++) largest = fabsf(d[i]) > largest ? fabsf(d[i]) : largest;
    float inverse = 1.0f / largest;
    for (int i = 0; i < n; i++)
        codes[i] = dynamic_nearest(finder, d[i] == 0.0f ? 0.0f : d[i] * inverse);
    return largest;
}

status quant_nest_around(const float *absmax, int64_t blocks, float offset, const float *map,
                         uint8_t *codes, float *absmax2) {
    for (int64_t i = 0; i < blocks; i++)
        if (!isfinite(absmax[i] - offset))
            return status_fail(
                STATUS_MODEL, "scale %lld of %lld is %g with mean %g: cannot be quantized",
                (long long)i, (long long)blocks, (double)absmax[i], (double)offset);
    dynamic_finder finder;
    dynamic_finder_make(&finder, map);
    for (int64_t i = 0; i < blocks; i += QUANT_NEST) {
        int n = (int)min_i64(QUANT_NEST, blocks - i);
        absmax2[i / QUANT_NEST] = nest_block(absmax + i, n, offset, &finder, codes + i);
    }
    return STATUS_OK;
}

status quant_nest(const float *absmax, int64_t blocks, uint8_t *codes, float *absmax2,
                  float *offset, const float *map) {
    *offset = quant_nest_offset(absmax, blocks);
    return quant_nest_around(absmax, blocks, *offset, map, codes, absmax2);
}

void quant_unnest(const uint8_t *codes, const float *absmax2, float offset, const float *map,
                  int64_t first, int64_t n, float *absmax) {
    for (int64_t i = 0; i < n; i++) {
        float scaled = map[codes[first + i]] * absmax2[(first + i) / QUANT_NEST];
        absmax[i] = scaled + offset;
    }
}
