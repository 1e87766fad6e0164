/* rows.h: what the row-by-row kernels (norm, rope, activation, embedding, ...) share: matrices
 * as kernels see them, pieces of 16 bytes, grids over pieces, sums over a block.
 *
 * These kernels are bound by memory: a thread holds one to four pieces of 16 bytes of each
 * operand in registers and asks for all of them before it uses the first. Where rows do not
 * start or end at multiples of 16 bytes (head size 8, windows), a kernel's other instance
 * moves single elements instead (`pack`); long dense arrays have such a place only at their
 * end (`piece`). Nothing is __restrict__: the table lets outputs take their inputs' place. */
#ifndef NIBBLE_AUTOGRAD_CUDA_ROWS_H
#define NIBBLE_AUTOGRAD_CUDA_ROWS_H

#include "autograd/cuda/cuda.h"
#include "autograd/cuda/device.h"

enum {
    ROW_THREADS = 256, /* of a block of an elementwise kernel, at most */
    ROW_WARPS = 32,    /* of any block, at most */
};

/* ---- on the host ---- */

template <typename T> struct matrix {
    T *at = NULL;       /* NULL: absent */
    int64_t stride = 0; /* elements from row to row */
    bool wide = true;   /* every row starts at a multiple of 16 bytes; true of absent ones */
};

template <typename T> static inline matrix<T> matrix_of(const tensor *t) {
    bool wide = (uintptr_t)t->data % 16 == 0 && t->stride * (int64_t)sizeof(T) % 16 == 0;
    matrix<T> m = {(T *)t->data, t->stride, wide || !t->data};
    return m;
}

/* Whether rows of `cols` elements are made of whole pieces. */
template <typename T> static inline bool whole_pieces(int64_t cols) {
    return cols % piece<T>::count == 0;
}

/* A dense tensor as one long row. */
template <typename T> static inline matrix<T> matrix_flat(const void *data) {
    matrix<T> m = {(T *)data, 0, (uintptr_t)data % 16 == 0};
    return m;
}

static inline int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* Blocks over the pieces of [rows, cols]: each takes one piece per thread, all of one row. */
typedef struct row_grid {
    int threads;
    int64_t per_row; /* blocks of a row */
    int64_t blocks;
} row_grid;

static inline row_grid row_grid_of(int64_t rows, int64_t cols, int elements) {
    int64_t pieces = ceil_div(cols, elements);
    int threads = (int)min_i64(round_up_i64(pieces, WARP), ROW_THREADS);
    row_grid g = {threads, ceil_div(pieces, threads), 0};
    g.blocks = rows * g.per_row;
    return g;
}

/* A function of the table for each compute type, numbered as dtype: f32, bf16, f16. */
typedef op_function by_type[3];

/* ---- on the device ---- */

/* This thread's row and first column in a row_grid of `per_row`. */
typedef struct row_place {
    int64_t row, col;
} row_place;

static __device__ __forceinline__ row_place row_place_of(int64_t per_row, int elements) {
    unsigned block = blockIdx.x, blocks = (unsigned)per_row;
    row_place p;
    p.row = block / blocks;
    p.col = ((int64_t)(block % blocks) * blockDim.x + threadIdx.x) * elements;
    return p;
}

/* Elements [col, col + count) of a row of `cols`; zeros from its end on. col is a multiple of
 * count. */
template <typename T>
static __device__ __forceinline__ piece<T> piece_load(const matrix<T> &m, int64_t row,
                                                      int64_t col, int64_t cols) {
    const T *at = m.at + row * m.stride + col;
    piece<T> p;
    if (m.wide && col + p.count <= cols) {
        p.bits = *(const uint4 *)at;
        return p;
    }
    UNROLL
    for (int i = 0; i < p.count; i++) p.x[i] = col + i < cols ? at[i] : from_f32<T>(0.0f);
    return p;
}
template <typename T>
static __device__ __forceinline__ void
piece_store(const matrix<T> &m, int64_t row, int64_t col, int64_t cols, const piece<T> &p) {
    T *at = m.at + row * m.stride + col;
    if (m.wide && col + p.count <= cols) {
        store_16(at, p.bits);
        return;
    }
    UNROLL
    for (int i = 0; i < p.count; i++)
        if (col + i < cols) at[i] = p.x[i];
}

/* Two numbers in one word, rounded to T; and back. The first is in the lower half. */
template <typename T>
static __device__ __forceinline__ uint32_t pack_two(float first, float second);
template <> __device__ __forceinline__ uint32_t pack_two<bf16>(float first, float second) {
    __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
    return *(uint32_t *)&both;
}
template <> __device__ __forceinline__ uint32_t pack_two<f16>(float first, float second) {
    __half2 both = __floats2half2_rn(first, second);
    return *(uint32_t *)&both;
}
template <typename T> static __device__ __forceinline__ float2 unpack_two(uint32_t both);
template <> __device__ __forceinline__ float2 unpack_two<bf16>(uint32_t both) {
    return make_float2(__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u));
}
template <> __device__ __forceinline__ float2 unpack_two<f16>(uint32_t both) {
    return __half22float2(*(__half2 *)&both);
}

