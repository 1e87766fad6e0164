/* scan.h: the largest magnitude of a range, for scales; private to quant/. */
#ifndef NIBBLE_QUANT_SCAN_H
#define NIBBLE_QUANT_SCAN_H

#include "common/half.h"
#include "quant/simd.h"

/* Its bits, 0 for none. As integers, because that vectorizes without fast math and orders NaN
 * and infinity above all numbers: a result above SCAN_FINITE says that one is there. */
enum { SCAN_FINITE = 0x7f7fffff };
SIMD_INLINE int32_t scan_largest_bits(const float *x, int64_t n) {
    int32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t bits = (int32_t)(float_bits(x[i]) & 0x7fffffff);
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

#endif
