/* philox.h: counter-based random numbers, Philox 4x32-10 (Salmon et al., SC 2011; cuRAND's
 * curand_Philox4x32_10). Nothing is ever "next": a number is a pure function of
 * (seed, purpose, micro-batch, layer, module, element), so resume, recompute, thread count and
 * back end do not change it. */
#ifndef NIBBLE_COMMON_PHILOX_H
#define NIBBLE_COMMON_PHILOX_H

#include <stdint.h>

typedef enum philox_purpose {
    PHILOX_DROPOUT = 1,
    PHILOX_INIT = 2,
    PHILOX_SHUFFLE = 3,
    PHILOX_SAMPLE = 4,
    PHILOX_SPLIT = 5,
} philox_purpose;

/* One stream: counter words 1 to 3 and the key; word 0 is element / 4. */
typedef struct philox_stream {
    uint32_t key[2];     /* seed, low and high */
    uint32_t counter[3]; /* purpose | module << 8 | layer << 16; batch low; batch high */
} philox_stream;

static inline philox_stream philox_open(uint64_t seed, philox_purpose purpose, uint32_t module,
                                        uint32_t layer, uint64_t batch) {
    philox_stream s = {{(uint32_t)seed, (uint32_t)(seed >> 32)},
                       {(uint32_t)purpose | (module & 255) << 8 | layer << 16, (uint32_t)batch,
                        (uint32_t)(batch >> 32)}};
    return s;
}

/* The four words of elements 4*block .. 4*block+3. */
static inline void philox_block(const philox_stream *s, uint32_t block, uint32_t out[4]) {
    uint32_t c0 = block, c1 = s->counter[0], c2 = s->counter[1], c3 = s->counter[2];
    uint32_t k0 = s->key[0], k1 = s->key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1, c3 = (uint32_t)p0, c0 = n0, c2 = n2;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* The word of one element. */
static inline uint32_t philox_word(const philox_stream *s, uint64_t element) {
    uint32_t w[4];
    philox_block(s, (uint32_t)(element / 4), w);
    return w[element % 4];
}

/* Uniform in (0, 1], cuRAND's mapping: fma(float(x), 2^-32, 2^-33). */
static inline float philox_uniform(uint32_t word) {
    return __builtin_fmaf((float)word, 0x1p-32f, 0x1p-33f);
}

/* Dropout keeps an element iff its word >= this threshold, ceil(p * 2^32); p in [0, 1). */
static inline uint64_t philox_drop_threshold(double p) {
    double x = p * 4294967296.0;
    uint64_t t = (uint64_t)x;
    return (double)t < x ? t + 1 : t;
}

#endif
