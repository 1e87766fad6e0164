/* attention_backward.cu: the gradient of flash attention on tensor cores, in two passes.
 *
 * From the saved log-sum-exp and delta = row sums of dY * Y (attention_stats), with S the scores:
 *   P = e^(S - lse)   dP = dY V^T   dS = P (dP - delta)   dV = P^T dY   dK = dS^T Q   dQ = dS K
 * One pass owns keys and meets the queries of its kv head's group (dV, dK); one owns queries and
 * meets keys (dQ). Each makes S and dP anew, seven products instead of five; in return nothing is
 * added up between blocks, so there are no atomics and the sums have one order. Both run in one
 * grid: the short blocks of queries fill what the few long blocks of keys leave idle. Both are
 * one scheme: a warp owns 16 rows, tiles that are met come by pairs, the next pair under way while
 * one is in use. What is owned are the rows of the scores (transposed in the pass over keys), so
 * P and dS go into the next products straight from the accumulators.
 *
 * Heads of 256 need more registers than there are: in the pass over keys two warps share 16
 * keys and each sums one half of the columns. */
#include "autograd/cuda/attention.h"
#include "autograd/cuda/attention_tile.h"

#include <math.h>

enum { WARPS = 8, THREADS = WARPS * WARP, STAGES = 2 };

#define LOG2E 1.4426950408889634f

template <int D> struct keys_shape {
    static const int halves = D > 128 ? 2 : 1, cols = D / halves;
    static const int own = 16 * WARPS / halves, met = D > 128 ? 16 : D == 64 ? 64 : 32;
    static const bool hold_a = D <= 128, hold_b = D < 128; /* as far as registers go */
    /* bytes; stats begin at an even row, so a tile has up to two more */
    static const int tile = met * tile_row<D>::bytes, stats_bytes = (met + 2) * 8;
    static const int ring = 2 * own * tile_row<D>::bytes, stats = ring + STAGES * 2 * tile;
    static const int shared = stats + STAGES * stats_bytes;
};

template <int D> struct queries_shape {
    static const int own = D > 128 ? 64 : 16 * WARPS; /* of 64: half of the warps only load */
    static const int met = keys_shape<D>::met;
    static const bool hold = D <= 128;
    static const int tile = met * tile_row<D>::bytes, ring = 2 * own * tile_row<D>::bytes;
    static const int shared = ring + STAGES * 2 * tile;
};

/* ---- scores and their gradients ---- */

/* A warp's 16 rows as A operands: in registers, or where there are too few, read from their tile
 * each time. */
template <int D> struct own_rows {
    uint32_t x[D / TILE_STEP][4];
    int at; /* of the tile, for this lane */
};

template <int D>
static __device__ __forceinline__ void own_take(own_rows<D> &w, const unsigned char *space,
                                                int at, bool hold) {
    w.at = at + tile_lane_a<D>();
    if (!hold) return;
    UNROLL
    for (int k = 0; k < D / TILE_STEP; k++)
        ldmatrix_x4(w.x[k], space + tile_along<D>(w.at, k));
}

/* s = the rows times the N rows from `b`. */
template <typename T, int D, int N>
static __device__ __forceinline__ void own_scores(float s[1][N / 8][4], own_rows<D> &w,
                                                  const unsigned char *space, int b,
                                                  bool hold) {
    tile_zero<1, N>(s);
    UNROLL
    for (int k = 0; k < D / TILE_STEP; k++) {
        if (!hold) ldmatrix_x4(w.x[k], space + tile_along<D>(w.at, k));
        tile_multiply<T, D, 1, N>(s, &w.x[k], space, b, k);
    }
}

/* Raw scores become what stands in the exponent, in units of unit2; those that are not seen
 * become -inf. Row r and column c are seen if 0 <= ahead + sign (r - c) < reach and c < cols;
 * `all`: every one is. */
