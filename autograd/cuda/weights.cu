/* weights.cu: decoding 4-bit weights: see weights.h.
 *
 * A thread turns one piece of codes (4 bytes, or 2 for f32) into 16 bytes of values, PIECES
 * times, a block's width apart, so that a warp reads 128 and stores 512 bytes in a row; all
 * codes and scales are asked for before the first value is stored. The 16 levels lie in shared
 * memory, in 16 banks: any 32 look-ups take one turn. A piece never crosses a block of one
 * scale. Where a row or the scratch is not made of whole pieces, elements go one by one. */
#include "autograd/cuda/weights.h"

#include "autograd/cuda/fourbit.h"

enum { THREADS = FOURBIT_THREADS, PIECES = 4 /* per thread */ };

/* The scales of the PIECES elements first + at[k]: all loads stand before all uses. */
static __device__ __forceinline__ void scales_of(const fourbit &w, const tables *t,
                                                 int64_t first, const unsigned at[PIECES],
                                                 float scale[PIECES]) {
    int64_t block = first >> w.shift, nest = block / TENSOR_NEST_BLOCK;
    unsigned ahead = (unsigned)(first - (block << w.shift));
    if (!w.absmax2) {
        const float *absmax = (const float *)w.absmax + block;
        UNROLL
        for (int k = 0; k < PIECES; k++) scale[k] = absmax[(ahead + at[k]) >> w.shift];
        return;
    }
    const uint8_t *absmax = (const uint8_t *)w.absmax + block;
    const float *absmax2 = w.absmax2 + nest;
    unsigned past = (unsigned)(block - nest * TENSOR_NEST_BLOCK), code[PIECES];
    UNROLL
    for (int k = 0; k < PIECES; k++) {
        unsigned b = (ahead + at[k]) >> w.shift;
        code[k] = absmax[b];
        scale[k] = absmax2[(past + b) / TENSOR_NEST_BLOCK];
    }
    UNROLL
    for (int k = 0; k < PIECES; k++) scale[k] = nested_scale(t, code[k], scale[k]);
}

/* `count` codes: the first in bits 4..7, the second in bits 0..3, the third in 12..15, ... */
template <int count>
static __device__ __forceinline__ uint32_t codes_at(const uint8_t *codes) {
    return count == 8 ? *(const uint32_t *)codes : *(const uint16_t *)codes;
}

template <typename T>
static __device__ __forceinline__ piece<T> decode(uint32_t codes, float scale,
                                                  const tables *t) {
    const int count = piece<T>::count;
    float x[count];
    UNROLL
    for (int i = 0; i < count; i++)
        x[i] = __fmul_rn(t->code[codes >> 4 * (i ^ 1) & 15], scale);
    return piece_narrow<T>(x);
}

/* Rows of `in` elements by element number: how many whole rows n < in + THREADS * PIECES * 8
 * elements are. `magic` is 2^32 / in rounded up, or 0 where they are less than two. */
static __device__ __forceinline__ unsigned rows_in(unsigned n, unsigned in, unsigned magic) {
    return magic ? __umulhi(n, magic) : n >= in;
}

/* `pieces` pieces from element `first` on; rows of `in` elements, whole pieces. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    decode_pieces(fourbit w, int64_t first, int64_t pieces, unsigned in, unsigned magic, T *to,
                  int64_t stride) {
    SHARED(shared);
    tables *t = (tables *)shared;
    const int count = piece<T>::count;
    uint32_t codes[PIECES];
    unsigned at[PIECES];
    float scale[PIECES];
    int64_t start = (int64_t)blockIdx.x * (THREADS * PIECES), before = start * count;
    int left = pieces - start < THREADS * PIECES ? (int)(pieces - start) : THREADS * PIECES;
    const uint8_t *from = w.codes + ((first + before) >> 1);
    UNROLL
    for (int k = 0; k < PIECES; k++) { /* past the end the last piece again, not stored */
        at[k] = (unsigned)min(k * THREADS + (int)threadIdx.x, left - 1) * count;
        codes[k] = codes_at<count>(from + at[k] / 2);
    }
    load_tables(w, t);
    scales_of(w, t, first + before, at, scale);
    int64_t row = before / in;
    unsigned col = (unsigned)(before - row * in); /* of the block's first piece */
    to += row * stride;
    UNROLL
    for (int k = 0; k < PIECES; k++) {
        unsigned n = col + at[k], down = rows_in(n, in, magic);
        piece<T> p = decode<T>(codes[k], scale[k], t);
        if (k * THREADS + (int)threadIdx.x < left)
            store_16(to + (uint64_t)down * (unsigned)stride + (n - down * in), p.bits);
    }
}

/* n elements from `first` on, one per thread. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    decode_elements(fourbit w, int64_t first, int64_t n, int64_t in, T *to, int64_t stride) {
    SHARED(shared);
    tables *t = (tables *)shared;
    load_tables(w, t);
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, e = first + i;
    if (i >= n) return;
    float level = t->code[w.codes[e / 2] >> (e % 2 ? 0 : 4) & 15];
    to[i / in * stride + i % in] = from_f32<T>(__fmul_rn(level, scale_of(w, t, e / w.block)));
}

template <typename T>
static status decode_rows(backend *b, const tensor *w, int64_t first, int64_t rows, void *to,
                          int64_t stride) {
    const int count = piece<T>::count;
    const unsigned in = (unsigned)w->cols;
    fourbit v = fourbit_of(w);
    int64_t n = rows * w->cols, per_block = (int64_t)THREADS * PIECES * count;
    bool whole = in % count == 0 && stride % count == 0 && (uintptr_t)to % 16 == 0;
    unsigned magic = in < per_block ? (unsigned)(((1ull << 32) + in - 1) / in) : 0;
    if (whole && v.shift >= 0 && w->block >= count)
        LAUNCH(decode_pieces<T>, (unsigned)ceil_div(n, per_block), THREADS, sizeof(tables),
               cuda_stream(b), v, first * in, n / count, in, magic, (T *)to, stride);
    else
        LAUNCH(decode_elements<T>, (unsigned)ceil_div(n, THREADS), THREADS, sizeof(tables),
               cuda_stream(b), v, first * in, n, w->cols, (T *)to, stride);
    return CUDA_LAUNCHED(b, "decoding of 4-bit weights");
}

status cuda_weights_decode(backend *b, const tensor *w, int64_t first, int64_t rows,
                           dtype type, void *to, int64_t stride) {
    if (rows == 0 || w->cols == 0) return STATUS_OK;
    if (type == DTYPE_BF16) return decode_rows<bf16>(b, w, first, rows, to, stride);
    if (type == DTYPE_F16) return decode_rows<f16>(b, w, first, rows, to, stride);
    return decode_rows<float>(b, w, first, rows, to, stride);
}
