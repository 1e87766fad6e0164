/* optimizer.cu: OP_ADAMW, with 32-bit states or 8-bit blockwise ones: the update of one tensor
 * or of a page of it, bit-equal to quant/adamw.c (every operation rounded as there, fma where
 * it says fma).
 *
 * 32 bits: four elements a thread, 16 bytes of each operand. 8 bits: a warp has a block of 256
 * elements, twice four a lane, so that the block's largest magnitudes are two shuffled maxima and
 * nothing crosses warps; the maps and their search heaps lie in shared memory, 4 KB filled
 * once per TURNS blocks of a warp. */
#include "autograd/cuda/codes.h"

extern "C" {
#include "quant/adamw.h"
}

enum {
    THREADS = 256,
    WARPS = THREADS / WARP,
    TURNS = 8, /* blocks of 256 elements that a warp updates, one after another */
    QUADS = ADAMW8_BLOCK / WARP / 4, /* a lane's elements of a block: 4 of each half */
    LANE = 4 * QUADS,
};

template <typename T> struct adamw_call {
    matrix<float> g, master, m, v;
    matrix<T> working; /* at NULL: none, or the master itself */
    uint8_t *codes1, *codes2;
    float *absmax1, *absmax2;
    int64_t n;
    adamw_scalars s;
};

/* ---- 32 bits ---- */

/* torch's lerp starts from the nearer end. */
static __device__ __forceinline__ float lerp_to(float m, float g, float rest1) {
    float step = __fsub_rn(g, m);
    return rest1 < 0.5f ? __fmaf_rn(rest1, step, m)
                        : __fmaf_rn(__fsub_rn(rest1, 1.0f), step, g);
}

static __device__ __forceinline__ void update32(const adamw_scalars &s, float gradient,
                                                float *p, float *m, float *v) {
    float g = __fmul_rn(gradient, s.grad_scale);
    float first = lerp_to(*m, g, s.rest1);
    float second = __fmaf_rn(__fmul_rn(s.rest2, g), g, __fmul_rn(s.beta2, *v));
    float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(second), s.root2), s.eps);
    *m = first;
    *v = second;
    *p = __fadd_rn(__fmul_rn(*p, s.decay), __fdiv_rn(__fmul_rn(s.step, first), denominator));
}

/* Rounds four elements of the master to the working copy. */
template <typename T>
static __device__ __forceinline__ void store_working(const matrix<T> &w, int64_t e, int64_t n,
                                                     const float *p) {
    if (w.wide && e + 4 <= n)
        *(uint2 *)(w.at + e) = make_uint2(pack_two<T>(p[0], p[1]), pack_two<T>(p[2], p[3]));
    else
        for (int i = 0; i < 4; i++)
            if (e + i < n) w.at[e + i] = from_f32<T>(p[i]);
}
static __device__ __forceinline__ void store_working(const matrix<float> &w, int64_t e,
                                                     int64_t n, const float *p) {
    piece_store(w, 0, e, n, piece_narrow<float>(p));
}

template <typename T>
static __global__ void __launch_bounds__(THREADS) adamw32(adamw_call<T> c) {
    int64_t e = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4;
    float g[4], p[4], m[4], v[4];
    piece<float> gs = piece_load(c.g, 0, e, c.n), ps = piece_load(c.master, 0, e, c.n);
    piece<float> ms = piece_load(c.m, 0, e, c.n), vs = piece_load(c.v, 0, e, c.n);
    piece_widen(gs, g);
    piece_widen(ps, p);
    piece_widen(ms, m);
    piece_widen(vs, v);
    UNROLL
    for (int i = 0; i < 4; i++) update32(c.s, g[i], &p[i], &m[i], &v[i]);
    piece_store(c.m, 0, e, c.n, piece_narrow<float>(m));
    piece_store(c.v, 0, e, c.n, piece_narrow<float>(v));
    piece_store(c.master, 0, e, c.n, piece_narrow<float>(p));
    if (c.working.at) store_working(c.working, e, c.n, p);
}

/* ---- 8 bits ---- */

typedef struct maps {
    code_map first, second; /* signed, unsigned */
} maps;
typedef struct adamw8_space {
    float map1[DYNAMIC_CODES], node1[DYNAMIC_CODES], map2[DYNAMIC_CODES], node2[DYNAMIC_CODES];
} adamw8_space;

