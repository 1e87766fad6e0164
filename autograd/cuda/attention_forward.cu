/* attention_forward.cu: flash attention on tensor cores, forward (Dao et al. 2022, Dao 2023).
 *
 * A block takes a tile of queries of one head, a warp 32 of its rows (16 where D > 128), all
 * through. Keys and values come in turn through a ring of three tiles: while one is in use the
 * next two are under way, one barrier each. Softmax runs along the way in exp2 with a maximum
 * and a sum per row. Tiles that no query of the block sees are not loaded, those that no row of
 * a warp sees are skipped by it. The blocks with most keys start first, all heads of a tile
 * together. */
#include "autograd/cuda/attention.h"
#include "autograd/cuda/attention_tile.h"

#include <math.h>

enum { WARPS = 4, THREADS = WARPS * WARP, RING = 3, SLACK = 8 };

template <int D> struct forward_shape {
    static const int R = D > 128 ? 1 : 2; /* groups of 16 rows that a warp owns */
    static const int own = 16 * R, queries = own * WARPS, keys = D > 128 ? 32 : 64;
    static const int tile = keys * tile_row<D>::bytes, ring = queries * tile_row<D>::bytes;
    static const int shared = ring + RING * tile, last = shared - tile; /* offsets */
};

/* Offsets of the ring's tiles after and before the one at `at`. */
template <int D> static __device__ __forceinline__ int after(int at) {
    return at == forward_shape<D>::last ? forward_shape<D>::ring : at + forward_shape<D>::tile;
}
template <int D> static __device__ __forceinline__ int before(int at) {
    return at == forward_shape<D>::ring ? forward_shape<D>::last : at - forward_shape<D>::tile;
}

/* Starts copying a tile of keys or values, where rows are left, as a group of its own. */
template <typename T, int D>
static __device__ __forceinline__ void load(const attention_args &a, unsigned char *space,
                                            int at, const T *from, int left) {
    if (left > 0)
        tile_load<T, D, forward_shape<D>::keys, THREADS>(space, at, from, a.key_stride, left,
                                                         a.dim);
    cp_async_commit();
}

/* A warp's rows: running maxima of raw scores, this lane's part of the sums, and outputs. Rows
 * of a lane are 16 r + 8 i + lane / 4. */
template <int D> struct forward_rows {
    static const int R = forward_shape<D>::R;
    float max[R][2], sum[R][2], out[R][D / 8][4];
};

template <int D> static __device__ __forceinline__ void clear(forward_rows<D> &w) {
    tile_zero<forward_shape<D>::R, D>(w.out);
    UNROLL
    for (int r = 0; r < forward_shape<D>::R; r++) {
        w.max[r][0] = w.max[r][1] = -INFINITY;
        w.sum[r][0] = w.sum[r][1] = 0;
    }
}

/* Scores that a row may not see become -inf. `ahead`: the warp's first query minus the tile's
 * first key. */
template <int R, int N>
static __device__ __forceinline__ void mask(const attention_args &a, float s[R][N / 8][4],
                                            int ahead) {
    unsigned reach = attention_reach(a);
    if (ahead >= N - 1 && (unsigned)ahead + 16 * R - 1 < reach) return; /* all see all */
    ahead += (int)threadIdx.x % WARP / 4 - (int)threadIdx.x % 4 * 2;
    UNROLL
    for (int i = 0; i < R * N / 2; i++) {
        int r = i / (N / 2), n = i / 4 % (N / 8), e = i % 4;
        if ((unsigned)(ahead + r * 16 + e / 2 * 8 - n * 8 - e % 2) >= reach)
            s[r][n][e] = -INFINITY;
    }
}

/* s = the warp's queries, from `a`, times the tile's keys, from `b`. */
template <typename T, int D, int R, int N>
static __device__ __forceinline__ void score(float s[R][N / 8][4], const unsigned char *space,
                                             int a, int b) {
    tile_zero<R, N>(s);
    UNROLL
    for (int k = 0; k < D / TILE_STEP; k++) {
        uint32_t x[R][4];
        UNROLL
        for (int r = 0; r < R; r++)
            ldmatrix_x4(x[r], space + tile_along<D>(a, k) + r * tile_row<D>::group);
        tile_multiply<T, D, R, N>(s, x, space, b, k);
    }
}

