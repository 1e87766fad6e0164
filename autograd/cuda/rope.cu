/* rope.cu: rotary position embedding of queries and keys, with the optional RMSNorm of each
 * head: OP_ROPE.
 *
 * A block takes one row (or, where norm weights get a gradient, one of ROPE_SPLITS fixed parts
 * of the rows). Its cosines and sines are made once, by autograd/cpu/rope.c's arithmetic in
 * double, so that both back ends turn by the same numbers, and serve all heads. A head belongs
 * to a group of lanes, a power of two of them; each holds the pieces of 16 bytes at one place
 * of both halves, and a norm's sums stay within the group. */
#include "autograd/cuda/reduce.h"
#include "autograd/cuda/rows.h"

enum {
    THREADS = 128,  /* of a block, at most */
    SUMS_APART = 4, /* floats that put rows of sums into different banks */
    HEAD_MOST = 256,
};

template <typename T> struct rope_call {
    matrix<T> from, to;          /* x and y; backward: dy and dx */
    matrix<T> x, q_norm, k_norm; /* with norms; x in the backward only */
    const int32_t *positions;
    const float *inv_freq;
    float *rstd; /* [rows, heads + kv_heads], `rstd_stride` apart */
    int64_t rows, rstd_stride;
    int heads, kv_heads, dim;
    int lanes;  /* of a head's group */
    int turned; /* heads that are written: all, or without values that stay in place */
    float eps, factor;
    float direction; /* 1; backward -1 */
    bool add;        /* to `to` */
};

/* One position's turn for each pair of a head, rounded to C, in shared memory: pair i, the i %
 * count-th of lane i / count, at [i % count * lanes + i / count], so that a head's lanes read
 * from different banks. */
typedef struct turns {
    float cosine[HEAD_MOST], sine[HEAD_MOST];
} turns;

/* Quarter turns are taken off with pi/2 in two parts, the rest goes through Taylor
 * polynomials; the same operations as on the CPU, rounded one by one. */
static __device__ __forceinline__ double polynomial(double z, const double c[6]) {
    double sum = c[5];
    UNROLL
    for (int i = 4; i >= 0; i--) sum = __dadd_rn(c[i], __dmul_rn(z, sum));
    return sum;
}

static __device__ __forceinline__ float2 turn(float angle) {
    const double of_sine[6] = {-1.0 / 6,     1.0 / 120,       -1.0 / 5040,
                               1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800};
    const double of_cosine[6] = {-0.5,        1.0 / 24,       -1.0 / 720,
                                 1.0 / 40320, -1.0 / 3628800, 1.0 / 479001600};
    double a = (double)angle;
    double k = rint(__dmul_rn(a, 0.63661977236758134308));
    double x = __dadd_rn(a, -__dmul_rn(k, 0x1.921fb544p+0));
    x = __dadd_rn(x, -__dmul_rn(k, 0x1.0b4611a626331p-34));
    double z = __dmul_rn(x, x);
    double s = __dadd_rn(x, __dmul_rn(__dmul_rn(x, z), polynomial(z, of_sine)));
    double c = __dadd_rn(1.0, __dmul_rn(z, polynomial(z, of_cosine)));
    int quarter = (int)((int64_t)k & 3);
    float cosine = (float)(quarter & 1 ? s : c), sine = (float)(quarter & 1 ? c : s);
    return make_float2(quarter == 1 || quarter == 2 ? -cosine : cosine,
                       quarter & 2 ? -sine : sine);
}

/* Every thread of the block comes here; ends with a barrier. */
template <typename T>
static __device__ __forceinline__ void make_turns(const rope_call<T> &c, int64_t row,
                                                  turns *t) {
    float position = (float)c.positions[row];
    for (int i = threadIdx.x; i < c.dim / 2; i += blockDim.x) {
        float2 p = turn(__fmul_rn(position, c.inv_freq[i]));
        int at = i % piece<T>::count * c.lanes + i / piece<T>::count;
        t->cosine[at] = round_to<T>(__fmul_rn(p.x, c.factor));
        t->sine[at] = c.direction * round_to<T>(__fmul_rn(p.y, c.factor));
    }
    __syncthreads();
}

