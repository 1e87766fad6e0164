/* nf4.c: codebooks and quantization. A block is brought to fp32, its largest magnitude found
 * as an integer maximum (which shows NaN and infinity too), and each element's level found by
 * halving the sorted thresholds: four comparisons instead of fifteen. Decoding: nf4_decode.c.
 */
#include "quant/nf4.h"

#include "common/checked.h"
#include "common/half.h"
#include "quant/scan.h"
#include "quant/simd.h"

#include <math.h>
#include <string.h>
#if SIMD_X86
#include <immintrin.h>
#endif

static const float nf4_levels[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

static const float fp4_levels[16] = {
    0.0f,  0.0052083335f,  0.66666667f,  1.0f,  0.33333333f,  0.5f,  0.16666667f,  0.25f,
    -0.0f, -0.0052083335f, -0.66666667f, -1.0f, -0.33333333f, -0.5f, -0.16666667f, -0.25f,
};

/* FP4 magnitudes ascending as codes, and the thresholds between them (bitsandbytes' CUDA
 * literals, which are not the midpoints in the first place). */
static const uint8_t fp4_order[8] = {0, 1, 6, 7, 4, 5, 2, 3};
static const float fp4_thresholds[7] = {0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f,
                                        0.4166667f,  0.583333f,  0.8333333f};

const float *nf4_codebook(void) {
    return nf4_levels;
}
const float *fp4_codebook(void) {
    return fp4_levels;
}
const float *quant_codebook(quant_type type) {
    return type == QUANT_NF4 ? nf4_levels : fp4_levels;
}
const char *quant_type_name(quant_type type) {
    return type == QUANT_NF4 ? "nf4" : "fp4";
}

/* Sorted thresholds laid out by search level: level k has 2^k of them, [k][i] is the one to
 * ask after k answers that read i in binary. */
typedef struct threshold_tree {
    float level[4][8];
} threshold_tree;

int quant_thresholds(quant_type type, float thresholds[15]) {
    for (int i = 0; i < 15 && type == QUANT_NF4; i++)
        thresholds[i] = (nf4_levels[i] + nf4_levels[i + 1]) * 0.5f;
    for (int i = 0; i < 7 && type == QUANT_FP4; i++) thresholds[i] = fp4_thresholds[i];
    return type == QUANT_NF4 ? 15 : 7;
}

static void make_tree(quant_type type, threshold_tree *tree) {
    float thresholds[15];
    int count = quant_thresholds(type, thresholds);
    for (int k = 0; 1 << k <= count; k++)
        for (int i = 0; i < 1 << k; i++)
            tree->level[k][i] = thresholds[(2 * i + 1) * (count + 1) / (2 << k) - 1];
}

static unsigned nf4_code(const threshold_tree *tree, float y) {
    unsigned i = y > tree->level[0][0];
    i = 2 * i + (y > tree->level[1][i]);
    i = 2 * i + (y > tree->level[2][i]);
    return 2 * i + (y > tree->level[3][i]);
}

static unsigned fp4_code(const threshold_tree *tree, float y) {
    float magnitude = fabsf(y);
    unsigned i = magnitude > tree->level[0][0];
    i = 2 * i + (magnitude > tree->level[1][i]);
    i = 2 * i + (magnitude > tree->level[2][i]);
    return fp4_order[i] | (y < 0.0f ? 8u : 0u);
}

static unsigned code_of(quant_type type, const threshold_tree *tree, float x, float inverse) {
    float y = x == 0.0f ? 0.0f : x * inverse; /* `inverse` may be infinite */
    return type == QUANT_NF4 ? nf4_code(tree, y) : fp4_code(tree, y);
}

static void encode_plain(quant_type type, const threshold_tree *tree, const float *x, int n,
                         float inverse, uint8_t *codes) {
    for (int i = 0; i < n; i += 2) {
        unsigned even = code_of(type, tree, x[i], inverse);
        unsigned odd = code_of(type, tree, i + 1 < n ? x[i + 1] : 0.0f, inverse);
        codes[i / 2] = (uint8_t)(even << 4 | odd);
    }
}

#if SIMD_X86
/* 2*i + (y > level[i]) for eight elements; a true comparison is -1. */
TARGET_AVX2 static inline __m256i descend(__m256i i, __m256 y, __m256 level) {
    __m256 threshold = _mm256_permutevar8x32_ps(level, i);
    __m256i above = _mm256_castps_si256(_mm256_cmp_ps(y, threshold, _CMP_GT_OQ));
    return _mm256_sub_epi32(_mm256_add_epi32(i, i), above);
}

TARGET_AVX2 static inline __m256i nf4_codes8(const __m256 level[4], __m256 y) {
    __m256i i = descend(_mm256_setzero_si256(), y, level[0]);
    i = descend(i, y, level[1]);
    i = descend(i, y, level[2]);
    return descend(i, y, level[3]);
}

/* level[3] holds fp4_order as integers. */
TARGET_AVX2 static inline __m256i fp4_codes8(const __m256 level[4], __m256 y) {
    __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), y);
    __m256i i = descend(_mm256_setzero_si256(), magnitude, level[0]);
    i = descend(i, magnitude, level[1]);
    i = descend(i, magnitude, level[2]);
    __m256i code = _mm256_permutevar8x32_epi32(_mm256_castps_si256(level[3]), i);
    __m256 negative = _mm256_cmp_ps(y, _mm256_setzero_ps(), _CMP_LT_OQ);
    return _mm256_or_si256(
        code, _mm256_and_si256(_mm256_castps_si256(negative), _mm256_set1_epi32(8)));
}

