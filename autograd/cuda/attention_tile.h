/* attention_tile.h: tiles of 16-bit rows in shared memory, and the two products of attention on
 * them: scores (rows times rows) and sums (weights times rows).
 *
 * A tile has rows of D elements, D the head size padded to one of TILE_DIMS. Its pieces of 16
 * bytes (chunks) are shuffled within a row so that the eight rows of an ldmatrix fall on all 32
 * banks, and so does a row that is filled: of a row's n chunks, m = gcd(n, 8) stand at multiples
 * of m and those of row r are exchanged by an xor with r / (8 / m) % m. Addresses are byte
 * offsets into the block's shared memory: each lane computes its own once; a step of 16 elements
 * along the row changes it by an xor of a bit or two and a constant, 16 rows by a constant.
 *
 * Fragments (device.h): the accumulators of 16 x 16 scores are, rounded and packed, the A
 * operand of the sums as they stand, so weights never pass through memory (Dao 2023). */
#ifndef NIBBLE_AUTOGRAD_CUDA_ATTENTION_TILE_H
#define NIBBLE_AUTOGRAD_CUDA_ATTENTION_TILE_H

#include "autograd/cuda/device.h"

enum { TILE_CHUNK = 8 /* elements in 16 bytes */, TILE_STEP = 16 /* elements of a k step */ };

/* The padded head sizes that kernels exist for: F(D) for each. */
#define TILE_DIMS(F) F(32), F(64), F(80), F(96), F(128), F(256)
enum { TILE_DIM_COUNT = 6 };
static inline int tile_dim_index(int dim) {
    return dim <= 32 ? 0 : dim <= 64 ? 1 : dim <= 80 ? 2 : dim <= 96 ? 3 : dim <= 128 ? 4 : 5;
}

template <int D> struct tile_row {
    static const int chunks = D / TILE_CHUNK, bytes = D * 2;
    static const int mixed = chunks % 8 == 0 ? 8 : chunks % 4 == 0 ? 4 : 2; /* m */
    static const int group = 16 * bytes; /* of 16 rows, a fragment's */
};

/* ---- addresses ---- */

template <int D> static __device__ __forceinline__ int tile_at(int row, int chunk) {
    const int m = tile_row<D>::mixed;
    return row * tile_row<D>::bytes + (chunk ^ row / (8 / m) % m) * 16;
}
/* `at` of chunk 0 or 1, moved by `k` steps of 16 elements along the row. */
template <int D> static __device__ __forceinline__ int tile_along(int at, int k) {
    const int m = tile_row<D>::mixed;
    return (at ^ k % (m / 2) * 32) + k / (m / 2) * m * 16;
}
/* What this lane adds to a tile's offset: as A (rows are rows), as B of scores (rows are
 * columns), as B of sums (rows are k; transposed). */
template <int D> static __device__ __forceinline__ int tile_lane_a(void) {
    int lane = threadIdx.x % WARP;
    return tile_at<D>(lane & 15, lane >> 4);
}
template <int D> static __device__ __forceinline__ int tile_lane_scores(void) {
    int lane = threadIdx.x % WARP;
    return tile_at<D>((lane >> 4) * 8 + (lane & 7), lane >> 3 & 1);
}
template <int D> static __device__ __forceinline__ int tile_lane_sums(void) {
    return tile_lane_a<D>();
}

/* ---- filling ---- */

/* A block of THREADS copies `rows` rows of a tile at a time, a piece per thread: whole eights, so
 * that a thread's place in its rows is always the same. With head sizes of no power of two some
 * threads have none. */
template <int D, int THREADS> struct tile_pass {
    static const int most = THREADS / tile_row<D>::chunks;
    static const int rows = most < 8 ? most : most / 8 * 8;
};

/* Where this thread's piece of the first pass lies in a matrix of `stride`, in elements. */
template <int D> static __device__ __forceinline__ int64_t tile_thread_offset(int64_t stride) {
    int row = threadIdx.x / tile_row<D>::chunks, c = threadIdx.x % tile_row<D>::chunks;
    return row * stride + c * TILE_CHUNK;
}

/* Starts copying rows [0, ROWS) to the tile at `at`, by the whole block; zeros beyond row n and
 * column dim. `from`: the first row's address plus tile_thread_offset. */
template <typename T, int D, int ROWS, int THREADS>
static __device__ __forceinline__ void tile_load(unsigned char *space, int at, const T *from,
                                                 int64_t stride, int n, int dim) {
    const int pass = tile_pass<D, THREADS>::rows;
    int row = threadIdx.x / tile_row<D>::chunks, c = threadIdx.x % tile_row<D>::chunks;
    if (c * TILE_CHUNK >= dim) n = 0;
    UNROLL
    for (int i = 0; i < (ROWS + pass - 1) / pass; i++) {
        bool mine = (pass * tile_row<D>::chunks == THREADS || row < pass) &&
                    (ROWS % pass == 0 || row + i * pass < ROWS);
        if (mine)
            cp_async_16(space + at + tile_at<D>(row + i * pass, c), from, row + i * pass < n);
        from += pass * (int)stride;
    }
}

/* ---- products ---- */

