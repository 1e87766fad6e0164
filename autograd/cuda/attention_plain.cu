/* attention_plain.cu: attention in f32 arithmetic for any type, head size and stride.
 *
 * The kernels of f32 runs, and of what the tensor cores cannot take (head sizes that are no
 * multiple of 8, rows that do not start at 16 bytes). A warp owns a row of one head; the rows
 * it meets come by tiles of 32 through shared memory, one to a lane for the products along the
 * head, and again row by row, dimensions over the lanes, for the sums. The backward is one
 * kernel run twice, since its halves mirror each other: queries that meet keys (dQ), and keys
 * that meet queries (dK, dV). Memory O(rows), sums in a fixed order. */
#include "autograd/cuda/attention.h"

#include <math.h>

enum {
    WARPS = 8, /* rows of a tile, one each */
    THREADS = WARPS * WARP,
    DIMS = ATTENTION_DIM_MAX / WARP, /* of a row, per lane */
};

/* Floats from row to row of a tile whose rows are read by one lane each: odd. */
static __host__ __device__ __forceinline__ int plain_row(int dim) {
    return dim | 1;
}

/* Rows [row, row + n) of `from` to shared memory, by the whole block; rows past n are 0. */
template <typename T>
static __device__ void plain_load(float *to, const T *from, int64_t stride, int64_t row, int n,
                                  int dim) {
    for (int r = threadIdx.x / WARP; r < WARP; r += WARPS)
        for (int d = threadIdx.x % WARP; d < dim; d += WARP)
            to[r * plain_row(dim) + d] = r < n ? to_f32(from[(row + r) * stride + d]) : 0.0f;
}

static __device__ float plain_dot(const float *a, const float *b, int dim) {
    float sum = 0;
    for (int d = 0; d < dim; d++) sum += a[d] * b[d];
    return sum;
}

static __device__ __forceinline__ float plain_score(const attention_args &a, float product,
                                                    float *slope) {
    float s = product * a.scale, t = a.softcap > 0 ? tanhf(s / a.softcap) : 0.0f;
    *slope = 1 - t * t;
    return a.softcap > 0 ? a.softcap * t : s;
}

/* ---- forward ---- */

template <typename T>
static __global__ void __launch_bounds__(THREADS) plain_forward(attention_args a) {
    SHARED(space);
    int64_t head = blockIdx.x % a.heads, kv = head / a.group, dim = a.dim;
    attention_tile t = attention_tile_of(a, blockIdx.x / a.heads, WARPS);
    if (!t.live) return;
    T *y = (T *)a.y;
    if (t.padding) {
        attention_clear(y, a.y_stride, t, WARPS, head * dim, a.dim);
        attention_clear(a.lse, a.lse_stride, t, WARPS, head, 1);
        return;
    }
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, own = t.first + warp;
    bool live = own < t.count;
    int query = t.past + own, end = t.past + min(t.first + WARPS, t.count);
    int64_t row = t.row + (live ? own : t.first);
    float *k = (float *)space, *q = k + WARP * plain_row(a.dim) + warp * a.dim;
    float *p = k + WARP * plain_row(a.dim) + WARPS * a.dim + warp * WARP;
    for (int d = lane; d < dim; d += WARP)
        q[d] = to_f32(((const T *)a.qkv)[row * a.qkv_stride + head * dim + d]);
    float highest = -INFINITY, sum = 0, out[DIMS] = {0};
    for (int j = attention_first_key(a, t.past + t.first); j < end; j += WARP) {
        int n = min(WARP, end - j);
        const T *keys = (const T *)a.keys + kv * dim;
        __syncthreads(); /* the last tile was read */
        plain_load(k, keys + a.key_col, a.key_stride, t.key_row + j, n, a.dim);
        __syncthreads();
        float slope,
            s = plain_score(a, plain_dot(q, k + lane * plain_row(a.dim), a.dim), &slope);
        bool seen = live && lane < n && attention_sees(a, query, j + lane);
        float top = fmaxf(highest, warp_max(seen ? s : -INFINITY));
        float weight = seen ? expf(s - top) : 0.0f,
              fade = top > highest ? expf(highest - top) : 1.0f;
        sum = sum * fade + weight;
        highest = top;
        p[lane] = weight;
        __syncwarp();
        for (int c = 0; c < DIMS; c++) out[c] *= fade;
        for (int i = 0; i < n; i++) {
            const T *v = keys + a.value_col + (t.key_row + j + i) * a.key_stride;
            for (int c = 0; c < DIMS; c++)
                if (lane + c * WARP < dim) out[c] += p[i] * to_f32(v[lane + c * WARP]);
        }
        __syncwarp();
    }
    sum = warp_sum(sum);
    if (!live) return;
    for (int c = 0; c < DIMS; c++)
        if (lane + c * WARP < dim)
            y[row * a.y_stride + head * dim + lane + c * WARP] = from_f32<T>(out[c] / sum);
    if (!lane) a.lse[row * a.lse_stride + head] = highest + logf(sum);
}

