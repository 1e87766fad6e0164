/* attention_cached.cu: generation: new keys and values go into the cache, and few new rows per
 * sequence meet all that it holds.
 *
 * Bound by reading the cache: a block takes one row and one kv head, up to four of its group's
 * query heads at a time, so that keys and values are read once for all of them. Eight lanes
 * share a key, 16 bytes each and neighbours side by side; a block holds 32 such lanes' groups
 * and each takes every 32nd key with a softmax of its own in f32, several keys at a time as
 * registers allow. They are merged at the end, in a fixed order. */
#include "autograd/cuda/attention.h"

#include <math.h>

enum { LANES = 8, WARPS = 8, THREADS = WARPS * WARP, TEAMS = THREADS / LANES };

/* ---- the cache ---- */

template <typename T> static __global__ void append(attention_args a, bool wide) {
    attention_tile t = attention_tile_of(a, blockIdx.x, 1);
    if (!t.live || t.padding || t.past + t.first >= a.cache_rows) return;
    int64_t cols = 2 * (int64_t)a.kv_heads * a.dim;
    const T *from = (const T *)a.qkv + (t.row + t.first) * a.qkv_stride;
    T *to = (T *)a.keys + (t.key_row + t.past + t.first) * a.key_stride;
    from += (int64_t)a.heads * a.dim;
    if (wide)
        for (int64_t i = threadIdx.x; i < cols * (int64_t)sizeof(T) / 16; i += blockDim.x)
            ((uint4 *)to)[i] = ((const uint4 *)from)[i];
    else
        for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) to[i] = from[i];
}

/* ---- rows against the cache ---- */

template <typename T, int D> struct decode_shape {
    static const int heads = D <= 128 ? 4 : sizeof(T) == 4 ? 1 : 2; /* at a time */
    static const int keys = D <= 128 ? 2 : 1;                       /* at once, of a team */
    static const int per = D / LANES;                               /* dimensions of a lane */
    static const int piece_count = 16 / (int)sizeof(T), pieces = per / piece_count;
    static const int row = D + D / 8; /* of a head's outputs in shared memory; outs_at */
    static const int shared = WARPS * heads * (row + 2) * (int)sizeof(float);
};

/* A team's softmax over its keys so far, of each head: maximum and sum in powers of 2. */
template <typename T, int D> struct decode_team {
    float max[decode_shape<T, D>::heads], sum[decode_shape<T, D>::heads];
    float out[decode_shape<T, D>::heads][decode_shape<T, D>::per];
};

/* This lane's dimensions of a row, which begin at `from`; zeros where not `valid` and from dim
 * on. */
template <typename T, int D>
static __device__ __forceinline__ void load_row(uint4 to[decode_shape<T, D>::pieces],
                                                const T *from, int dim, bool valid) {
    const int N = decode_shape<T, D>::piece_count;
    UNROLL
    for (int i = 0; i < decode_shape<T, D>::pieces; i++) {
        int at = (i * LANES + (int)threadIdx.x % LANES) * N;
        to[i] = valid && at < dim ? *(const uint4 *)(from + at) : make_uint4(0, 0, 0, 0);
    }
}
template <typename T, int D>
static __device__ __forceinline__ float element(const uint4 from[], int i) {
    const int N = decode_shape<T, D>::piece_count;
    piece<T> p;
    p.bits = from[i / N];
    return to_f32(p.x[i % N]);
}

/* One key meets the heads. */
template <typename T, int D>
static __device__ __forceinline__ void meet(const attention_args &a, decode_team<T, D> &w,
                                            const float q[][decode_shape<T, D>::per],
                                            const uint4 *k, const uint4 *v, bool seen) {
    typedef decode_shape<T, D> shape;
    UNROLL
    for (int h = 0; h < shape::heads; h++) {
        float s = 0;
        UNROLL
        for (int i = 0; i < shape::per; i++) s += q[h][i] * element<T, D>(k, i);
        for (int d = LANES / 2; d; d /= 2) s += __shfl_xor_sync(0xffffffffu, s, d);
        if (a.softcap > 0) s = attention_tanh(s * a.inner);
        s = seen ? s * a.unit2 : -INFINITY;
        float top = fmaxf(w.max[h], s), base = top == -INFINITY ? 0.0f : top;
        float fade = exp2_fast(w.max[h] - base), weight = exp2_fast(s - base);
        w.max[h] = top;
        w.sum[h] = w.sum[h] * fade + weight;
        UNROLL
        for (int i = 0; i < shape::per; i++)
            w.out[h][i] = w.out[h][i] * fade + weight * element<T, D>(v, i);
    }
}

