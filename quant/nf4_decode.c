/* nf4_decode.c: dequantization of any element range.
 *
 * A block has one scale, so it has only 16 different values: they are computed and rounded
 * once per block, and decoding is a table look-up by nibble. With AVX2 a table of 16-bit
 * values is two byte shuffles (low and high bytes), one of fp32 two permutes and a blend; with
 * AVX512 each is one permute. Whole blocks take these paths, the ends of a range the plain
 * one: the values are the same ones. */
#include "quant/nf4.h"

#include "common/checked.h"
#include "common/half.h"
#include "quant/simd.h"

#include <string.h>
#if SIMD_X86
#include <immintrin.h>
#endif

float quant_view_absmax(const quant_view *view, int64_t b) {
    if (view->absmax) return view->absmax[b];
    float scaled = view->map2[view->absmax_codes[b]] * view->absmax2[b / QUANT_NEST];
    return scaled + view->offset;
}

/* The 16 values of block b, in the output type. */
typedef union block_table {
    float f32[16];
    uint16_t u16[16];
} block_table;

SIMD_INLINE void make_table(const quant_view *view, int64_t b, int to, block_table *table) {
    float absmax = quant_view_absmax(view, b), value[16];
    for (int i = 0; i < 16; i++) value[i] = view->code[i] * absmax;
    for (int i = 0; i < 16; i++) {
        if (to == QUANT_SRC_F32)
            table->f32[i] = value[i];
        else if (to == QUANT_SRC_BF16)
            table->u16[i] = f32_to_bf16(value[i]);
    }
    if (to == QUANT_SRC_F16) convert_f32_to_f16(value, table->u16, 16);
}

/* Elements first .. first+n-1, all of one block, whose table is given. */
SIMD_INLINE void look_up(const uint8_t *codes, int64_t first, int64_t n,
                         const block_table *table, int to, void *out) {
    for (int64_t i = 0; i < n; i++) {
        int64_t e = first + i;
        int nibble = codes[e / 2] >> (e % 2 ? 0 : 4) & 15;
        if (to == QUANT_SRC_F32)
            ((float *)out)[i] = table->f32[nibble];
        else
            ((uint16_t *)out)[i] = table->u16[nibble];
    }
}

/* Whole blocks b .. b+n-1. */
typedef void decode_blocks(const quant_view *view, int64_t b, int64_t n, int to, void *out);

static void decode_plain(const quant_view *view, int64_t b, int64_t n, int to, void *out) {
    block_table table;
    for (int64_t k = 0; k < n; k++, b++) {
        make_table(view, b, to, &table);
        void *at = (char *)out + k * view->block * quant_source_bytes(to);
        look_up(view->codes, b * view->block, view->block, &table, to, at);
    }
}

#if SIMD_X86
/* n a multiple of 8. Each 64-bit lane takes one byte as (high nibble, low nibble | rubbish):
 * the permute looks at 3 bits, the blend at bit 3. */
TARGET_AVX2 static inline void look_up_f32_avx2(const uint8_t *codes, int n, const float *code,
                                                float absmax, float *out) {
    __m256 low = _mm256_mul_ps(_mm256_loadu_ps(code), _mm256_set1_ps(absmax));
    __m256 high = _mm256_mul_ps(_mm256_loadu_ps(code + 8), _mm256_set1_ps(absmax));
    for (int i = 0; i < n; i += 8) {
        int32_t four;
        memcpy(&four, codes + i / 2, 4);
        __m256i bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
        __m256i index =
            _mm256_or_si256(_mm256_srli_epi64(bytes, 4), _mm256_slli_epi64(bytes, 32));
        __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
        _mm256_storeu_ps(out + i,
                         _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index),
                                          _mm256_permutevar8x32_ps(high, index), upper));
    }
}

/* Eight values in the low halves of 32-bit lanes, rounded as half.h does. */
TARGET_AVX2 static inline __m256i round_bf16(__m256 value) {
    __m256i u = _mm256_castps_si256(value), one = _mm256_set1_epi32(1);
    __m256i tie = _mm256_and_si256(_mm256_srli_epi32(u, 16), one);
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), tie);
    __m256i nan = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    __m256 is_nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
    __m256 bits =
        _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(nan), is_nan);
    return _mm256_srli_epi32(_mm256_castps_si256(bits), 16);
}
TARGET_AVX2 static inline __m256i round_f16(__m256 value) {
    __m256 sign = _mm256_and_ps(value, _mm256_set1_ps(-0.0f));
    __m256 nan = _mm256_or_ps(sign, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)));
    __m256 is_nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
    value = _mm256_blendv_ps(value, nan, is_nan); /* one NaN for all, as half.h has it */
    return _mm256_cvtepu16_epi32(_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}

/* make_table for the 16-bit types, in one register. */
TARGET_AVX2 static inline __m256i make_table_u16(const quant_view *view, int64_t b, int to) {
    __m256 absmax = _mm256_set1_ps(quant_view_absmax(view, b));
    __m256 low = _mm256_mul_ps(_mm256_loadu_ps(view->code), absmax);
    __m256 high = _mm256_mul_ps(_mm256_loadu_ps(view->code + 8), absmax);
    __m256i words = to == QUANT_SRC_BF16
                        ? _mm256_packus_epi32(round_bf16(low), round_bf16(high))
                        : _mm256_packus_epi32(round_f16(low), round_f16(high));
    return _mm256_permute4x64_epi64(words, 0xd8);
}

/* n a multiple of 32. The nibbles become byte indices in order; low and high bytes of the
 * values are shuffled apart and interleaved. */