/* Ends with a barrier. */
static __device__ __forceinline__ void share_maps(const maps &given, adamw8_space *t) {
    t->map1[threadIdx.x] = given.first.x[threadIdx.x];
    t->map2[threadIdx.x] = given.second.x[threadIdx.x];
    __syncthreads();
    heap_fill(t->map1, t->node1);
    heap_fill(t->map2, t->node2);
    __syncthreads();
}

/* The codes of four elements from e on, in one word; those past the end are 0. */
static __device__ __forceinline__ uint32_t codes_load(const uint8_t *codes, int64_t e,
                                                      int64_t n) {
    uint32_t word = 0;
    if (e + 4 <= n) return *(const uint32_t *)(codes + e);
    UNROLL
    for (int i = 0; i < 4; i++)
        if (e + i < n) word |= (uint32_t)codes[e + i] << 8 * i;
    return word;
}
static __device__ __forceinline__ void codes_store(uint8_t *codes, int64_t e, int64_t n,
                                                   uint32_t word) {
    if (e + 4 <= n) {
        *(uint32_t *)(codes + e) = word;
        return;
    }
    UNROLL
    for (int i = 0; i < 4; i++)
        if (e + i < n) codes[e + i] = (uint8_t)(word >> 8 * i);
}

/* The states and the master after one step. */
static __device__ __forceinline__ void update8(const adamw_scalars &s, float gradient,
                                               float *s1, float *s2, float *p) {
    float g = __fmul_rn(gradient, s.grad_scale);
    float rest1 = __fsub_rn(1.0f, s.beta1), rest2 = __fsub_rn(1.0f, s.beta2);
    float second = __fadd_rn(__fmul_rn(*s2, s.beta2), __fmul_rn(__fmul_rn(rest2, g), g));
    float first = __fadd_rn(__fmul_rn(*s1, s.beta1), __fmul_rn(rest1, g));
    float ratio = __fdiv_rn(first, __fadd_rn(__fsqrt_rn(second), s.eps8));
    *s1 = first;
    *s2 = second;
    *p = __fmul_rn(__fadd_rn(*p, __fmul_rn(s.step8, ratio)), s.decay);
}

