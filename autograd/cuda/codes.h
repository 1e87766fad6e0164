/* codes.h: nearest codes on the device, bit-equal to the searches of quant/nf4.c and
 * dynamic.h.
 *
 * Sorted thresholds lie as a heap (node 1 the root, 2i and 2i + 1 its children): a search asks
 * one node per level and needs no other arithmetic. 15 thresholds lie in 15 banks of shared
 * memory, and of 255 the first five levels do, so that threads that differ seldom wait for
 * each other. */
#ifndef NIBBLE_AUTOGRAD_CUDA_CODES_H
#define NIBBLE_AUTOGRAD_CUDA_CODES_H

#include "autograd/cuda/rows.h"

extern "C" {
#include "quant/dynamic.h"
}

/* How many of 2^levels - 1 thresholds are below y. */
template <int levels>
static __device__ __forceinline__ unsigned heap_find(const float *node, float y) {
    unsigned i = 1;
    UNROLL
    for (int k = 0; k < levels; k++) i = 2 * i + (y > node[i]);
    return i - (1u << levels);
}

/* Which of 2^levels - 1 sorted thresholds stands in node i > 0. */
template <int levels> static __host__ __device__ __forceinline__ int heap_threshold(int i) {
    int k = 0;
    while (2 << k <= i) k++;
    return ((2 * (i - (1 << k)) + 1) << (levels - 1 - k)) - 1;
}

/* ---- 4 bits ---- */

/* A format's levels and the search for them; made on the host, a kernel's argument. */
typedef struct code_book {
    float level[16], node[16];
    uint32_t order; /* FP4: codes by magnitude, a nibble each */
    bool fp4;
} code_book;

static inline code_book code_book_of(quant_type type) {
    float thresholds[15];
    code_book book = {{0}, {0}, 0, type == QUANT_FP4};
    quant_thresholds(type, thresholds);
    for (int i = 0; i < 16; i++) book.level[i] = quant_codebook(type)[i];
    for (int i = 1; i < (book.fp4 ? 8 : 16); i++)
        book.node[i] = thresholds[book.fp4 ? heap_threshold<3>(i) : heap_threshold<4>(i)];
    for (uint32_t code = 0; code < 8; code++) { /* its place among the magnitudes */
        int place = 0;
        for (int i = 0; i < 8; i++) place += book.level[i] < book.level[code];
        book.order |= code << 4 * place;
    }
    return book;
}

/* A kernel's argument into shared memory; a barrier must follow. */
static __device__ __forceinline__ void code_book_share(const code_book &given,
                                                       code_book *book) {
    int i = (int)threadIdx.x;
    if (i < 16) book->level[i] = given.level[i], book->node[i] = given.node[i];
    if (i == 0) book->order = given.order, book->fp4 = given.fp4;
}

/* The level's code for x in a block with 1/absmax = inverse (infinite for an absmax of zeros
 * and the smallest subnormals). */
static __device__ __forceinline__ unsigned code_find(const code_book *book, float x,
                                                     float inverse) {
    float y = x == 0.0f ? 0.0f : __fmul_rn(x, inverse);
    if (!book->fp4) return heap_find<4>(book->node, y);
    unsigned place = heap_find<3>(book->node, fabsf(y));
    return (book->order >> 4 * place & 7) | (y < 0.0f ? 8u : 0u);
}

/* The largest magnitude of the block of QUANT_BLOCK elements that this thread's `count` are
 * of, NaN where one is not finite. All lanes of the warp come here. */
template <int count> static __device__ __forceinline__ float block_absmax(const float *x) {
    unsigned largest = 0;
    UNROLL
    for (int i = 0; i < count; i++) {
        unsigned bits = __float_as_uint(x[i]) & 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    for (int d = QUANT_BLOCK / count / 2; d; d /= 2) {
        unsigned other = __shfl_xor_sync(0xffffffffu, largest, d);
        largest = other > largest ? other : largest;
    }
    return __uint_as_float(largest < 0x7f800000u ? largest : 0x7fc00000u);
}

/* ---- 8 bits ---- */

typedef struct code_map {
    float x[DYNAMIC_CODES];
} code_map;

static inline code_map code_map_of(const float *values) {
    code_map map;
    for (int i = 0; i < DYNAMIC_CODES; i++) map.x[i] = values[i];
    return map;
}

/* The next number below x. */
static __device__ __forceinline__ float just_below(float x) {
    int bits = __float_as_int(x);
    return __int_as_float(x == 0.0f ? (int)0x80000001u : x > 0.0f ? bits - 1 : bits + 1);
}

/* Thread i fills node i of an ascending map's heap: midpoints, where an exact tie goes to the
 * even code. The map lies in shared memory, behind a barrier. */
static __device__ __forceinline__ void heap_fill(const float *map, float *node) {
    for (int i = (int)threadIdx.x; i < DYNAMIC_CODES; i += (int)blockDim.x) {
        if (i == 0) continue;
        int t = heap_threshold<8>(i);
        float middle = __fmul_rn(__fadd_rn(map[t], map[t + 1]), 0.5f);
        node[i] = t % 2 ? just_below(middle) : middle;
    }
}

/* The nearest code of y, which is no NaN. */
static __device__ __forceinline__ unsigned map_find(const float *node, float y) {
    return heap_find<8>(node, y);
}

#endif