template <int N>
static __device__ __forceinline__ void prepare_scores(const attention_args &a,
                                                      float s[N / 8][4], bool all, int ahead,
                                                      int sign, int cols) {
    if (a.inner > 0) {
        UNROLL
        for (int i = 0; i < N / 2; i++)
            s[i / 4][i % 4] = attention_tanh(s[i / 4][i % 4] * a.inner);
    }
    if (all) return;
    int row = threadIdx.x % WARP / 4, col = threadIdx.x % 4 * 2;
    unsigned reach = attention_reach(a);
    ahead += sign * (row - col);
    UNROLL
    for (int i = 0; i < N / 2; i++) {
        int e = i % 4, right = i / 4 * 8 + e % 2, down = e / 2 * 8;
        if ((unsigned)(ahead + sign * (down - right)) >= reach || col + right >= cols)
            s[i / 4][e] = -INFINITY;
    }
}

/* A score to its weight, and dp to the gradient of the score in units of a.scale. */
static __device__ __forceinline__ void derive(const attention_args &a, float &s, float &dp,
                                              float lse2, float delta) {
    float weight = exp2_fast(s * a.unit2 - lse2);
    dp = weight * (dp - delta);
    if (a.inner > 0) dp *= fmaxf(1 - s * s, 0.0f); /* s is a tanh, or -inf */
    s = weight;
}

/* ---- dK and dV ---- */

/* Starts copying queries [query, ...) of a head and their dy and stats to stage `at`. */
template <typename T, int D>
static __device__ __forceinline__ void
load_queries(const attention_args &a, const attention_tile &t, unsigned char *space, int stage,
             int head, int query) {
    typedef keys_shape<D> shape;
    int64_t row = t.row + query, col = (int64_t)head * a.dim, even = row & ~(int64_t)1;
    int at = shape::ring + stage * 2 * shape::tile, left = t.count - query;
    tile_load<T, D, shape::met, THREADS>(space, at,
                                         (const T *)a.qkv + row * a.qkv_stride + col +
                                             tile_thread_offset<D>(a.qkv_stride),
                                         a.qkv_stride, left, a.dim);
    tile_load<T, D, shape::met, THREADS>(space, at + shape::tile,
                                         (const T *)a.dy + row * a.dy_stride + col +
                                             tile_thread_offset<D>(a.dy_stride),
                                         a.dy_stride, left, a.dim);
    int pair = 2 * threadIdx.x;
    if (pair < shape::met + 2)
        cp_async_16(space + shape::stats + stage * shape::stats_bytes + pair * 8,
                    a.stats + head * a.plane + even + pair, even + pair < a.plane);
    cp_async_commit();
}

/* A warp's keys and values, and their gradients. */
template <int D> struct keys_rows {
    own_rows<D> k, v;
    float dk[1][keys_shape<D>::cols / 8][4], dv[1][keys_shape<D>::cols / 8][4];
    int half; /* of the columns of dk and dv */
};

/* The warp's keys meet the pair of tiles in `stage`: `rows` queries are real, the first stands
 * `ahead` of the first key and its stats at `odd`. */
template <typename T, int D>
static __device__ __forceinline__ void keys_meet(const attention_args &a, unsigned char *space,
                                                 keys_rows<D> &w, int stage, int odd,
                                                 int ahead, int rows) {
    typedef keys_shape<D> shape;
    const int N = shape::met;
    float s[1][N / 8][4], dp[1][N / 8][4];
    int at = shape::ring + stage * 2 * shape::tile;
    const float2 *stats = (const float2 *)(space + shape::stats + stage * shape::stats_bytes) +
                          odd + threadIdx.x % 4 * 2;
    own_scores<T, D, N>(s, w.k, space, at + tile_lane_scores<D>(), shape::hold_a);
    own_scores<T, D, N>(dp, w.v, space, at + shape::tile + tile_lane_scores<D>(),
                        shape::hold_b);
    bool all = ahead >= 15 && rows >= N && (unsigned)(ahead + N - 1) < attention_reach(a);
    prepare_scores<N>(a, s[0], all, ahead, -1, rows);
    UNROLL
    for (int i = 0; i < N / 2; i++) {
        float2 of = stats[i / 4 * 8 + i % 2];
        derive(a, s[0][i / 4][i % 4], dp[0][i / 4][i % 4], of.x * LOG2E, of.y);
    }
    at += tile_lane_sums<D>() + w.half * shape::cols * 2;
    tile_sums<T, D, shape::cols, 1, N>(w.dv, s, space, at + shape::tile);
    tile_sums<T, D, shape::cols, 1, N>(w.dk, dp, space, at);
}