/* The largest magnitude of the warp's block, by bits as on the CPU. */
static __device__ __forceinline__ float warp_absmax(const float x[LANE]) {
    unsigned largest = 0;
    UNROLL
    for (int i = 0; i < LANE; i++) {
        unsigned bits = __float_as_uint(x[i]) & 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    for (int d = WARP / 2; d; d /= 2) {
        unsigned other = __shfl_xor_sync(0xffffffffu, largest, d);
        largest = other > largest ? other : largest;
    }
    return __uint_as_float(largest);
}

static __device__ __forceinline__ float normal(float x, float scale) {
    return scale > 0.0f ? __fdiv_rn(x, scale) : 0.0f;
}

/* Code of a first moment: the sign survives the rounding. */
static __device__ __forceinline__ uint8_t signed_code(const float *node, float y, float s1) {
    int code = (int)map_find(node, y);
    return (uint8_t)(code + (code < DYNAMIC_ZERO_SIGNED) - (s1 < 0.0f));
}

/* A lane's part of a block: quad q has the elements from at[q] on. */
typedef struct lane_states {
    int64_t at[QUADS];
    float s1[LANE], s2[LANE], p[LANE]; /* states, master */
} lane_states;

/* The lane's elements of the block from `first` on, after the step. */
template <typename T>
static __device__ __forceinline__ lane_states step_block(const adamw_call<T> &c,
                                                         const adamw8_space *t, int64_t first,
                                                         float absmax1, float absmax2) {
    lane_states l;
    float g[LANE];
    uint32_t c1[QUADS], c2[QUADS];
    UNROLL
    for (int q = 0; q < QUADS; q++) {
        l.at[q] = first + q * (4 * WARP) + threadIdx.x % WARP * 4;
        c1[q] = codes_load(c.codes1, l.at[q], c.n);
        c2[q] = codes_load(c.codes2, l.at[q], c.n);
        piece_widen(piece_load(c.g, 0, l.at[q], c.n), g + 4 * q);
        piece_widen(piece_load(c.master, 0, l.at[q], c.n), l.p + 4 * q);
    }
    UNROLL
    for (int i = 0; i < LANE; i++) {
        bool live = l.at[i / 4] + i % 4 < c.n;
        float m1 = t->map1[c1[i / 4] >> 8 * (i % 4) & 255];
        float m2 = t->map2[c2[i / 4] >> 8 * (i % 4) & 255];
        l.s1[i] = live ? __fmul_rn(m1, absmax1) : 0.0f;
        l.s2[i] = live ? __fmul_rn(m2, absmax2) : 0.0f;
        update8(c.s, g[i], &l.s1[i], &l.s2[i], &l.p[i]);
    }
    return l;
}

/* The block of 256 elements from `first` on, by one warp. */
template <typename T>
static __device__ __forceinline__ void adamw8_block(const adamw_call<T> &c,
                                                    const adamw8_space *t, int64_t first) {
    int64_t b = first / ADAMW8_BLOCK;
    lane_states l = step_block(c, t, first, c.absmax1[b], c.absmax2[b]);
    float absmax1 = warp_absmax(l.s1), absmax2 = warp_absmax(l.s2);
    UNROLL
    for (int q = 0; q < QUADS; q++) {
        uint32_t c1 = 0, c2 = 0;
        UNROLL
        for (int i = 4 * q; i < 4 * q + 4; i++) {
            uint32_t one = signed_code(t->node1, normal(l.s1[i], absmax1), l.s1[i]);
            uint32_t two = map_find(t->node2, normal(l.s2[i], absmax2));
            c1 |= one << 8 * (i % 4);
            c2 |= two << 8 * (i % 4);
        }
        codes_store(c.codes1, l.at[q], c.n, c1);
        codes_store(c.codes2, l.at[q], c.n, c2);
        piece_store(c.master, 0, l.at[q], c.n, piece_narrow<float>(l.p + 4 * q));
        if (c.working.at) store_working(c.working, l.at[q], c.n, l.p + 4 * q);
    }
    __syncwarp(); /* all lanes have read the old scales */
    if (threadIdx.x % WARP == 0) c.absmax1[b] = absmax1, c.absmax2[b] = absmax2;
}

template <typename T>
static __global__ void __launch_bounds__(THREADS) adamw8(adamw_call<T> c, maps given) {
    SHARED(shared);
    adamw8_space *t = (adamw8_space *)shared;
    share_maps(given, t);
    int64_t first = ((int64_t)blockIdx.x * WARPS * TURNS + threadIdx.x / WARP) * ADAMW8_BLOCK;
    for (int turn = 0; turn < TURNS && first < c.n; turn++, first += WARPS * ADAMW8_BLOCK)
        adamw8_block(c, t, first);
}

/* ---- the door ---- */

template <typename T> static status update(backend *b, const op_call *call) {
    const tensor *in = call->in, *working = &in[ADAMW_WORKING];
    bool apart = working->data && working->data != in[ADAMW_MASTER].data;
    adamw_call<T> c = {};
    c.g = matrix_flat<float>(in[ADAMW_G].data);
    c.master = matrix_flat<float>(in[ADAMW_MASTER].data);
    c.working = matrix_flat<T>(apart ? working->data : NULL);
    c.n = in[ADAMW_MASTER].rows * in[ADAMW_MASTER].cols;
    c.s = *call->adam;
    if (!call->attr->adamw.decay) c.s.decay = 1;
    if (c.n == 0) return STATUS_OK;
    if (call->attr->adamw.bits == 8) {
        c.codes1 = (uint8_t *)in[ADAMW_M].data, c.codes2 = (uint8_t *)in[ADAMW_V].data;
        c.absmax1 = (float *)in[ADAMW_ABSMAX1].data;
        c.absmax2 = (float *)in[ADAMW_ABSMAX2].data;
        maps given = {code_map_of(dynamic_map_signed()), code_map_of(dynamic_map_unsigned())};
        LAUNCH(adamw8<T>, (unsigned)ceil_div(c.n, WARPS * TURNS * ADAMW8_BLOCK), THREADS,
               sizeof(adamw8_space), cuda_stream(b), c, given);
    } else {
        c.m = matrix_flat<float>(in[ADAMW_M].data), c.v = matrix_flat<float>(in[ADAMW_V].data);
        LAUNCH(adamw32<T>, (unsigned)ceil_div(c.n, THREADS * 4), THREADS, 0, cuda_stream(b),
               c);
    }
    return CUDA_LAUNCHED(b, "adamw");
}

status cuda_adamw_forward(backend *b, const op_call *call) {
    static const by_type run = {update<float>, update<bf16>, update<f16>};
    const tensor *working = &call->in[ADAMW_WORKING];
    return run[working->data ? working->type : DTYPE_F32](b, call);
}