/* Two f32 rounded to T, the first in the low half. */
template <typename T> static __device__ __forceinline__ uint32_t tile_pack(float x, float y);
template <> __device__ __forceinline__ uint32_t tile_pack<bf16>(float x, float y) {
    union {
        __nv_bfloat162 pair;
        uint32_t bits;
    } u;
    u.pair = __floats2bfloat162_rn(x, y);
    return u.bits;
}
template <> __device__ __forceinline__ uint32_t tile_pack<f16>(float x, float y) {
    union {
        __half2 pair;
        uint32_t bits;
    } u;
    u.pair = __floats2half2_rn(x, y);
    return u.bits;
}

/* Accumulators of 16 R rows and COLS columns. */
template <int R, int COLS>
static __device__ __forceinline__ void tile_zero(float o[R][COLS / 8][4]) {
    float *x = &o[0][0][0];
    UNROLL
    for (int i = 0; i < R * COLS / 2; i++) x[i] = 0;
}

/* s [16 R rows, N] += step k of A B^T: A's fragments in x, B's N rows from `b`. */
template <typename T, int D, int R, int N>
static __device__ __forceinline__ void
tile_multiply(float s[R][N / 8][4], const uint32_t x[R][4], const unsigned char *space, int b,
              int k) {
    UNROLL
    for (int n = 0; n < N / 16; n++) {
        uint32_t y[4];
        ldmatrix_x4(y, space + tile_along<D>(b, k) + n * tile_row<D>::group);
        UNROLL
        for (int r = 0; r < R; r++) {
            mma_16816<T>(s[r][2 * n], x[r], y);
            mma_16816<T>(s[r][2 * n + 1], x[r], y + 2);
        }
    }
}

/* o [16 R rows, COLS] += w [16 R rows, K] times the first COLS columns, from `b`, of B's K rows
 * of D elements. */
template <typename T, int D, int COLS, int R, int K>
static __device__ __forceinline__ void tile_sums(float o[R][COLS / 8][4],
                                                 const float w[R][K / 8][4],
                                                 const unsigned char *space, int b) {
    UNROLL
    for (int k = 0; k < K / TILE_STEP; k++) {
        uint32_t x[R][4];
        UNROLL
        for (int i = 0; i < 4 * R; i++) {
            const float *pair = &w[i / 4][2 * k + i % 4 / 2][i % 2 * 2];
            x[i / 4][i % 4] = tile_pack<T>(pair[0], pair[1]);
        }
        UNROLL
        for (int n = 0; n < COLS / 16; n++) {
            uint32_t y[4];
            ldmatrix_x4_trans(y, space + tile_along<D>(b, n) + k * tile_row<D>::group);
            UNROLL
            for (int r = 0; r < R; r++) {
                mma_16816<T>(o[r][2 * n], x[r], y);
                mma_16816<T>(o[r][2 * n + 1], x[r], y + 2);
            }
        }
    }
}

/* ---- emptying ---- */

/* o += what stands at rows [0, n) of `at`: 16 rows, COLS columns, as accumulators lie. */
template <typename T, int COLS>
static __device__ __forceinline__ void tile_add(float o[COLS / 8][4], const T *at,
                                                int64_t stride, int n, int dim) {
    int lane = threadIdx.x % WARP;
    UNROLL
    for (int i = 0; i < COLS / 4; i++) {
        int row = lane / 4 + i % 2 * 8, col = i / 2 * 8 + lane % 4 * 2;
        if (row >= n || col >= dim) continue;
        union {
            uint32_t bits;
            T x[2];
        } pair;
        pair.bits = *(const uint32_t *)(at + row * stride + col);
        o[i / 2][i % 2 * 2] += to_f32(pair.x[0]);
        o[i / 2][i % 2 * 2 + 1] += to_f32(pair.x[1]);
    }
}

/* Accumulators of 16 rows and COLS columns, rounded, through the tile at `at` (rows of D, this
 * lane's warp alone uses these) to rows [0, n) of `to` in pieces of 16 bytes, columns below dim.
 */
template <typename T, int D, int COLS>
static __device__ __forceinline__ void tile_store(unsigned char *space, int at,
                                                  const float o[COLS / 8][4], T *to,
                                                  int64_t stride, int n, int dim) {
    int lane = threadIdx.x % WARP, row = lane / 4, pair = lane % 4 * 4;
    __syncwarp(); /* other lanes read what stood there */
    UNROLL
    for (int c = 0; c < COLS / 8; c++) {
        *(uint32_t *)(space + at + tile_at<D>(row, c) + pair) = tile_pack<T>(o[c][0], o[c][1]);
        *(uint32_t *)(space + at + tile_at<D>(row + 8, c) + pair) =
            tile_pack<T>(o[c][2], o[c][3]);
    }
    __syncwarp();
    for (int i = lane; i < 16 * (COLS / 8); i += WARP) {
        int r = i / (COLS / 8), c = i % (COLS / 8);
        if (r < n && c * TILE_CHUNK < dim)
            *(uint4 *)(to + r * stride + c * TILE_CHUNK) =
                *(const uint4 *)(space + at + tile_at<D>(r, c));
    }
}

#endif
