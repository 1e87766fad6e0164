/* fake.c: fake quantization through tiles of fp32 that stay in the first-level cache. The
 * 4-bit formats go through the same public functions as real tensors, so they cannot differ.
 */
#include "quant/fake.h"

#include "common/checked.h"
#include "quant/scan.h"

#include <math.h>

enum { TILE = QUANT_BLOCK_MAX };

static void load(const void *x, int dtype, int64_t first, int64_t n, float *tile) {
    const char *from = (const char *)x + first * quant_source_bytes(dtype);
    convert_array(from, dtype, tile, QUANT_SRC_F32, n);
}

static void store(const float *tile, void *out, int dtype, int64_t first, int64_t n) {
    char *to = (char *)out + first * quant_source_bytes(dtype);
    convert_array(tile, QUANT_SRC_F32, to, dtype, n);
}

static void store_nan(void *out, int dtype, int64_t first, int64_t n) {
    float nan[64];
    for (int i = 0; i < 64; i++) nan[i] = NAN;
    for (int64_t i = 0; i < n; i += 64) store(nan, out, dtype, first + i, min_i64(64, n - i));
}

static void decode(const quant_view *view, void *out, int dtype, int64_t first) {
    char *to = (char *)out + first * quant_source_bytes(dtype);
    if (dtype == QUANT_SRC_BF16)
        quant_dequantize_bf16(view, 0, view->count, (uint16_t *)to);
    else if (dtype == QUANT_SRC_F16)
        quant_dequantize_f16(view, 0, view->count, (uint16_t *)to);
    else
        quant_dequantize_f32(view, 0, view->count, (float *)to);
}

/* A tile of whole blocks. Blocks with something not finite pass as zeros and become NaN after.
 */
static void fake_tile(quant_type type, float *tile, int dtype, int64_t n, int32_t block,
                      void *out, int64_t first) {
    uint8_t codes[TILE / 2], poisoned[TILE / 2];
    float absmax[TILE / 2];
    for (int64_t i = 0, b = 0; i < n; i += block, b++) {
        int64_t m = min_i64(block, n - i);
        poisoned[b] = scan_largest_bits(tile + i, m) > SCAN_FINITE;
        for (int64_t j = 0; j < m && poisoned[b]; j++) tile[i + j] = 0.0f;
    }
    (void)quant_quantize(type, tile, QUANT_SRC_F32, n, block, codes,
                         absmax); /* all is finite */
    quant_view view = {
        type, n, block, .codes = codes, .absmax = absmax, .code = quant_codebook(type)};
    decode(&view, out, dtype, first);
    for (int64_t i = 0, b = 0; i < n; i += block, b++)
        if (poisoned[b]) store_nan(out, dtype, first + i, min_i64(block, n - i));
}

void fake_quant4(quant_type type, const void *x, int dtype, int64_t count, int32_t block,
                 void *out) {
    float tile[TILE];
    const int64_t step = TILE / block * block;
    for (int64_t first = 0; first < count; first += step) {
        int64_t n = min_i64(step, count - first);
        load(x, dtype, first, n, tile);
        fake_tile(type, tile, dtype, n, block, out, first);
    }
}

/* bitsandbytes' literal for 1/127 */
static const float int8_unit = 7.874015718698502e-3f;

SIMD_INLINE void round_row_body(float *x, int64_t n, float absmax) {
    float inverse = 127.0f / absmax;
    int is_usable = inverse <= 3.402823466e38f;
    for (int64_t i = 0; i < n; i++) {
        float q = __builtin_rintf(x[i] * inverse);
        x[i] = is_usable ? q * absmax * int8_unit : 0.0f;
    }
}
static void round_row(float *x, int64_t n, float absmax); /* keeps the name private */
SIMD_TWICE(round_row, (float *x, int64_t n, float absmax), (x, n, absmax))

void fake_quant_int8_rows(const void *x, int dtype, int64_t rows, int64_t cols, void *out) {
    float tile[TILE];
    for (int64_t r = 0; r < rows; r++) {
        int32_t bits = 0;
        for (int64_t c = 0; c < cols; c += TILE) {
            int64_t n = min_i64(TILE, cols - c);
            load(x, dtype, r * cols + c, n, tile);
            int32_t here = scan_largest_bits(tile, n);
            bits = here > bits ? here : bits;
        }
        if (bits > SCAN_FINITE) {
            store_nan(out, dtype, r * cols, cols);
            continue;
        }
        for (int64_t c = 0; c < cols; c += TILE) {
            int64_t n = min_i64(TILE, cols - c);
            load(x, dtype, r * cols + c, n, tile);
            round_row(tile, n, bits_float((uint32_t)bits));
            store(tile, out, dtype, r * cols + c, n);
        }
    }
}