/* What one lane holds of a head: elements [first, first + count) of the lower half and of the
 * upper; `live` where there are any. */
typedef struct place {
    int slot, slots; /* this group and their number in the block */
    int lane, lanes; /* within the group */
    int first;       /* within the half */
    int half;
} place;

template <typename T> static __device__ __forceinline__ place place_of(const rope_call<T> &c) {
    place p;
    p.slot = (int)threadIdx.x / c.lanes, p.slots = (int)blockDim.x / c.lanes;
    p.lane = (int)threadIdx.x % c.lanes, p.lanes = c.lanes;
    p.first = p.lane * piece<T>::count;
    p.half = c.dim / 2;
    return p;
}

template <typename T> struct pair { piece<T> low, high; };

/* The lane's two pieces of head `head` of a row; zeros where it has none. */
template <typename T>
static __device__ __forceinline__ pair<T> pair_load(const matrix<T> &m, int64_t row, int head,
                                                    const place &p, bool live) {
    int64_t col = (int64_t)head * 2 * p.half + p.first, end = col - p.first + p.half;
    pair<T> both;
    both.low = piece_load(m, row, col, live ? end : 0);
    both.high = piece_load(m, row, col + p.half, live ? end + p.half : 0);
    return both;
}
template <typename T>
static __device__ __forceinline__ void pair_widen(const pair<T> &both, float *low,
                                                  float *high) {
    piece_widen(both.low, low);
    piece_widen(both.high, high);
}
/* Stores g, or adds it in f32 to what stands there. g is used up. */
template <typename T>
static __device__ __forceinline__ void piece_put(const matrix<T> &m, bool add, int64_t row,
                                                 int64_t col, int64_t end, float *g) {
    if (add) {
        float old[piece<T>::count];
        piece_widen(piece_load(m, row, col, end), old);
        UNROLL
        for (int i = 0; i < piece<T>::count; i++) g[i] += old[i];
    }
    piece_store(m, row, col, end, piece_narrow<T>(g));
}
template <typename T>
static __device__ __forceinline__ void pair_store(const rope_call<T> &c, int64_t row, int head,
                                                  const place &p, float *low, float *high) {
    int64_t col = (int64_t)head * 2 * p.half + p.first, end = col - p.first + p.half;
    piece_put(c.to, c.add, row, col, end, low);
    piece_put(c.to, c.add, row, col + p.half, end + p.half, high);
}

template <typename T>
static __device__ __forceinline__ void rotate(const turns *t, const place &p, float *low,
                                              float *high) {
    UNROLL
    for (int i = 0; i < piece<T>::count; i++) {
        int at = p.first + i < p.half ? i * p.lanes + p.lane : 0;
        float a = low[i], b = high[i], cosine = t->cosine[at], sine = t->sine[at];
        low[i] = a * cosine - b * sine;
        high[i] = b * cosine + a * sine;
    }
}

/* ---- without norms: forward, and backward with the direction reversed ---- */

template <typename T>
static __global__ void __launch_bounds__(THREADS) rope_plain(rope_call<T> c) {
    SHARED(shared);
    const turns *t = (turns *)shared;
    const int64_t row = blockIdx.x;
    const place p = place_of(c);
    make_turns(c, row, (turns *)shared);
    for (int head = p.slot; head < c.turned && p.first < p.half; head += p.slots) {
        float low[piece<T>::count], high[piece<T>::count];
        pair_widen(pair_load(c.from, row, head, p, true), low, high);
        if (head < c.heads + c.kv_heads) rotate<T>(t, p, low, high);
        pair_store(c, row, head, p, low, high);
    }
}

/* ---- with norms ---- */