/* ---- backward ---- */

/* Eight lanes a row: stats of (row, head). */
template <typename T>
static __global__ void __launch_bounds__(THREADS) row_stats(attention_args a, bool wide) {
    enum { LANES = 8, ROWS = THREADS / LANES, N = 16 / sizeof(T) };
    int64_t head = blockIdx.x % a.heads;
    int64_t row = (int64_t)(blockIdx.x / a.heads) * ROWS + threadIdx.x / LANES;
    int lane = threadIdx.x % LANES;
    const T *y = (const T *)a.y + row * a.y_stride + head * a.dim;
    const T *dy = (const T *)a.dy + row * a.dy_stride + head * a.dim;
    float sum = 0;
    if (row < a.rows && wide)
        for (int d = lane * N; d < a.dim; d += LANES * N) {
            piece<T> u, v;
            u.bits = *(const uint4 *)(y + d);
            v.bits = *(const uint4 *)(dy + d);
            UNROLL
            for (int i = 0; i < N; i++) sum += to_f32(u.x[i]) * to_f32(v.x[i]);
        }
    else if (row < a.rows)
        for (int d = lane; d < a.dim; d += LANES) sum += to_f32(y[d]) * to_f32(dy[d]);
    for (int d = LANES / 2; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if (lane || row >= a.plane) return;
    bool real = a.documents && row < a.starts[a.documents];
    a.stats[head * a.plane + row] =
        real ? make_float2(a.lse[row * a.lse_stride + head], sum) : make_float2(0, 0);
}

/* One side of the backward: rows [first, ...) of a document and head, as two operands of a
 * score's product and of its gradient's. */
typedef struct plain_side {
    const void *a, *b; /* q and dy, or k and v */
    int64_t a_stride, b_stride;
} plain_side;

template <typename T>
static __device__ __forceinline__ plain_side plain_queries(const attention_args &a,
                                                           int64_t row, int64_t head) {
    plain_side s = {(const T *)a.qkv + row * a.qkv_stride + head * a.dim,
                    (const T *)a.dy + row * a.dy_stride + head * a.dim, a.qkv_stride,
                    a.dy_stride};
    return s;
}
template <typename T>
static __device__ __forceinline__ plain_side plain_keys(const attention_args &a, int64_t row,
                                                        int64_t kv) {
    const T *keys = (const T *)a.keys + row * a.key_stride + kv * a.dim;
    plain_side s = {keys + a.key_col, keys + a.value_col, a.key_stride, a.key_stride};
    return s;
}

template <typename T>
static __device__ __forceinline__ void plain_store(const attention_args &a, int64_t row,
                                                   int64_t col, const float out[DIMS]) {
    T *to = (T *)a.g + row * a.g_stride + col;
    for (int c = 0, d = threadIdx.x % WARP; c < DIMS && d < a.dim; c++, d += WARP)
        to[d] = from_f32<T>(a.add ? to_f32(to[d]) + out[c] : out[c]);
}

/* of_keys: the block owns keys of a kv head and meets the queries of its group; else it owns
 * queries of a head and meets keys. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    plain_backward(attention_args a, bool of_keys) {
    SHARED(space);
    int heads = of_keys ? a.kv_heads : a.heads, head = blockIdx.x % heads, dim = a.dim;
    int64_t key_col = (int64_t)a.heads * dim, value_col = key_col + (int64_t)a.kv_heads * dim;
    attention_tile t = attention_tile_of(a, blockIdx.x / heads, WARPS);
    if (!t.live) return;
    if (t.padding) {
        T *g = (T *)a.g;
        int64_t col = (int64_t)head * dim;
        if (a.add) return;
        attention_clear(g, a.g_stride, t, WARPS, of_keys ? key_col + col : col, dim);
        if (of_keys) attention_clear(g, a.g_stride, t, WARPS, value_col + col, dim);
        return;
    }
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, row = plain_row(dim);
    float *met_a = (float *)space, *met_b = met_a + WARP * row, *own_a = met_b + WARP * row;
    float *ds = own_a + 2 * WARPS * dim + 2 * warp * WARP, *p = ds + WARP;
    own_a += 2 * warp * dim;
    float *own_b = own_a + dim;

    int last = min(t.first + WARPS, t.count), own = min(t.first + warp, t.count - 1);
    bool live = t.first + warp < t.count;
    int from = of_keys ? t.first : attention_first_key(a, t.first);
    int to = !of_keys ? last : a.window > 0 ? min(t.count, last - 1 + a.window) : t.count;
    plain_side mine =
        of_keys ? plain_keys<T>(a, t.row + own, head) : plain_queries<T>(a, t.row + own, head);
    for (int d = lane; d < dim; d += WARP) {
        own_a[d] = to_f32(((const T *)mine.a)[d]);
        own_b[d] = to_f32(((const T *)mine.b)[d]);
    }
    float out_a[DIMS] = {0}, out_b[DIMS] = {0};
    int first_head = of_keys ? head * a.group : head,
        last_head = of_keys ? first_head + a.group : head + 1;
    for (int h = first_head; h < last_head; h++)
        for (int i = from; i < to; i += WARP) {
            int n = min(WARP, to - i), met = i + lane;
            plain_side met_side = of_keys ? plain_queries<T>(a, t.row + i, h)
                                          : plain_keys<T>(a, t.row + i, h / a.group);
            __syncthreads(); /* the last tiles were read */
            plain_load(met_a, (const T *)met_side.a, met_side.a_stride, 0, n, dim);
            plain_load(met_b, (const T *)met_side.b, met_side.b_stride, 0, n, dim);
            __syncthreads();
            int query = of_keys ? met : own, key = of_keys ? own : met;
            bool seen = live && lane < n && attention_sees(a, query, key);
            float2 stats = seen ? a.stats[h * a.plane + t.row + query] : make_float2(0, 0);
            float slope, s = plain_score(a, plain_dot(own_a, met_a + lane * row, dim), &slope);
            float weight = seen ? expf(s - stats.x) : 0.0f;
            float dp = plain_dot(own_b, met_b + lane * row, dim);
            p[lane] = weight;
            ds[lane] = seen ? weight * (dp - stats.y) * slope * a.scale : 0.0f;
            __syncwarp();
            for (int c = 0; c < DIMS && lane + c * WARP < dim; c++) {
                float part_a = 0,
                      part_b = 0; /* a tile's, as the rounding of long sums grows */
                for (int j = 0; j < n; j++) {
                    part_a += ds[j] * met_a[j * row + lane + c * WARP];
                    part_b += p[j] * met_b[j * row + lane + c * WARP];
                }
                out_a[c] += part_a;
                out_b[c] += part_b;
            }
            __syncwarp();
        }
    if (!live) return;
    int64_t col = (int64_t)head * dim;
    plain_store<T>(a, t.row + own, of_keys ? key_col + col : col, out_a);
    if (of_keys) plain_store<T>(a, t.row + own, value_col + col, out_b);
}

