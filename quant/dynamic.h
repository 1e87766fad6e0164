/* dynamic.h: the dynamic 8-bit maps of bitsandbytes and the nearest code in such a map.
 *
 * 256 ascending fp32 values in [-1, 1] (signed: -0.99296874 .. 1, zero at index 127) or [0, 1]
 * (unsigned: zero at index 0): seven decades from 1e-6 to 1, each with twice as many evenly
 * spaced values as the one below. Double quantization uses the signed map, 8-bit Adam the signed
 * one for its first moment and the unsigned one for its second.
 * The map is data: what a file carries decodes that file. */
#ifndef NIBBLE_QUANT_DYNAMIC_H
#define NIBBLE_QUANT_DYNAMIC_H

#include <stdint.h>

enum { DYNAMIC_CODES = 256, DYNAMIC_ZERO_SIGNED = 127, DYNAMIC_ZERO_UNSIGNED = 0 };

/* [256], made once at the first call, today's bits of torch and bitsandbytes. Thread-safe. */
const float *dynamic_map_signed(void);
const float *dynamic_map_unsigned(void);

/* The search structure of a map: the code of y is the number of `above` values below y. */
typedef struct dynamic_finder {
    float above[DYNAMIC_CODES]; /* [255] y > above[i] means code > i; [255] is +infinity */
} dynamic_finder;

/* Nearest code by fp32 midpoints, an exact tie to the even code (bitsandbytes' dQuantize).
 * `map` is ascending. */
void dynamic_finder_make(dynamic_finder *finder, const float map[DYNAMIC_CODES]);
const dynamic_finder *dynamic_finder_signed(void);
const dynamic_finder *dynamic_finder_unsigned(void);

/* Eight steps without a branch; NaN gives 0. */
static inline uint8_t dynamic_nearest(const dynamic_finder *finder, float y) {
    const float *above = finder->above;
    int code = 0;
    for (int step = DYNAMIC_CODES / 2; step; step /= 2)
        code += y > above[code + step - 1] ? step : 0;
    return (uint8_t)code;
}

#endif