/* 32 codes in order, one in each 32-bit lane, into 16 bytes of nibble pairs. */
TARGET_AVX2 static inline void pack32(const __m256i c[4], uint8_t *out) {
    __m256i words =
        _mm256_packus_epi16(_mm256_packs_epi32(c[0], c[1]), _mm256_packs_epi32(c[2], c[3]));
    __m256i bytes =
        _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(0x0110)); /* even*16 + odd */
    __m128i packed =
        _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    _mm_storeu_si128((__m128i *)out, packed);
}

/* n is a multiple of 32 and `inverse` finite. */
TARGET_AVX2 static void encode_avx2(quant_type type, const threshold_tree *tree,
                                    const float *x, int n, float inverse, uint8_t *codes) {
    __m256 level[4], scale = _mm256_set1_ps(inverse);
    for (int k = 0; k < 4; k++) level[k] = _mm256_loadu_ps(tree->level[k]);
    if (type == QUANT_FP4)
        level[3] = _mm256_castsi256_ps(_mm256_setr_epi32(0, 1, 6, 7, 4, 5, 2, 3));
    for (int i = 0; i < n; i += 32) {
        __m256i c[4];
        for (int j = 0; j < 4; j++) {
            __m256 y = _mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * j), scale);
            c[j] = type == QUANT_NF4 ? nf4_codes8(level, y) : fp4_codes8(level, y);
        }
        pack32(c, codes + i / 2);
    }
}
#else
static void encode_avx2(quant_type type, const threshold_tree *tree, const float *x, int n,
                        float inverse, uint8_t *codes) {
    encode_plain(type, tree, x, n, inverse, codes);
}
#endif

static int32_t largest_plain(const float *x, int n) {
    return scan_largest_bits(x, n);
}
TARGET_AVX2 static int32_t largest_avx2(const float *x, int n) {
    return scan_largest_bits(x, n);
}

static void encode_block(quant_type type, const threshold_tree *tree, const float *x, int n,
                         float absmax, simd_level level, uint8_t *codes) {
    float inverse = 1.0f / absmax;
    int vector = level >= SIMD_AVX2 && isfinite(inverse) ? n & ~31 : 0;
    if (vector) encode_avx2(type, tree, x, vector, inverse, codes);
    encode_plain(type, tree, x + vector, n - vector, inverse, codes + vector / 2);
}

static status not_finite(const float *x, int n, int64_t first, int64_t count) {
    int i = 0;
    while (i + 1 < n && isfinite(x[i])) i++;
    return status_fail(STATUS_MODEL, "element %lld of %lld is %g: cannot be quantized",
                       (long long)(first + i), (long long)count, (double)x[i]);
}

status quant_quantize(quant_type type, const void *x, int dtype, int64_t count, int32_t block,
                      uint8_t *codes, float *absmax) {
    if (block < 2 || block > QUANT_BLOCK_MAX || block % 2 || count < 0)
        return status_fail(STATUS_INTERNAL, "cannot quantize %lld elements in blocks of %d",
                           (long long)count, block);
    simd_level level = simd_get();
    threshold_tree tree = {0};
    make_tree(type, &tree);
    float tile[QUANT_BLOCK_MAX];
    for (int64_t first = 0; first < count; first += block) {
        int n = (int)min_i64(block, count - first);
        const float *values = (const float *)x + first;
        if (dtype != QUANT_SRC_F32) {
            convert_array((const uint16_t *)x + first, dtype, tile, QUANT_SRC_F32, n);
            values = tile;
        }
        int32_t bits = level >= SIMD_AVX2 ? largest_avx2(values, n) : largest_plain(values, n);
        if (bits > SCAN_FINITE) return not_finite(values, n, first, count);
        absmax[first / block] = bits_float((uint32_t)bits);
        encode_block(type, &tree, values, n, bits_float((uint32_t)bits), level,
                     codes + first / 2);
    }
    return STATUS_OK;
}

status quant_view_check(const quant_view *view) {
    if (view->block < 2 || view->block > QUANT_BLOCK_MAX || view->block % 2)
        return status_fail(STATUS_MODEL, "block size %d: must be even and in 2..%d",
                           view->block, QUANT_BLOCK_MAX);
    if (view->count < 0)
        return status_fail(STATUS_MODEL, "element count %lld is negative",
                           (long long)view->count);
    if (view->count && (!view->codes || !view->code))
        return status_fail(STATUS_MODEL, "4-bit codes or their 16 levels are missing");
    if (view->count && !view->absmax && (!view->absmax_codes || !view->absmax2 || !view->map2))
        return status_fail(STATUS_MODEL,
                           "neither scales nor complete nested scales are present");
    return STATUS_OK;
}