/* ---- launches ---- */

/* Bytes of shared memory: tiles of 32 rows that are met, rows that are owned, lanes' weights. */
static int plain_shared(int dim, int sides) {
    return (int)sizeof(float) * sides * (WARP * plain_row(dim) + WARPS * dim + WARPS * WARP);
}

template <typename T> static cudaError_t forward_as(const attention_args *a, cudaStream_t s) {
    int64_t blocks = attention_slots(a, WARPS) * a->heads;
    LAUNCH(plain_forward<T>, (unsigned)blocks, THREADS, plain_shared(a->dim, 1), s, *a);
    return cudaGetLastError();
}

template <typename T> static cudaError_t backward_as(const attention_args *a, cudaStream_t s) {
    int64_t slots = attention_slots(a, WARPS);
    int shared = plain_shared(a->dim, 2);
    cudaError_t e = cudaFuncSetAttribute((const void *)plain_backward<T>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    if (e != cudaSuccess) return e;
    LAUNCH(plain_backward<T>, (unsigned)(slots * a->kv_heads), THREADS, shared, s, *a, true);
    LAUNCH(plain_backward<T>, (unsigned)(slots * a->heads), THREADS, shared, s, *a, false);
    return cudaGetLastError();
}

template <typename T>
static cudaError_t stats_as(const attention_args *a, bool wide, cudaStream_t s) {
    int64_t tiles = (a->plane + THREADS / 8 - 1) / (THREADS / 8);
    LAUNCH(row_stats<T>, (unsigned)(tiles * a->heads), THREADS, 0, s, *a, wide);
    return cudaGetLastError();
}

cudaError_t attention_plain_forward(dtype type, const attention_args *a, cudaStream_t s) {
    if (type == DTYPE_F32) return forward_as<float>(a, s);
    return type == DTYPE_BF16 ? forward_as<bf16>(a, s) : forward_as<f16>(a, s);
}

cudaError_t attention_plain_backward(dtype type, const attention_args *a, cudaStream_t s) {
    if (type == DTYPE_F32) return backward_as<float>(a, s);
    return type == DTYPE_BF16 ? backward_as<bf16>(a, s) : backward_as<f16>(a, s);
}

cudaError_t attention_stats(dtype type, const attention_args *a, bool wide, cudaStream_t s) {
    if (type == DTYPE_F32) return stats_as<float>(a, wide, s);
    return type == DTYPE_BF16 ? stats_as<bf16>(a, wide, s) : stats_as<f16>(a, wide, s);
}