/* Sum over the lanes of a head. All lanes of the warp come here. */
static __device__ __forceinline__ float group_sum(float x, int lanes) {
    for (int d = lanes / 2; d; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

/* The weight of the head's norm; its `at` is NULL where the head has none. */
template <typename T>
static __device__ __forceinline__ matrix<T> norm_of(const rope_call<T> &c, int head) {
    matrix<T> none = {NULL, 0, false};
    return head < c.heads ? c.q_norm : head < c.heads + c.kv_heads ? c.k_norm : none;
}

/* x = C(C(x * rstd) * w), OP_RMSNORM's roundings */
template <typename T>
static __device__ __forceinline__ void normalize(float *x, float rstd, const piece<T> &w) {
    float weight[piece<T>::count];
    piece_widen(w, weight);
    UNROLL
    for (int i = 0; i < piece<T>::count; i++) x[i] *= rstd;
    piece_widen(piece_narrow<T>(x), x);
    UNROLL
    for (int i = 0; i < piece<T>::count; i++) x[i] *= weight[i];
    piece_widen(piece_narrow<T>(x), x);
}

template <typename T>
static __global__ void __launch_bounds__(THREADS) rope_norm_forward(rope_call<T> c) {
    SHARED(shared);
    const turns *t = (turns *)shared;
    const int64_t row = blockIdx.x;
    const place p = place_of(c);
    make_turns(c, row, (turns *)shared);
    for (int first = 0; first < c.turned; first += p.slots) {
        int head = first + p.slot;
        bool live = head < c.turned && p.first < p.half, turning = head < c.heads + c.kv_heads;
        float low[piece<T>::count], high[piece<T>::count], squares = 0;
        matrix<T> w = norm_of(c, head);
        pair<T> weight = pair_load(w, 0, 0, p, live && w.at);
        pair_widen(pair_load(c.from, row, head, p, live), low, high);
        UNROLL
        for (int i = 0; i < piece<T>::count; i++) squares += low[i] * low[i];
        UNROLL
        for (int i = 0; i < piece<T>::count; i++) squares += high[i] * high[i];
        float mean = group_sum(squares, c.lanes) / (float)c.dim;
        float rstd = w.at ? __fdiv_rn(1.0f, __fsqrt_rn(mean + c.eps)) : 0;
        if (!live) continue;
        if (turning && p.first == 0) c.rstd[row * c.rstd_stride + head] = rstd;
        if (w.at) {
            normalize(low, rstd, weight.low);
            normalize(high, rstd, weight.high);
        }
        if (turning) rotate<T>(t, p, low, high);
        pair_store(c, row, head, p, low, high);
    }
}

/* Sums of the query (0) and key (1) weights' gradients at this lane's elements. */
template <typename T> struct weight_sums {
    float low[2][piece<T>::count], high[2][piece<T>::count];
};

/* The gradient of the normalized head becomes the head's; that of the weight (`which`: 0 the
 * queries', 1 the keys', 2 none) is added to sums. */
template <typename T>
static __device__ __forceinline__ void
denormalize(const rope_call<T> &c, int which, float rstd, const pair<T> &x,
            const pair<T> &weight, float *low, float *high, weight_sums<T> *sums) {
    const int count = piece<T>::count;
    float a[count], b[count], n[count], w[count], dot = 0;
    pair_widen(x, a, b);
    UNROLL
    for (int i = 0; i < count; i++) a[i] *= rstd, b[i] *= rstd;
    piece_widen(piece_narrow<T>(a), n);
    UNROLL
    for (int i = 0; i < count; i++) {
        sums->low[0][i] += which == 0 ? low[i] * n[i] : 0;
        sums->low[1][i] += which == 1 ? low[i] * n[i] : 0;
    }
    piece_widen(piece_narrow<T>(b), n);
    UNROLL
    for (int i = 0; i < count; i++) {
        sums->high[0][i] += which == 0 ? high[i] * n[i] : 0;
        sums->high[1][i] += which == 1 ? high[i] * n[i] : 0;
    }
    float v[count];
    pair_widen(weight, w, v);
    UNROLL
    for (int i = 0; i < count; i++) {
        dot += low[i] * w[i] * a[i];
        dot += high[i] * v[i] * b[i];
    }
    float mean = group_sum(dot, c.lanes) / (float)c.dim;
    UNROLL
    for (int i = 0; i < count && which < 2; i++) {
        low[i] = rstd * (low[i] * w[i] - a[i] * mean);
        high[i] = rstd * (high[i] * v[i] - b[i] * mean);
    }
}

/* parts[which * dim + element] = the block's sums over its groups, in order. `space`:
 * sums_bytes. */
template <typename T>
static __device__ __forceinline__ void store_sums(const rope_call<T> &c, const place &p,
                                                  const weight_sums<T> &sums, float *space,
                                                  float *parts) {
    const int count = piece<T>::count, row = (int)blockDim.x + SUMS_APART;
    UNROLL
    for (int which = 0; which < 2; which++) {
        __syncthreads();
        UNROLL
        for (int i = 0; i < count; i++) { /* [half * count + i][thread] */
            space[i * row + (int)threadIdx.x] = sums.low[which][i];
            space[(count + i) * row + (int)threadIdx.x] = sums.high[which][i];
        }
        __syncthreads();
        for (int e = threadIdx.x; e < c.dim; e += blockDim.x) {
            int upper = e >= p.half, at = e - upper * p.half;
            const float *column = space + (upper * count + at % count) * row + at / count;
            float sum = 0;
            for (int slot = 0; slot < p.slots; slot++) sum += column[slot * c.lanes];
            parts[which * c.dim + e] = sum;
        }
    }
}
static int64_t sums_bytes(int threads, int elements) {
    return 2 * elements * (threads + SUMS_APART) * (int64_t)sizeof(float);
}

/* The rows of part blockIdx.x of gridDim.x. parts [gridDim.x][2][dim], or NULL. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    rope_norm_backward(rope_call<T> c, float *parts) {
    SHARED(shared);
    const turns *t = (turns *)shared;
    const place p = place_of(c);
    const int count = piece<T>::count;
    weight_sums<T> sums = {};
    int64_t last = c.rows * (blockIdx.x + 1) / gridDim.x;
    for (int64_t row = c.rows * blockIdx.x / gridDim.x; row < last; row++) {
        make_turns(c, row, (turns *)shared);
        for (int first = 0; first < c.turned; first += p.slots) {
            int head = first + p.slot;
            bool live = head < c.turned && p.first < p.half;
            float low[count], high[count];
            matrix<T> w = norm_of(c, head);
            pair<T> weight = pair_load(w, 0, 0, p, live && w.at);
            pair<T> x = pair_load(c.x, row, head, p, live && w.at);
            pair_widen(pair_load(c.from, row, head, p, live), low, high);
            float rstd = live && w.at ? c.rstd[row * c.rstd_stride + head] : 0;
            if (head < c.heads + c.kv_heads) rotate<T>(t, p, low, high);
            denormalize(c, !w.at ? 2 : head >= c.heads, rstd, x, weight, low, high, &sums);
            if (live && c.to.at) pair_store(c, row, head, p, low, high);
        }
        __syncthreads(); /* before the next row's turns */
    }
    if (parts)
        store_sums(c, p, sums, (float *)shared, parts + (int64_t)blockIdx.x * 2 * c.dim);
}