/* Merges the teams of a warp: every lane then holds the whole. */
template <typename T, int D>
static __device__ __forceinline__ void merge(decode_team<T, D> &w) {
    typedef decode_shape<T, D> shape;
    for (int d = LANES; d < WARP; d *= 2) {
        UNROLL
        for (int h = 0; h < shape::heads; h++) {
            float top = fmaxf(w.max[h], __shfl_xor_sync(0xffffffffu, w.max[h], d));
            float fade = top == -INFINITY ? 0.0f : exp2_fast(w.max[h] - top);
            w.max[h] = top;
            w.sum[h] *= fade;
            w.sum[h] += __shfl_xor_sync(0xffffffffu, w.sum[h], d);
            UNROLL
            for (int i = 0; i < shape::per; i++) {
                w.out[h][i] *= fade;
                w.out[h][i] += __shfl_xor_sync(0xffffffffu, w.out[h][i], d);
            }
        }
    }
}

/* Where dimension d stands: lanes that are 8 dimensions apart fall on different banks. */
static __device__ __forceinline__ int outs_at(int d) {
    return d + d / 32 * 4;
}

/* Merges the warps and stores heads [head, head + count) of the row. */
template <typename T, int D>
static __device__ void finish(const attention_args &a, const decode_team<T, D> &w,
                              float *space, int64_t row, int head, int count) {
    typedef decode_shape<T, D> shape;
    const int N = shape::piece_count;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float *outs = space, *stats = space + WARPS * shape::heads * shape::row;
    UNROLL
    for (int h = 0; h < shape::heads; h++) {
        float *to = outs + (warp * shape::heads + h) * shape::row;
        UNROLL
        for (int i = 0; i < shape::per;
             i += 4) { /* each team of the warp stores one of four */
            const float *x = &w.out[h][i];
            int team = lane / LANES, mine = i + team;
            to[outs_at((mine / N * LANES + lane % LANES) * N + mine % N)] = team == 0   ? x[0]
                                                                            : team == 1 ? x[1]
                                                                            : team == 2 ? x[2]
                                                                                        : x[3];
        }
        if (lane) continue;
        stats[2 * (warp * shape::heads + h)] = w.max[h];
        stats[2 * (warp * shape::heads + h) + 1] = w.sum[h];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count * a.dim; i += THREADS) {
        int h = i / a.dim, d = i % a.dim;
        float top = -INFINITY, sum = 0, out = 0;
        for (int p = 0; p < WARPS; p++) top = fmaxf(top, stats[2 * (p * shape::heads + h)]);
        for (int p = 0; p < WARPS; p++) {
            float weight = exp2_fast(stats[2 * (p * shape::heads + h)] - top);
            sum += weight * stats[2 * (p * shape::heads + h) + 1];
            out += weight * outs[(p * shape::heads + h) * shape::row + outs_at(d)];
        }
        ((T *)a.y)[row * a.y_stride + (int64_t)(head + h) * a.dim + d] =
            from_f32<T>(__fdividef(out, sum));
        if (!d) a.lse[row * a.lse_stride + head + h] = (top + log2f(sum)) * 0.6931471806f;
    }
    __syncthreads(); /* the next heads write there */
}