/* A piece as f32, and f32 rounded to a piece. Whole words, because the compiler handles halves
 * of registers one by one. */
template <typename T>
static __device__ __forceinline__ void piece_widen(const piece<T> &p, float *x) {
    const uint32_t word[4] = {p.bits.x, p.bits.y, p.bits.z, p.bits.w};
    UNROLL
    for (int i = 0; i < 4; i++) {
        float2 both = unpack_two<T>(word[i]);
        x[2 * i] = both.x, x[2 * i + 1] = both.y;
    }
}
static __device__ __forceinline__ void piece_widen(const piece<float> &p, float *x) {
    x[0] = __uint_as_float(p.bits.x), x[1] = __uint_as_float(p.bits.y);
    x[2] = __uint_as_float(p.bits.z), x[3] = __uint_as_float(p.bits.w);
}
template <typename T> static __device__ __forceinline__ piece<T> piece_narrow(const float *x) {
    piece<T> p;
    p.bits = make_uint4(pack_two<T>(x[0], x[1]), pack_two<T>(x[2], x[3]),
                        pack_two<T>(x[4], x[5]), pack_two<T>(x[6], x[7]));
    return p;
}
template <> __device__ __forceinline__ piece<float> piece_narrow<float>(const float *x) {
    piece<float> p;
    p.bits = make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                        __float_as_uint(x[3]));
    return p;
}

/* ---- packs: n elements of T, 16 bytes of them or one ---- */

template <typename T, int n> struct pack { uint4 bits; };
template <typename T> struct pack<T, 1> { T one; };

template <typename T>
static __device__ __forceinline__ void pack_widen(const pack<T, 1> &p, float *x) {
    x[0] = to_f32<T>(p.one);
}
template <typename T, int n>
static __device__ __forceinline__ void pack_widen(const pack<T, n> &p, float *x) {
    piece<T> whole;
    whole.bits = p.bits;
    piece_widen(whole, x);
}
template <typename T>
static __device__ __forceinline__ void pack_round(pack<T, 1> *p, const float *x) {
    p->one = from_f32<T>(x[0]);
}
template <typename T, int n>
static __device__ __forceinline__ void pack_round(pack<T, n> *p, const float *x) {
    p->bits = piece_narrow<T>(x).bits;
}
template <typename T, int n>
static __device__ __forceinline__ pack<T, n> pack_narrow(const float *x) {
    pack<T, n> p;
    pack_round(&p, x);
    return p;
}
/* x rounded to T, as f32. */
template <typename T, int n> static __device__ __forceinline__ void pack_round_all(float *x) {
    pack_widen(pack_narrow<T, n>(x), x);
}

/* n elements from [row, col] on; zeros where col is not below cols. */
template <int n, typename T>
static __device__ __forceinline__ pack<T, n> pack_load(const matrix<T> &m, int64_t row,
                                                       int64_t col, int64_t cols) {
    pack<T, n> p = {};
    if (col < cols) p = *(const pack<T, n> *)(m.at + row * m.stride + col);
    return p;
}
template <typename T>
static __device__ __forceinline__ void pack_write(T *at, const pack<T, 1> &p) {
    *at = p.one;
}
template <typename T, int n>
static __device__ __forceinline__ void pack_write(T *at, const pack<T, n> &p) {
    store_16(at, p.bits);
}
/* Nothing where col is not below cols. */
template <typename T, int n>
static __device__ __forceinline__ void pack_store(const matrix<T> &m, int64_t row, int64_t col,
                                                  int64_t cols, const pack<T, n> &p) {
    if (col < cols) pack_write(m.at + row * m.stride + col, p);
}

/* Stores g, or adds it in f32 to what stands there: the gradient of an activation. g is used
 * up. */
template <int n, typename T>
static __device__ __forceinline__ void pack_gradient(const matrix<T> &m, bool add, int64_t row,
                                                     int64_t col, int64_t cols, float *g) {
    if (add) {
        float old[n];
        pack_widen(pack_load<n>(m, row, col, cols), old);
        UNROLL
        for (int i = 0; i < n; i++) g[i] += old[i];
    }
    pack_store(m, row, col, cols, pack_narrow<T, n>(g));
}

/* ---- sums ---- */

/* Sum over the block, the same bits in every thread. All threads come here; `space` is shared
 * memory of ROW_WARPS elements that nothing else uses until the next barrier. */
static __device__ __forceinline__ float block_sum(float x, float *space) {
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) space[threadIdx.x / WARP] = x;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < (int)blockDim.x / WARP; i++) sum += space[i];
    return sum;
}

/* Sum over the block in double, for thread 0 (others get 0); `space` as above, one element per
 * thread. */
static __device__ __forceinline__ double block_sum_f64(double x, double *space) {
    space[threadIdx.x] = x;
    for (int d = (int)blockDim.x / 2; d; d /= 2) { /* blockDim.x is a power of two */
        __syncthreads();
        if ((int)threadIdx.x < d) space[threadIdx.x] += space[threadIdx.x + d];
    }
    return threadIdx.x ? 0 : space[0];
}

#endif