/* Stores the gradients of the warp's first `n` keys; `g`: the first key's row. */
template <typename T, int D>
static __device__ __forceinline__ void keys_store(const attention_args &a,
                                                  unsigned char *space, keys_rows<D> &w,
                                                  int at, T *g, int kv, int n) {
    typedef keys_shape<D> shape;
    int col = w.half * shape::cols, dim = a.dim - col;
    T *dk = g + a.key_col + (int64_t)kv * a.dim + col;
    T *dv = g + a.value_col + (int64_t)kv * a.dim + col;
    UNROLL
    for (int i = 0; i < shape::cols / 2; i++) w.dk[0][i / 4][i % 4] *= a.scale;
    if (a.add) {
        tile_add<T, shape::cols>(w.dk[0], dk, a.g_stride, n, dim);
        tile_add<T, shape::cols>(w.dv[0], dv, a.g_stride, n, dim);
    }
    at += col * 2;
    tile_store<T, D, shape::cols>(space, at, w.dk[0], dk, a.g_stride, n, dim);
    tile_store<T, D, shape::cols>(space, at, w.dv[0], dv, a.g_stride, n, dim);
}

/* Block `block` of the pass over keys: kv heads side by side, the first keys, which are seen
 * most, first. */
template <typename T, int D>
static __device__ __forceinline__ void keys_block(const attention_args &a,
                                                  unsigned char *space, unsigned block) {
    typedef keys_shape<D> shape;
    const int N = shape::met, bytes = tile_row<D>::bytes;
    int kv = block % a.kv_heads;
    attention_tile t = attention_tile_of(a, block / a.kv_heads, shape::own);
    if (!t.live) return;
    T *g = (T *)a.g;
    int64_t key_col = a.key_col + (int64_t)kv * a.dim;
    int64_t value_col = a.value_col + (int64_t)kv * a.dim;
    if (t.padding) {
        if (a.add) return;
        attention_clear(g, a.g_stride, t, shape::own, key_col, a.dim);
        attention_clear(g, a.g_stride, t, shape::own, value_col, a.dim);
        return;
    }
    int count = min(shape::own, t.count - t.first);
    const T *own = (const T *)a.keys + (t.row + t.first) * a.key_stride +
                   tile_thread_offset<D>(a.key_stride);
    tile_load<T, D, shape::own, THREADS>(space, 0, own + key_col, a.key_stride, count, a.dim);
    tile_load<T, D, shape::own, THREADS>(space, shape::own * bytes, own + value_col,
                                         a.key_stride, count, a.dim);
    int begin = t.first / N * N, query = begin, head = kv * a.group, stage = 0;
    int end = a.window > 0 ? min(t.count, t.first + count - 1 + a.window) : t.count;
    load_queries<T, D>(a, t, space, 0, head, query);

    int mine = threadIdx.x / WARP / shape::halves * 16;
    int key = mine < count ? t.first + mine : 1 << 30; /* seen by nobody */
    keys_rows<D> w;
    w.half = threadIdx.x / WARP % shape::halves;
    tile_zero<1, shape::cols>(w.dk);
    tile_zero<1, shape::cols>(w.dv);
    cp_async_wait<0>();
    __syncthreads();
    own_take<D>(w.k, space, mine * bytes, shape::hold_a);
    own_take<D>(w.v, space, (shape::own + mine) * bytes, shape::hold_b);
    for (int last = head + a.group; head < last; stage ^= 1) {
        int ahead = query - key, rows = t.count - query, odd = (t.row + query) & 1;
        cp_async_wait<0>();
        __syncthreads(); /* this pair is there, and the one before it was read */
        query += N;
        if (query >= end) query = begin, head++;
        if (head < last) load_queries<T, D>(a, t, space, stage ^ 1, head, query);
        if (ahead > -N && (a.window <= 0 || ahead - 15 < a.window))
            keys_meet<T, D>(a, space, w, stage, odd, ahead, rows);
    }
    __syncthreads(); /* the owned tiles were read */
    if (mine < count)
        keys_store<T, D>(a, space, w, mine * bytes, g + (t.row + key) * a.g_stride, kv,
                         count - mine);
}