template <typename T, int D>
static __global__ void __launch_bounds__(THREADS, 1) decode(attention_args a) {
    typedef decode_shape<T, D> shape;
    SHARED(space);
    int kv = blockIdx.x % a.kv_heads;
    attention_tile t = attention_tile_of(a, blockIdx.x / a.kv_heads, 1);
    if (!t.live) return;
    int64_t row = t.row + t.first;
    if (t.padding) {
        int head = kv * a.group;
        attention_clear((T *)a.y, a.y_stride, t, 1, (int64_t)head * a.dim, a.group * a.dim);
        attention_clear(a.lse, a.lse_stride, t, 1, head, a.group);
        return;
    }
    int query = t.past + t.first, team = threadIdx.x / LANES;
    const T *keys = (const T *)a.keys + t.key_row * a.key_stride + (int64_t)kv * a.dim;
    for (int first = 0; first < a.group; first += shape::heads) {
        int count = min(shape::heads, a.group - first), head = kv * a.group + first;
        decode_team<T, D> w;
        float q[shape::heads][shape::per];
        UNROLL
        for (int h = 0; h < shape::heads; h++) {
            uint4 bits[shape::pieces];
            const T *at = (const T *)a.qkv + row * a.qkv_stride + (int64_t)(head + h) * a.dim;
            load_row<T, D>(bits, at, a.dim, h < count);
            UNROLL
            for (int i = 0; i < shape::per; i++) {
                q[h][i] = element<T, D>(bits, i);
                w.out[h][i] = 0;
            }
            w.max[h] = -INFINITY, w.sum[h] = 0;
        }
        for (int j = attention_first_key(a, query) + team; j - team <= query;
             j += shape::keys * TEAMS) {
            uint4 k[shape::keys][shape::pieces], v[shape::keys][shape::pieces];
            UNROLL
            for (int i = 0; i < shape::keys; i++) {
                const T *at = keys + (int64_t)(j + i * TEAMS) * a.key_stride;
                load_row<T, D>(k[i], at + a.key_col, a.dim, j + i * TEAMS <= query);
                load_row<T, D>(v[i], at + a.value_col, a.dim, j + i * TEAMS <= query);
            }
            UNROLL
            for (int i = 0; i < shape::keys; i++)
                meet<T, D>(a, w, q, k[i], v[i], j + i * TEAMS <= query);
        }
        merge<T, D>(w);
        finish<T, D>(a, w, (float *)space, row, head, count);
    }
}

/* ---- launches ---- */

template <typename T> static cudaError_t append_as(const attention_args *a, cudaStream_t s) {
    int64_t bytes = sizeof(T);
    bool wide = (uintptr_t)a->qkv % 16 == 0 && (uintptr_t)a->keys % 16 == 0 &&
                a->qkv_stride * bytes % 16 == 0 && a->key_stride * bytes % 16 == 0 &&
                a->dim * bytes % 16 == 0;
    LAUNCH(append<T>, (unsigned)attention_slots(a, 1), WARP * 4, 0, s, *a, wide);
    return cudaGetLastError();
}

template <typename T, int D>
static cudaError_t decode_as(const attention_args *a, cudaStream_t s) {
    int64_t blocks = attention_slots(a, 1) * a->kv_heads;
    LAUNCH((decode<T, D>), (unsigned)blocks, THREADS, (decode_shape<T, D>::shared), s, *a);
    return cudaGetLastError();
}

template <typename T> static cudaError_t decode_any(const attention_args *a, cudaStream_t s) {
    if (a->dim <= 64) return decode_as<T, 64>(a, s);
    return a->dim <= 128 ? decode_as<T, 128>(a, s) : decode_as<T, 256>(a, s);
}

cudaError_t attention_append(dtype type, const attention_args *a, cudaStream_t s) {
    if (type == DTYPE_F32) return append_as<float>(a, s);
    return type == DTYPE_BF16 ? append_as<bf16>(a, s) : append_as<f16>(a, s);
}

cudaError_t attention_decode(dtype type, const attention_args *a, cudaStream_t s) {
    if (type == DTYPE_F32) return decode_any<float>(a, s);
    return type == DTYPE_BF16 ? decode_any<bf16>(a, s) : decode_any<f16>(a, s);
}
