/* dropout.c: Philox 4x32-10 for 64 elements at a time, in a form that the compiler vectorizes.
 */
#include "autograd/cpu/dropout.h"

#include "common/checked.h"
#include "quant/simd.h"

enum { BLOCKS = 16, ELEMENTS = 4 * BLOCKS };

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

/* The words of elements 4*first .. 4*first + 63; philox_block's rounds on 16 counters at once.
 */
SIMD_INLINE void dropout_words_body(const philox_stream *s, uint32_t first,
                                    uint32_t *restrict words) {
    uint32_t c0[BLOCKS], c1[BLOCKS], c2[BLOCKS], c3[BLOCKS];
    uint32_t k0 = s->key[0], k1 = s->key[1];
    for (int i = 0; i < BLOCKS; i++) {
        c0[i] = first + (uint32_t)i, c1[i] = s->counter[0];
        c2[i] = s->counter[1], c3[i] = s->counter[2];
    }
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < BLOCKS; i++) {
            uint64_t p0 = (uint64_t)0xD2511F53u * c0[i], p1 = (uint64_t)0xCD9E8D57u * c2[i];
            uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0;
            uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
            c1[i] = (uint32_t)p1, c3[i] = (uint32_t)p0, c0[i] = n0, c2[i] = n2;
        }
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < BLOCKS; i++) {
        words[4 * i] = c0[i], words[4 * i + 1] = c1[i];
        words[4 * i + 2] = c2[i], words[4 * i + 3] = c3[i];
    }
}
SIMD_TWICE(dropout_words, (const philox_stream *s, uint32_t first, uint32_t *words),
           (s, first, words))

void dropout_apply(const dropout *d, int64_t row, int64_t col, int64_t n, float *x) {
    if (!d->on) return;
    uint64_t element = (uint64_t)row * (uint64_t)d->width + (uint64_t)col;
    uint32_t words[ELEMENTS], threshold = (uint32_t)d->threshold;
    for (int64_t done = 0; done < n;) {
        int64_t skip = (int64_t)((element + (uint64_t)done) % 4);
        dropout_words(&d->stream, (uint32_t)((element + (uint64_t)done) / 4), words);
        int64_t m = min_i64(n - done, ELEMENTS - skip);
        for (int64_t i = 0; i < m; i++)
            x[done + i] = words[skip + i] >= threshold ? x[done + i] * d->keep : 0.0f;
        done += m;
    }
}
