/* dropout.c: Philox 4x32-10 for 256 elements at a time, in a form that the compiler
 * vectorizes.
 */
#include "autograd/cpu/dropout.h"

#include "autograd/cpu/vector.h"
#include "common/checked.h"
#include "quant/simd.h"

#if SIMD_X86
#include <immintrin.h>
#endif

enum { BLOCKS = 64, ELEMENTS = 4 * BLOCKS };

dropout dropout_of(const op_call *call, int part) {
    double p = call->attr->linear.dropout;
    dropout d = {.on = p > 0 && call->micro != UINT64_MAX, .width = call->attr->linear.in};
    if (!d.on) return d;
    d.stream =
        philox_open(call->seed, PHILOX_DROPOUT, (uint32_t)call->attr->linear.module[part],
                    (uint32_t)call->layer, call->micro);
    d.threshold = philox_drop_threshold(p);
    d.keep = (float)(1 / (1 - p));
    return d;
}

static void words_plain(const philox_stream *s, uint32_t first, int64_t blocks,
                        uint32_t *words) {
    for (int64_t i = 0; i < blocks; i++) philox_block(s, first + (uint32_t)i, words + 4 * i);
}

#if SIMD_X86
/* Four counters, one per 64-bit lane; only the low halves count, as the multiply reads them.
 */
typedef struct counters {
    __m256i c0, c1, c2, c3;
} counters;

TARGET_AVX2 static inline void round_avx2(counters *c, __m256i k0, __m256i k1) {
    const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
    __m256i p0 = _mm256_mul_epu32(c->c0, m0), p1 = _mm256_mul_epu32(c->c2, m1);
    c->c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c->c1), k0);
    c->c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c->c3), k1);
    c->c1 = p1, c->c3 = p0;
}

/* The 16 words in the order of the elements. */
TARGET_AVX2 static inline void store_avx2(const counters *c, uint32_t *words) {
    __m256i low = _mm256_blend_epi32(c->c0, _mm256_slli_epi64(c->c1, 32), 0xAA);
    __m256i high = _mm256_blend_epi32(c->c2, _mm256_slli_epi64(c->c3, 32), 0xAA);
    __m256i even = _mm256_unpacklo_epi64(low, high), odd = _mm256_unpackhi_epi64(low, high);
    _mm256_storeu_si256((__m256i *)words, _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256((__m256i *)(words + 8), _mm256_permute2x128_si256(even, odd, 0x31));
}

/* blocks is a multiple of 16: four groups at once hide the multiply's latency. */
TARGET_AVX2 static void words_avx2(const philox_stream *s, uint32_t first, int64_t blocks,
                                   uint32_t *words) {
    for (int64_t i = 0; i < blocks; i += 16) {
        counters c[4];
        for (int j = 0; j < 4; j++) {
            uint32_t at = first + (uint32_t)i + 4 * (uint32_t)j;
            c[j].c0 = _mm256_set_epi64x(at + 3, at + 2, at + 1, at);
            c[j].c1 = _mm256_set1_epi64x(s->counter[0]);
            c[j].c2 = _mm256_set1_epi64x(s->counter[1]);
            c[j].c3 = _mm256_set1_epi64x(s->counter[2]);
        }
        uint32_t k0 = s->key[0], k1 = s->key[1];
        for (int round = 0; round < 10; round++) {
            for (int j = 0; j < 4; j++)
                round_avx2(&c[j], _mm256_set1_epi64x(k0), _mm256_set1_epi64x(k1));
            k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
        }
        for (int j = 0; j < 4; j++) store_avx2(&c[j], words + 4 * i + 16 * j);
    }
}
#endif

/* The words of elements 4*first on: `blocks` times four, rounded up to what a variant makes at
 * once (words has room for BLOCKS). */
static void make_words(const philox_stream *s, uint32_t first, int64_t blocks,
                       uint32_t *words) {
#if SIMD_X86
    if (simd_get() >= SIMD_AVX2) {
        words_avx2(s, first, round_up_i64(blocks, 16), words);
        return;
    }
#endif
    words_plain(s, first, blocks, words);
}

/* x *= keep where the word reaches the threshold, else 0; chosen by bits, not by a branch. */
SIMD_INLINE void dropout_scale_body(const uint32_t *restrict words, uint32_t threshold,
                                    float keep, int64_t n, float *restrict x) {
    for (int64_t i = 0; i < n; i++)
        x[i] = vector_select(words[i] >= threshold, x[i] * keep, 0.0f);
}
SIMD_TWICE(dropout_scale,
           (const uint32_t *words, uint32_t threshold, float keep, int64_t n, float *x),
           (words, threshold, keep, n, x))

void dropout_apply(const dropout *d, int64_t row, int64_t col, int64_t n, float *x) {
    if (!d->on) return;
    uint64_t element = (uint64_t)row * (uint64_t)d->width + (uint64_t)col;
    uint32_t words[ELEMENTS];
    for (int64_t done = 0; done < n;) {
        uint64_t at = element + (uint64_t)done;
        int64_t skip = (int64_t)(at % 4), m = min_i64(n - done, ELEMENTS - skip);
        make_words(&d->stream, (uint32_t)(at / 4), (skip + m + 3) / 4, words);
        dropout_scale(words + skip, (uint32_t)d->threshold, d->keep, m, x + done);
        done += m;
    }
}