/* ---- doors ---- */

static status check(const op_call *call) {
    int dim = call->attr->rope.head_dim;
    if (dim < 2 || dim > HEAD_MOST || dim % 2)
        return status_fail(STATUS_INTERNAL,
                           "rope: head size %d is not an even number up to %d", dim,
                           HEAD_MOST);
    return STATUS_OK;
}

/* Lanes of a head's group, and threads of a block that has so many groups. */
static int lanes_for(int dim, int elements) {
    int lanes = 1;
    while (lanes * elements < dim / 2) lanes *= 2;
    return lanes;
}
static int threads_for(int heads, int lanes) {
    return (int)min_i64(round_up_i64((int64_t)heads * lanes, WARP), THREADS);
}

/* Pieces of 16 bytes apply where halves of heads are made of whole ones. */
template <typename T> static matrix<T> heads_of(const op_call *call, const tensor *t) {
    matrix<T> m = matrix_of<T>(t);
    m.wide = m.wide && call->attr->rope.head_dim / 2 % piece<T>::count == 0;
    return m;
}

template <typename T>
static rope_call<T> call_of(const op_call *call, const tensor *from, const tensor *to) {
    const op_attr *attr = call->attr;
    rope_call<T> c = {};
    c.from = heads_of<T>(call, from), c.to = heads_of<T>(call, to);
    c.q_norm = heads_of<T>(call, &call->in[ROPE_Q_NORM]);
    c.k_norm = heads_of<T>(call, &call->in[ROPE_K_NORM]);
    c.positions = (const int32_t *)call->in[ROPE_POSITIONS].data;
    c.inv_freq = (const float *)call->in[ROPE_INV_FREQ].data;
    c.rstd = (float *)call->out[ROPE_RSTD].data, c.rstd_stride = call->out[ROPE_RSTD].stride;
    c.rows = call->rows;
    c.heads = attr->rope.heads, c.kv_heads = attr->rope.kv_heads, c.dim = attr->rope.head_dim;
    c.turned = c.heads + c.kv_heads * (from->data == to->data ? 1 : 2);
    c.eps = attr->rope.eps, c.factor = attr->rope.factor, c.direction = 1;
    c.lanes = lanes_for(c.dim, piece<T>::count);
    return c;
}

