/* dropout.h: the device's side of autograd/cpu/dropout.h: the same mask, from cuRAND's
 * function.
 *
 * A kernel gets the `dropout` that dropout_of (CPU) makes of the call, by value. Element (row,
 * col) of an input of `width` columns is number e = row * width + col: kept iff word e % 4 of
 * curand_Philox4x32_10({e / 4, purpose.., batch..}, seed) reaches the threshold, then times
 * 1/(1-p); one f32 multiplication, not rounded further here. */
#ifndef NIBBLE_AUTOGRAD_CUDA_DROPOUT_H
#define NIBBLE_AUTOGRAD_CUDA_DROPOUT_H

#include "autograd/cuda/device.h"

#include <curand_philox4x32_x.h>

extern "C" {
#include "autograd/cpu/dropout.h"
}

/* The words of elements 4 * quad .. 4 * quad + 3. */
static __device__ __forceinline__ uint4 dropout_words(const dropout &d, uint64_t quad) {
    uint4 counter = make_uint4((unsigned)quad, d.stream.counter[0], d.stream.counter[1],
                               d.stream.counter[2]);
    return curand_Philox4x32_10(counter, make_uint2(d.stream.key[0], d.stream.key[1]));
}

static __device__ __forceinline__ float dropout_one(const dropout &d, unsigned word, float x) {
    return word >= (unsigned)d.threshold ? __fmul_rn(x, d.keep) : 0.0f;
}

/* x[i] *= 1/(1-p) or = 0 for the n elements from (row, col) on within one row. n is a constant
 * multiple of four; where the first element's number is one too, four elements cost one
 * call. */
template <int n>
static __device__ __forceinline__ void dropout_piece(const dropout &d, int64_t row,
                                                     int64_t col, float x[n]) {
    static_assert(n % 4 == 0, "whole quads");
    if (!d.on) return;
    uint64_t first = (uint64_t)(row * d.width + col);
    if (first % 4 == 0) {
        UNROLL
        for (int i = 0; i < n; i += 4) {
            uint4 w = dropout_words(d, (first + i) / 4);
            x[i] = dropout_one(d, w.x, x[i]);
            x[i + 1] = dropout_one(d, w.y, x[i + 1]);
            x[i + 2] = dropout_one(d, w.z, x[i + 2]);
            x[i + 3] = dropout_one(d, w.w, x[i + 3]);
        }
        return;
    }
    UNROLL
    for (int i = 0; i < n; i++) {
        uint64_t e = first + i;
        uint4 w = dropout_words(d, e / 4);
        unsigned word = e % 4 == 0 ? w.x : e % 4 == 1 ? w.y : e % 4 == 2 ? w.z : w.w;
        x[i] = dropout_one(d, word, x[i]);
    }
}

#endif
