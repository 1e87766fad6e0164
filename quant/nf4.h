/* nf4.h: the 4-bit formats NF4 and FP4 on CPU buffers, bit-compatible with bitsandbytes.
 *
 * A tensor is flattened row-major and cut into blocks of `block` elements (64); blocks run
 * across rows. Each block has its largest magnitude as an fp32 scale, each element the index
 * of the nearest of 16 levels:
 *
 *     element   0    1    2    3   ...  63 | 64 ...
 *     byte     [0 hi|lo] [1 hi|lo]  ...     | [32 hi|lo] ...
 *     absmax   <----------- [0] ----------> | <--- [1] ...
 *
 *     value = level[nibble] * absmax[element / 64]
 *
 * one fp32 multiplication and one rounding to the output type, to nearest even.
 *
 * The scales may be quantized themselves ("nested", double.h): then absmax[b] =
 * map2[absmax_codes[b]] * absmax2[b / 256] + offset, two roundings. 4.127 bits per weight.
 * Here are codes and scales only; files, names and dtype records are checkpoints/'s. */
#ifndef NIBBLE_QUANT_NF4_H
#define NIBBLE_QUANT_NF4_H

#include "common/status.h"
#include "quant/convert.h"

#include <stddef.h>
#include <stdint.h>

typedef enum quant_type { QUANT_NF4, QUANT_FP4 } quant_type;

enum {
    QUANT_BLOCK = 64,       /* elements per scale unless a file says otherwise */
    QUANT_BLOCK_MAX = 4096, /* the largest that bitsandbytes knows */
    QUANT_NEST = 256,       /* scales per second-level scale */
};

/* One 4-bit tensor, rows x cols flattened row-major. Never owns memory. */
typedef struct quant_view {
    quant_type type;
    int64_t count; /* elements */
    int32_t block; /* elements per scale, even */

    const uint8_t *codes;        /* [(count+1)/2] the even element in the high nibble */
    const float *absmax;         /* [blocks] fp32, or NULL when nested */
    const uint8_t *absmax_codes; /* [blocks] nested: index into map2 */
    const float *absmax2;        /* [ceil(blocks/256)] nested */
    const float *map2;           /* [256] nested: the map that the file carries */
    const float *code; /* [16] the levels that the file carries; ours when we quantize */
    float offset;      /* nested: mean of the scales */
} quant_view;

static inline int64_t quant_code_bytes(int64_t count) {
    return count / 2 + count % 2;
}
static inline int64_t quant_block_count(int64_t count, int32_t block) {
    return count / block + (count % block != 0);
}
static inline int64_t quant_nest_count(int64_t blocks) {
    return quant_block_count(blocks, QUANT_NEST);
}

/* The 16 levels by nibble: NF4 ascending from -1 to 1; FP4 sign and magnitude. */
const float *nf4_codebook(void);
const float *fp4_codebook(void);
const float *quant_codebook(quant_type type);
/* What separates neighbouring levels, ascending: of y for NF4 (15), of |y| for FP4 (7); returns
 * their number. A level is above a threshold, a tie below. */
int quant_thresholds(quant_type type, float thresholds[15]);
const char *quant_type_name(quant_type type); /* "nf4", "fp4": bitsandbytes' spelling */

/* Quantizes `count` elements of `dtype` (quant_source; already rounded to the load dtype) into
 * codes [(count+1)/2] and absmax [blocks]. y = x * (1/absmax) in fp32; NF4 takes the number of
 * midpoints below y (a tie goes to the lower level), FP4 bitsandbytes' CUDA thresholds on |y|.
 * An odd count fills the last low nibble as for y = 0, an all-zero block has absmax 0 and the
 * codes of 0, and where 1/absmax overflows (below 2.9e-39) zeros stay 0 and the rest becomes
 * +-absmax: subnormals are never flushed.
 * Blocks are independent: big tensors are streamed, or spread over threads, by calling this
 * for block-aligned ranges (codes + first/2, absmax + first/block).
 *
 * STATUS_MODEL if an element is not finite, naming its index from x (the caller prefixes the
 * tensor); STATUS_INTERNAL for an impossible block. The outputs are then unspecified. */
status quant_quantize(quant_type type, const void *x, int dtype, int64_t count, int32_t block,
                      uint8_t *codes, float *absmax);

/* Checks what can be checked in a view made from a file: block even and in 2..4096, count not
 * negative, the needed arrays present. (Lengths are the reader's to check.) STATUS_MODEL. */
status quant_view_check(const quant_view *view);

/* out[i] = value of element first + i, 0 <= i < n: any range within count, `first` may be odd
 * and inside a block. The same bits for any cut into ranges and on any processor. Reads
 * nothing outside the range's codes and scales. Thread-safe; no failure. */
void quant_dequantize_f32(const quant_view *view, int64_t first, int64_t n, float *out);
void quant_dequantize_bf16(const quant_view *view, int64_t first, int64_t n, uint16_t *out);
void quant_dequantize_f16(const quant_view *view, int64_t first, int64_t n, uint16_t *out);

/* The scale of block b, resolved through the second level where nested. */
float quant_view_absmax(const quant_view *view, int64_t b);

#endif