TARGET_AVX2 static inline void look_up_u16_avx2(const uint8_t *codes, int n, __m256i t,
                                                uint16_t *out) {
    __m256i mask = _mm256_set1_epi16(0x00ff);
    __m256i packed = _mm256_packus_epi16(_mm256_and_si256(t, mask), _mm256_srli_epi16(t, 8));
    __m256i low = _mm256_permute4x64_epi64(packed, 0x88);  /* low bytes 0..15, twice */
    __m256i high = _mm256_permute4x64_epi64(packed, 0xdd); /* high bytes 0..15, twice */
    for (int i = 0; i < n; i += 32) {
        __m256i bytes =
            _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(codes + i / 2)));
        __m256i index =
            _mm256_or_si256(_mm256_srli_epi16(bytes, 4), _mm256_slli_epi16(bytes, 8));
        index = _mm256_and_si256(index, _mm256_set1_epi8(15));
        __m256i l = _mm256_shuffle_epi8(low, index), h = _mm256_shuffle_epi8(high, index);
        __m256i a = _mm256_unpacklo_epi8(l, h); /* elements 0..7 and 16..23 */
        __m256i b = _mm256_unpackhi_epi8(l, h); /* elements 8..15 and 24..31 */
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_permute2x128_si256(a, b, 0x20));
        _mm256_storeu_si256((__m256i *)(out + i + 16), _mm256_permute2x128_si256(a, b, 0x31));
    }
}

TARGET_AVX2 static void decode_avx2(const quant_view *view, int64_t b, int64_t n, int to,
                                    void *out) {
    const int block = view->block;
    for (int64_t k = 0; k < n; k++, b++) {
        const uint8_t *codes = view->codes + b * (block / 2);
        if (to == QUANT_SRC_F32)
            look_up_f32_avx2(codes, block, view->code, quant_view_absmax(view, b),
                             (float *)out + k * block);
        else
            look_up_u16_avx2(codes, block, make_table_u16(view, b, to),
                             (uint16_t *)out + k * block);
    }
}

/* As above; the permute looks at 4 bits. n a multiple of 16. */
TARGET_AVX512 static inline void
look_up_f32_avx512(const uint8_t *codes, int n, const float *code, float absmax, float *out) {
    __m512 t = _mm512_mul_ps(_mm512_loadu_ps(code), _mm512_set1_ps(absmax));
    for (int i = 0; i < n; i += 16) {
        __m512i bytes =
            _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(codes + i / 2)));
        __m512i index =
            _mm512_or_si512(_mm512_srli_epi64(bytes, 4), _mm512_slli_epi64(bytes, 32));
        _mm512_storeu_ps(out + i, _mm512_permutexvar_ps(index, t));
    }
}

/* The permute looks at 5 bits, the table stands there twice. n a multiple of 32. */
TARGET_AVX512 static inline void look_up_u16_avx512(const uint8_t *codes, int n, __m256i table,
                                                    uint16_t *out) {
    __m512i t = _mm512_broadcast_i64x4(table);
    for (int i = 0; i < n; i += 32) {
        __m512i bytes =
            _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(codes + i / 2)));
        __m512i index =
            _mm512_or_si512(_mm512_srli_epi32(bytes, 4), _mm512_slli_epi32(bytes, 16));
        _mm512_storeu_si512(out + i, _mm512_permutexvar_epi16(index, t));
    }
}

TARGET_AVX512 static void decode_avx512(const quant_view *view, int64_t b, int64_t n, int to,
                                        void *out) {
    const int block = view->block;
    for (int64_t k = 0; k < n; k++, b++) {
        const uint8_t *codes = view->codes + b * (block / 2);
        if (to == QUANT_SRC_F32)
            look_up_f32_avx512(codes, block, view->code, quant_view_absmax(view, b),
                               (float *)out + k * block);
        else
            look_up_u16_avx512(codes, block, make_table_u16(view, b, to),
                               (uint16_t *)out + k * block);
    }
}
#endif

static decode_blocks *decoder_for(const quant_view *view) {
#if SIMD_X86
    simd_level level = view->block % 32 ? SIMD_NONE : simd_get();
    if (level == SIMD_AVX512) return decode_avx512;
    if (level == SIMD_AVX2) return decode_avx2;
#endif
    return decode_plain;
}

static void dequantize(const quant_view *view, int64_t first, int64_t n, int to, void *out) {
    const int64_t block = view->block, end = first + n, size = quant_source_bytes(to);
    decode_blocks *decode = decoder_for(view);
    block_table table;
    for (int64_t at = first; at < end;) {
        int64_t b = at / block, whole = at % block ? 0 : (end - at) / block;
        int64_t taken = whole * block;
        void *to_here = (char *)out + (at - first) * size;
        if (whole) {
            decode(view, b, whole, to, to_here);
        } else { /* the first or last, partial block */
            taken = min_i64(end, (b + 1) * block) - at;
            make_table(view, b, to, &table);
            look_up(view->codes, at, taken, &table, to, to_here);
        }
        at += taken;
    }
}

void quant_dequantize_f32(const quant_view *view, int64_t first, int64_t n, float *out) {
    dequantize(view, first, n, QUANT_SRC_F32, out);
}
void quant_dequantize_bf16(const quant_view *view, int64_t first, int64_t n, uint16_t *out) {
    dequantize(view, first, n, QUANT_SRC_BF16, out);
}
void quant_dequantize_f16(const quant_view *view, int64_t first, int64_t n, uint16_t *out) {
    dequantize(view, first, n, QUANT_SRC_F16, out);
}
