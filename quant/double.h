/* double.h: double quantization, the 4-bit formats' scales in 8 bits.
 *
 * offset = mean of the scales; each scale minus the offset is quantized in blocks of 256 with
 * the signed dynamic map (bitsandbytes; not FP8, whatever the paper says). 32 bits per 64
 * weights become 8 + 32/256. */
#ifndef NIBBLE_QUANT_DOUBLE_H
#define NIBBLE_QUANT_DOUBLE_H

#include "common/status.h"

#include <stdint.h>

/* The mean of the scales, rounded once to fp32. The sum is taken in fp64 in eight lanes (lane
 * j adds elements j, j+8, ... in order), folded as ((0+4)+(2+6)) + ((1+5)+(3+7)): our order,
 * the same everywhere. torch adds in fp32 in an order that depends on its build, and is up to
 * 4 ulp off this; decoding uses the stored value, so both are valid files. 0 for no blocks. */
float quant_nest_offset(const float *absmax, int64_t blocks);

/* Quantizes absmax [blocks] around a given offset: codes [blocks], absmax2 [ceil(blocks/256)].
 * map [256] is ascending (dynamic_map_signed() unless a test says otherwise). A block whose
 * scales all equal the offset has absmax2 0 and the code of 0. STATUS_MODEL if a scale is not
 * finite, naming it. */
status quant_nest_around(const float *absmax, int64_t blocks, float offset, const float *map,
                         uint8_t *codes, float *absmax2);

/* quant_nest_offset, then quant_nest_around. */
status quant_nest(const float *absmax, int64_t blocks, uint8_t *codes, float *absmax2,
                  float *offset, const float *map);

/* Back: absmax[i] = map[codes[i]] * absmax2[i / 256] + offset for i in first .. first+n-1
 * (multiply, round, add, round). absmax [n] is indexed from 0. */
void quant_unnest(const uint8_t *codes, const float *absmax2, float offset, const float *map,
                  int64_t first, int64_t n, float *absmax);

#endif
