/* dynamic.h: the dynamic 8-bit maps of bitsandbytes and the nearest code in such a map.
 *
 * 256 ascending fp32 values in [-1, 1] (signed: -0.99296874 .. 1, zero at index 127) or [0, 1]
 * (unsigned: zero at index 0): seven decades from 1e-6 to 1, each with twice as many evenly
 * spaced values as the one below. Double quantization uses the signed map, 8-bit Adam the
 * signed one for its first moment and the unsigned one for its second. The map is data: what a
 * file carries decodes that file. */
#ifndef NIBBLE_QUANT_DYNAMIC_H
#define NIBBLE_QUANT_DYNAMIC_H

#include "common/half.h"

#include <stdint.h>

enum { DYNAMIC_CODES = 256, DYNAMIC_ZERO_SIGNED = 127, DYNAMIC_ZERO_UNSIGNED = 0 };

/* [256], made once at the first call, today's bits of torch and bitsandbytes. Thread-safe. */
const float *dynamic_map_signed(void);
const float *dynamic_map_unsigned(void);

/* Finds the nearest code. `above` alone decides: the code of y is the number of values in it
 * below y. To begin close by, y's sign, exponent and top seven mantissa bits choose a bucket,
 * whose first possible code is stored; in the two maps above no bucket holds more than one
 * value of `above`, so one comparison ends the search (3 ns against 16 ns for eight halvings).
 */
enum {
    DYNAMIC_LOWEST =
        104 << 7,           /* 2^-23 by its upper 16 bits: below lies only the code of zero */
    DYNAMIC_BUCKETS = 2946, /* up to 1 = 127 << 7, and one for all below DYNAMIC_LOWEST */
};
typedef struct dynamic_finder {
    float above[DYNAMIC_CODES]; /* [255] y > above[i] means code > i; [255] is infinite */
    uint8_t start[2 * DYNAMIC_BUCKETS]; /* first code of each bucket: y >= 0, then y < 0 */
    int steps;                          /* most values of `above` in any bucket */
} dynamic_finder;

/* Nearest code by fp32 midpoints, an exact tie to the even code (bitsandbytes' dQuantize).
 * `map` is ascending, no other promise. */
void dynamic_finder_make(dynamic_finder *finder, const float map[DYNAMIC_CODES]);
const dynamic_finder *dynamic_finder_signed(void);
const dynamic_finder *dynamic_finder_unsigned(void);

static inline int dynamic_bucket(float y) {
    uint32_t bits = float_bits(y);
    int k = (int)((bits & 0x7fffffff) >> 16) - DYNAMIC_LOWEST + 1;
    k = k < 0 ? 0 : k;
    k = k > DYNAMIC_BUCKETS - 1 ? DYNAMIC_BUCKETS - 1 : k;
    return k + (bits >> 31 ? DYNAMIC_BUCKETS : 0);
}

/* y is any number but NaN. */
static inline uint8_t dynamic_nearest(const dynamic_finder *finder, float y) {
    unsigned code = finder->start[dynamic_bucket(y)];
    for (int i = 0; i < finder->steps; i++) code += y > finder->above[code];
    return (uint8_t)code;
}

#endif