/* ---- dQ ---- */

/* Starts copying `left` keys and their values, from the thread's piece of the first, to stage
 * `at`. */
template <typename T, int D>
static __device__ __forceinline__ void load_keys(const attention_args &a, unsigned char *space,
                                                 int stage, const T *from, int left) {
    typedef queries_shape<D> shape;
    int at = shape::ring + stage * 2 * shape::tile;
    if (left > 0) {
        tile_load<T, D, shape::met, THREADS>(space, at, from + a.key_col, a.key_stride, left,
                                             a.dim);
        tile_load<T, D, shape::met, THREADS>(space, at + shape::tile, from + a.value_col,
                                             a.key_stride, left, a.dim);
    }
    cp_async_commit();
}

/* A warp's queries and dy, this lane's two rows' stats, and the gradient. */
template <int D> struct queries_rows {
    own_rows<D> q, dy;
    float lse2[2], delta[2];
    float dq[1][D / 8][4];
};

/* The warp's queries, the first `ahead` of the first key, meet the pair of tiles in `stage`. */
template <typename T, int D>
static __device__ __forceinline__ void queries_meet(const attention_args &a,
                                                    unsigned char *space, queries_rows<D> &w,
                                                    int stage, int ahead) {
    typedef queries_shape<D> shape;
    const int N = shape::met;
    float s[1][N / 8][4], dp[1][N / 8][4];
    int at = shape::ring + stage * 2 * shape::tile;
    own_scores<T, D, N>(s, w.q, space, at + tile_lane_scores<D>(), shape::hold);
    own_scores<T, D, N>(dp, w.dy, space, at + shape::tile + tile_lane_scores<D>(),
                        shape::hold);
    bool all = ahead >= N - 1 && (unsigned)(ahead + 15) < attention_reach(a);
    prepare_scores<N>(a, s[0], all, ahead, 1, N);
    UNROLL
    for (int i = 0; i < N / 2; i++)
        derive(a, s[0][i / 4][i % 4], dp[0][i / 4][i % 4], w.lse2[i % 4 / 2],
               w.delta[i % 4 / 2]);
    tile_sums<T, D, D, 1, N>(w.dq, dp, space, at + tile_lane_sums<D>());
}

/* Block `block` from the end of the pass over queries: the last queries, which see most, first.
 */
