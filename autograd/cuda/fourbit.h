/* fourbit.h: a 4-bit tensor as kernels see it: codes, scales, tables in shared memory. */
#ifndef NIBBLE_AUTOGRAD_CUDA_FOURBIT_H
#define NIBBLE_AUTOGRAD_CUDA_FOURBIT_H

#include "autograd/cuda/rows.h"

enum { FOURBIT_THREADS = 256 /* of a block that uses the tables */ };

/* A 4-bit tensor as the kernels see it. */
typedef struct fourbit {
    const uint8_t *codes;
    const void *absmax;   /* uint8_t if nested, else float */
    const float *absmax2; /* NULL: not nested */
    const float *map, *code, *offset;
    int block, shift; /* elements per scale; its logarithm, -1 if it is not a power of two */
} fourbit;

/* The tables in shared memory; `map` has an element per thread. */
typedef struct tables {
    float code[16], map[FOURBIT_THREADS], offset;
} tables;

static fourbit fourbit_of(const tensor *w) {
    fourbit v = {(const uint8_t *)w->data,
                 w->scales.absmax,
                 w->nested ? w->scales.absmax2 : NULL,
                 w->scales.map,
                 w->scales.code,
                 w->scales.offset,
                 w->block,
                 -1};
    if ((w->block & (w->block - 1)) == 0) v.shift = __builtin_ctz((unsigned)w->block);
    return v;
}

/* Ends with a barrier. */
static __device__ __forceinline__ void load_tables(const fourbit &w, tables *t) {
    int i = (int)threadIdx.x;
    if (i < 16) t->code[i] = w.code[i];
    if (i == 0) t->offset = *w.offset;
    if (w.absmax2) t->map[i] = w.map[i];
    __syncthreads();
}

static __device__ __forceinline__ float nested_scale(const tables *t, unsigned code,
                                                     float absmax2) {
    return __fadd_rn(__fmul_rn(t->map[code], absmax2), t->offset);
}

/* The scale of block b, rounded as quant_view_absmax rounds. */
static __device__ __forceinline__ float scale_of(const fourbit &w, const tables *t,
                                                 int64_t b) {
    if (!w.absmax2) return ((const float *)w.absmax)[b];
    return nested_scale(t, ((const uint8_t *)w.absmax)[b], w.absmax2[b / TENSOR_NEST_BLOCK]);
}

#endif