template <typename T> static status forward(backend *b, const op_call *call) {
    rope_call<T> c = call_of<T>(call, &call->in[ROPE_X], &call->out[ROPE_Y]);
    int threads = threads_for(c.turned, c.lanes);
    if (c.rstd)
        LAUNCH(rope_norm_forward<T>, (unsigned)c.rows, threads, sizeof(turns), cuda_stream(b),
               c);
    else
        LAUNCH(rope_plain<T>, (unsigned)c.rows, threads, sizeof(turns), cuda_stream(b), c);
    return CUDA_LAUNCHED(b, "rope");
}

/* Where a weight gets a gradient, parts are few and have many rows; else a part is a row. */
template <typename T>
static status norm_backward(backend *b, const op_call *call, rope_call<T> c) {
    float *dq = (float *)call->gin[ROPE_Q_NORM].data;
    float *dk = (float *)call->gin[ROPE_K_NORM].data;
    float *parts = dq || dk ? (float *)call->scratch : NULL;
    int threads = threads_for(c.turned, c.lanes);
    int64_t count = parts ? min_i64(c.rows, ROPE_SPLITS) : c.rows;
    int64_t sums = sums_bytes(threads, piece<T>::count);
    LAUNCH(rope_norm_backward<T>, (unsigned)count, threads,
           max_i64((int64_t)sizeof(turns), sums), cuda_stream(b), c, parts);
    TRY(CUDA_LAUNCHED(b, "rope backward"));
    TRY(cuda_fold_parts(b, parts, count, 2 * c.dim, c.dim, dq));
    return cuda_fold_parts(b, parts + c.dim, count, 2 * c.dim, c.dim, dk);
}

template <typename T> static status backward(backend *b, const op_call *call) {
    rope_call<T> c = call_of<T>(call, &call->gout[ROPE_Y], &call->gin[ROPE_X]);
    c.x = heads_of<T>(call, &call->in[ROPE_X]);
    c.direction = -1, c.add = call->add >> ROPE_X & 1;
    if (!c.to.at) c.turned = c.heads + c.kv_heads;
    if (c.rstd) return norm_backward<T>(b, call, c);
    if (!c.to.at) return STATUS_OK;
    LAUNCH(rope_plain<T>, (unsigned)c.rows, threads_for(c.turned, c.lanes), sizeof(turns),
           cuda_stream(b), c);
    return CUDA_LAUNCHED(b, "rope backward");
}

status cuda_rope_forward(backend *b, const op_call *call) {
    static const by_type run = {forward<float>, forward<bf16>, forward<f16>};
    TRY(check(call));
    return call->rows ? run[call->compute](b, call) : STATUS_OK;
}

status cuda_rope_backward(backend *b, const op_call *call) {
    static const by_type run = {backward<float>, backward<bf16>, backward<f16>};
    TRY(check(call));
    return call->rows ? run[call->compute](b, call) : STATUS_OK;
}