/* Raw scores to tanh of the capped ones; what remains is a factor of softcap. */
template <int R, int N>
static __device__ __forceinline__ void cap(float s[R][N / 8][4], float inner) {
    float *x = &s[0][0][0];
    UNROLL
    for (int i = 0; i < R * N / 2; i++) x[i] = attention_tanh(x[i] * inner);
}

/* Follows new maxima: once one of the warp's rows has outgrown its own by 2^SLACK, every row takes
 * its own, and what was summed so far fades. Until then weights may exceed 1, which neither f32
 * sums nor 16-bit weights mind, and most tiles spare the multiplications. */
template <int D, int N>
static __device__ __forceinline__ void
follow(forward_rows<D> &w, const float s[forward_shape<D>::R][N / 8][4], float unit2) {
    float top[2 * forward_shape<D>::R];
    bool grown = false;
    UNROLL
    for (int i = 0; i < 2 * forward_shape<D>::R; i++) {
        top[i] = -INFINITY;
        UNROLL
        for (int n = 0; n < N / 8; n++) {
            const float *pair = &s[i / 2][n][i % 2 * 2];
            top[i] = fmaxf(top[i], fmaxf(pair[0], pair[1]));
        }
        top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffu, top[i], 1));
        top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffu, top[i], 2));
        grown = grown || top[i] * unit2 > w.max[i / 2][i % 2] * unit2 + SLACK;
    }
    if (!__any_sync(0xffffffffu, grown)) return;
    UNROLL
    for (int i = 0; i < 2 * forward_shape<D>::R; i++) {
        float *max = &w.max[i / 2][i % 2], old = *max;
        *max = fmaxf(old, top[i]);
        float fade = *max > old ? exp2_fast((old - *max) * unit2) : 1.0f;
        w.sum[i / 2][i % 2] *= fade;
        UNROLL
        for (int c = 0; c < D / 8; c++) {
            w.out[i / 2][c][i % 2 * 2] *= fade;
            w.out[i / 2][c][i % 2 * 2 + 1] *= fade;
        }
    }
}

/* Scores become weights, 2^(unit2 (s - max)). */
template <int D, int N>
static __device__ __forceinline__ void
soften(forward_rows<D> &w, float s[forward_shape<D>::R][N / 8][4], float unit2) {
    follow<D, N>(w, s, unit2);
    UNROLL
    for (int i = 0; i < 2 * forward_shape<D>::R; i++) {
        float max = w.max[i / 2][i % 2], base = max == -INFINITY ? 0.0f : max * unit2;
        UNROLL
        for (int n = 0; n < N / 8; n++) {
            float *pair = &s[i / 2][n][i % 2 * 2];
            pair[0] = exp2_fast(pair[0] * unit2 - base);
            pair[1] = exp2_fast(pair[1] * unit2 - base);
            w.sum[i / 2][i % 2] += pair[0] + pair[1];
        }
    }
}

/* Outputs over their sums, and the logarithms of the sums. `row`: of this warp's first query. */
template <typename T, int D>
static __device__ __forceinline__ void finish(const attention_args &a, forward_rows<D> &w,
                                              unsigned char *space, int at, int64_t row,
                                              int64_t head, int n) {
    int lane = threadIdx.x % WARP;
    UNROLL
    for (int i = 0; i < 2 * forward_shape<D>::R; i++) {
        float sum = w.sum[i / 2][i % 2];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        float over = __fdividef(1.0f, sum);
        UNROLL
        for (int c = 0; c < D / 8; c++) {
            w.out[i / 2][c][i % 2 * 2] *= over;
            w.out[i / 2][c][i % 2 * 2 + 1] *= over;
        }
        int own = i * 8 + lane / 4;
        if (lane % 4 == 0 && own < n)
            a.lse[(row + own) * a.lse_stride + head] =
                w.max[i / 2][i % 2] * a.unit + logf(sum);
    }
    UNROLL
    for (int r = 0; r < forward_shape<D>::R; r++)
        tile_store<T, D, D>(space, at + r * tile_row<D>::group, w.out[r],
                            (T *)a.y + (row + r * 16) * a.y_stride + head * a.dim, a.y_stride,
                            n - r * 16, a.dim);
}