template <typename T, int D>
static __device__ __forceinline__ void queries_block(const attention_args &a,
                                                     unsigned char *space, unsigned block) {
    typedef queries_shape<D> shape;
    const int N = shape::met, bytes = tile_row<D>::bytes;
    int head = block % a.heads;
    attention_tile t = attention_tile_of(a, block / a.heads, shape::own);
    if (!t.live) return;
    int64_t row = t.row + t.first, col = (int64_t)head * a.dim;
    T *g = (T *)a.g;
    if (t.padding) {
        if (!a.add) attention_clear(g, a.g_stride, t, shape::own, col, a.dim);
        return;
    }
    int count = min(shape::own, t.count - t.first);
    const T *queries = (const T *)a.qkv + row * a.qkv_stride + col;
    const T *dy = (const T *)a.dy + row * a.dy_stride + col;
    tile_load<T, D, shape::own, THREADS>(
        space, 0, queries + tile_thread_offset<D>(a.qkv_stride), a.qkv_stride, count, a.dim);
    tile_load<T, D, shape::own, THREADS>(space, shape::own * bytes,
                                         dy + tile_thread_offset<D>(a.dy_stride), a.dy_stride,
                                         count, a.dim);
    int key = attention_first_key(a, t.first) / N * N, left = t.first + count - key, stage = 0;
    const T *keys = (const T *)a.keys + (t.row + key) * a.key_stride +
                    (int64_t)(head / a.group) * a.dim + tile_thread_offset<D>(a.key_stride);
    load_keys<T, D>(a, space, 0, keys, left);

    int mine = threadIdx.x / WARP * 16;
    int query = mine < count ? t.first + mine : -16; /* sees nothing */
    queries_rows<D> w;
    tile_zero<1, D>(w.dq);
    UNROLL
    for (int i = 0; i < 2; i++) {
        int own = mine + i * 8 + threadIdx.x % WARP / 4;
        float2 of = own < count ? a.stats[head * a.plane + row + own] : make_float2(0, 0);
        w.lse2[i] = of.x * LOG2E, w.delta[i] = of.y;
    }
    cp_async_wait<0>();
    __syncthreads();
    own_take<D>(w.q, space, mine * bytes, shape::hold);
    own_take<D>(w.dy, space, (shape::own + mine) * bytes, shape::hold);
    for (; left > 0; left -= N, key += N, stage ^= 1) {
        int ahead = query - key;
        cp_async_wait<0>();
        __syncthreads(); /* this pair is there, and the one before it was read */
        keys += N * a.key_stride;
        load_keys<T, D>(a, space, stage ^ 1, keys, left - N);
        if (ahead > -16 && (a.window <= 0 || ahead - (N - 1) < a.window))
            queries_meet<T, D>(a, space, w, stage, ahead);
    }
    if (mine >= count) return;
    g += (row + mine) * a.g_stride + col;
    UNROLL
    for (int i = 0; i < D / 2; i++) w.dq[0][i / 4][i % 4] *= a.scale;
    if (a.add) tile_add<T, D>(w.dq[0], g, a.g_stride, count - mine, a.dim);
    tile_store<T, D, D>(space, mine * bytes, w.dq[0], g, a.g_stride, count - mine, a.dim);
}

/* ---- launches ---- */

template <typename T, int D>
static __global__ void __launch_bounds__(THREADS, 1)
    backward(attention_args a, unsigned key_blocks) {
    SHARED(space);
    if (blockIdx.x < key_blocks)
        keys_block<T, D>(a, space, blockIdx.x);
    else
        queries_block<T, D>(a, space, gridDim.x - 1 - blockIdx.x);
}

template <int D> static int shared_bytes(void) {
    return keys_shape<D>::shared > queries_shape<D>::shared ? keys_shape<D>::shared
                                                            : queries_shape<D>::shared;
}

template <typename T, int D> static cudaError_t prepare_as(void) {
    return cudaFuncSetAttribute((const void *)backward<T, D>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                shared_bytes<D>());
}

template <typename T, int D>
static cudaError_t launch_as(const attention_args *a, cudaStream_t s) {
    cudaError_t e = prepare_as<T, D>();
    if (e != cudaSuccess) return e;
    int64_t keys = attention_slots(a, keys_shape<D>::own) * a->kv_heads;
    int64_t queries = attention_slots(a, queries_shape<D>::own) * a->heads;
    LAUNCH((backward<T, D>), (unsigned)(keys + queries), THREADS, shared_bytes<D>(), s, *a,
           (unsigned)keys);
    return cudaGetLastError();
}

typedef struct backward_kernels {
    cudaError_t (*prepare)(void);
    cudaError_t (*launch)(const attention_args *a, cudaStream_t s);
} backward_kernels;

#define KERNELS_BF16(D)                                                                       \
    { prepare_as<bf16, D>, launch_as<bf16, D> }
#define KERNELS_F16(D)                                                                        \
    { prepare_as<f16, D>, launch_as<f16, D> }
static const backward_kernels kernels[2][TILE_DIM_COUNT] = {{TILE_DIMS(KERNELS_BF16)},
                                                            {TILE_DIMS(KERNELS_F16)}};

static const backward_kernels *kernels_of(dtype type, int dim) {
    return &kernels[type == DTYPE_F16][tile_dim_index(dim)];
}

cudaError_t attention_backward_prepare(dtype type, int dim) {
    return kernels_of(type, dim)->prepare();
}

cudaError_t attention_backward(dtype type, const attention_args *a, cudaStream_t s) {
    return kernels_of(type, a->dim)->launch(a, s);
}