template <typename T, int D>
static __global__ void __launch_bounds__(THREADS, 2) forward(attention_args a) {
    typedef forward_shape<D> shape;
    const int R = shape::R, N = shape::keys;
    SHARED(space);
    int head = blockIdx.x % a.heads;
    int64_t slot = (gridDim.x - 1 - blockIdx.x) / a.heads;
    attention_tile t = attention_tile_of(a, slot, shape::queries);
    if (!t.live) return;
    int row = (int)(t.row + t.first), col = head * (int)a.dim; /* 32 bits spare registers */
    if (t.padding) {
        attention_clear((T *)a.y, a.y_stride, t, shape::queries, col, a.dim);
        attention_clear(a.lse, a.lse_stride, t, shape::queries, head, 1);
        return;
    }
    int mine = threadIdx.x / WARP * shape::own, own_at = mine * tile_row<D>::bytes;
    int begin = t.past + t.first, count = min(shape::queries, t.count - t.first);
    int key = attention_first_key(a, begin) / N * N, left = begin + count - key;
    int values = (int)(a.value_col - a.key_col);
    const T *queries = (const T *)a.qkv + (int64_t)row * a.qkv_stride + col;
    const T *keys = (const T *)a.keys + (t.key_row + key) * a.key_stride + a.key_col +
                    head / a.group * a.dim + tile_thread_offset<D>(a.key_stride);
    tile_load<T, D, shape::queries, THREADS>(
        space, 0, queries + tile_thread_offset<D>(a.qkv_stride), a.qkv_stride, count, a.dim);
    load<T, D>(a, space, shape::ring, keys, left);
    load<T, D>(a, space, shape::ring + shape::tile, keys + values, left);

    forward_rows<D> w;
    clear(w);
    /* this warp's first query; one without rows sees nothing */
    int query = mine < count ? begin + mine : -2 * shape::own, at = shape::ring;
    for (; left > 0; left -= N, key += N) {
        float s[R][N / 8][4];
        bool seen =
            key < query + shape::own && (a.window <= 0 || query - key - (N - 1) < a.window);
        cp_async_wait<RING - 2>();
        __syncthreads(); /* keys are there, and the tile in front of them was read */
        keys += N * a.key_stride;
        load<T, D>(a, space, before<D>(at), keys, left - N);
        if (seen) {
            score<T, D, R, N>(s, space, own_at + tile_lane_a<D>(), at + tile_lane_scores<D>());
            if (a.inner > 0) cap<R, N>(s, a.inner);
            mask<R, N>(a, s, query - key);
            soften<D, N>(w, s, a.unit2);
        } else {
            tile_zero<R, N>(s); /* or its registers would be taken all through the loop */
        }
        at = after<D>(at);
        cp_async_wait<RING - 2>();
        __syncthreads();
        load<T, D>(a, space, before<D>(at), keys + values, left - N);
        if (seen) tile_sums<T, D, D, R, N>(w.out, s, space, at + tile_lane_sums<D>());
        at = after<D>(at);
    }
    if (mine < count) finish<T, D>(a, w, space, own_at, row + mine, head, count - mine);
}

/* ---- launches ---- */

template <typename T, int D> static cudaError_t prepare_as(void) {
    return cudaFuncSetAttribute((const void *)forward<T, D>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                forward_shape<D>::shared);
}

template <typename T, int D>
static cudaError_t launch_as(const attention_args *a, cudaStream_t s) {
    cudaError_t e = prepare_as<T, D>();
    if (e != cudaSuccess) return e;
    int64_t blocks = attention_slots(a, forward_shape<D>::queries) * a->heads;
    LAUNCH((forward<T, D>), (unsigned)blocks, THREADS, (forward_shape<D>::shared), s, *a);
    return cudaGetLastError();
}

typedef struct forward_kernel {
    cudaError_t (*prepare)(void);
    cudaError_t (*launch)(const attention_args *a, cudaStream_t s);
} forward_kernel;

#define KERNEL_BF16(D)                                                                        \
    { prepare_as<bf16, D>, launch_as<bf16, D> }
#define KERNEL_F16(D)                                                                         \
    { prepare_as<f16, D>, launch_as<f16, D> }
static const forward_kernel kernels[2][TILE_DIM_COUNT] = {{TILE_DIMS(KERNEL_BF16)},
                                                          {TILE_DIMS(KERNEL_F16)}};

static const forward_kernel *kernel_of(dtype type, int dim) {
    return &kernels[type == DTYPE_F16][tile_dim_index(dim)];
}

cudaError_t attention_forward_prepare(dtype type, int dim) {
    return kernel_of(type, dim)->prepare();
}

cudaError_t attention_forward(dtype type, const attention_args *a, cudaStream_t s) {
    return kernel_of(type, a->dim)->launch(a, s);
}
