/* linear_few.cu: OP_LINEAR forward on few rows, as in generation, straight from 4-bit codes.
 *
 * Bound by reading W once. A warp makes a few outputs of every row: a lane takes 32 codes of an
 * output's row at a time, 16 bytes of one scale, neighbours side by side, and meets them, rounded
 * to C as a decoded W is, with x of all rows. The adapter's and the bias's terms join the same
 * f32 sum, and y is rounded once. The order of sums is a function of the shape. */
#include "autograd/cuda/fourbit.h"
#include "autograd/cuda/linear.h"

enum {
    RUN = 32, /* codes of a lane at a time; a scale's block holds whole runs */
    MOST = 8, /* rows */
    WARPS = FOURBIT_THREADS / WARP,
};

/* Outputs of a warp: what registers hold of R rows. */
template <int R> struct few_shape { static const int outs = R <= 4 ? 4 : 2; };

/* A part of the stack as the kernel sees it. */
typedef struct few_part {
    fourbit w;
    int64_t first; /* of its outputs in the stack */
    int outs, rank;
    const float *u;         /* [rows, rank] */
    const void *b, *offset; /* B [outs, rank], bias or NULL */
} few_part;

typedef struct few_stack {
    few_part part[LINEAR_PARTS];
    int block[LINEAR_PARTS + 1]; /* where each part's blocks begin */
    int parts, in, rows;
} few_stack;

/* x's elements [col, col + count) of row r as f32; zeros where there is no such row. */
template <typename T>
static __device__ __forceinline__ void load_x(const few_stack &s, const matrix<T> &x, int r,
                                              int col, float *to) {
    piece<T> p;
    p.bits = r < s.rows ? *(const uint4 *)(x.at + r * x.stride + col) : make_uint4(0, 0, 0, 0);
    piece_widen(p, to);
}

/* One run of some rows of W meets x. */
template <typename T, int R>
static __device__ __forceinline__ void
meet(const few_stack &s, const matrix<T> &x, int col, const uint4 codes[few_shape<R>::outs],
     const float scale[few_shape<R>::outs], const tables *t,
     float sum[few_shape<R>::outs][R]) {
    const int OUTS = few_shape<R>::outs;
    const int count = piece<T>::count;
    UNROLL
    for (int p = 0; p < RUN / count; p++) {
        float wide[R][count];
        UNROLL
        for (int r = 0; r < R; r++) load_x<T>(s, x, r, col + p * count, wide[r]);
        UNROLL
        for (int o = 0; o < OUTS; o++) {
            const uint32_t word[4] = {codes[o].x, codes[o].y, codes[o].z, codes[o].w};
            float w[count];
            UNROLL
            for (int i = 0; i < count; i++) {
                int at = p * count + i;
                w[i] = __fmul_rn(t->code[word[at / 8] >> 4 * (at % 8 ^ 1) & 15], scale[o]);
            }
            piece_widen(piece_narrow<T>(w), w); /* as decoded weights are: rounded to C */
            UNROLL
            for (int i = 0; i < count; i++) UNROLL
            for (int r = 0; r < R; r++) sum[o][r] += w[i] * wide[r][i];
        }
    }
}

/* The adapter's terms, a lane for each column of B, and the bias. */
template <typename T, int R>
static __device__ __forceinline__ void add_rest(const few_stack &s, const few_part &q, int out,
                                                int lane, float sum[few_shape<R>::outs][R]) {
    const int OUTS = few_shape<R>::outs;
    UNROLL
    for (int o = 0; o < OUTS; o++) {
        int n = min(out + o, q.outs - 1);
        for (int j = lane; j < q.rank; j += WARP) {
            float b = to_f32<T>(((const T *)q.b)[(int64_t)n * q.rank + j]);
            UNROLL
            for (int r = 0; r < R; r++)
                if (r < s.rows) sum[o][r] += q.u[r * q.rank + j] * b;
        }
        if (lane || !q.offset) continue;
        UNROLL
        for (int r = 0; r < R; r++) sum[o][r] += to_f32<T>(((const T *)q.offset)[n]);
    }
}

template <typename T, int R>
static __global__ void __launch_bounds__(FOURBIT_THREADS)
    few_rows(few_stack s, matrix<T> x, T *y, int64_t y_stride) {
    const int OUTS = few_shape<R>::outs;
    SHARED(shared);
    tables *t = (tables *)shared;
    int k = 0, lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    while ((int)blockIdx.x >= s.block[k + 1]) k++;
    const few_part &q = s.part[k];
    int out = (((int)blockIdx.x - s.block[k]) * WARPS + warp) * OUTS;
    load_tables(q.w, t);
    if (out >= q.outs) return;
    float sum[OUTS][R] = {};
    for (int col = lane * RUN; col < s.in; col += WARP * RUN) {
        uint4 codes[OUTS];
        float scale[OUTS];
        UNROLL
        for (int o = 0; o < OUTS; o++) { /* past the part's end the last one again */
            int64_t at = (int64_t)min(out + o, q.outs - 1) * s.in + col;
            codes[o] = *(const uint4 *)(q.w.codes + at / 2);
            scale[o] = scale_of(q.w, t, at >> q.w.shift);
        }
        meet<T, R>(s, x, col, codes, scale, t, sum);
    }
    add_rest<T, R>(s, q, out, lane, sum);
    UNROLL
    for (int o = 0; o < OUTS; o++) UNROLL
    for (int r = 0; r < R; r++) {
        float whole = warp_sum(sum[o][r]);
        if (lane == 0 && out + o < q.outs && r < s.rows)
            y[r * y_stride + q.first + out + o] = from_f32<T>(whole);
    }
}

/* ---- launching ---- */

bool cuda_linear_is_few(const op_call *c, const linear_size *z) {
    const tensor *x = &c->in[LINEAR_X];
    int64_t size = dtype_bytes(z->type);
    if (z->rows > MOST || z->in % RUN || (uintptr_t)x->data % 16 || x->stride * size % 16)
        return false;
    for (int k = 0; k < z->parts; k++) {
        const tensor *w = &c->in[linear_w(k)];
        bool whole = w->block % RUN == 0 && (w->block & (w->block - 1)) == 0;
        if (!dtype_is_4bit(w->type) || !whole || (uintptr_t)w->data % 16) return false;
    }
    return true;
}

/* `outs`: of a block. */
static few_stack stack_of(const op_call *c, const linear_size *z, float *const u[],
                          int64_t outs) {
    few_stack s = {};
    s.parts = z->parts, s.in = (int)z->in, s.rows = (int)z->rows;
    int64_t first = 0;
    for (int k = 0; k < z->parts; k++) {
        few_part *q = &s.part[k];
        q->w = fourbit_of(&c->in[linear_w(k)]);
        q->first = first;
        q->outs = (int)z->out[k], q->rank = z->rank[k];
        q->u = u[k];
        q->b = c->in[linear_b(k)].data;
        q->offset = c->in[linear_bias(k)].data;
        s.block[k + 1] = s.block[k] + (int)ceil_div(z->out[k], outs);
        first += z->out[k];
    }
    return s;
}

template <typename T, int R>
static void launch(backend *b, const op_call *c, const linear_size *z, float *const u[]) {
    few_stack s = stack_of(c, z, u, WARPS * few_shape<R>::outs);
    LAUNCH((few_rows<T, R>), (unsigned)s.block[s.parts], FOURBIT_THREADS, sizeof(tables),
           cuda_stream(b), s, matrix_of<T>(&c->in[LINEAR_X]), (T *)c->out[0].data,
           c->out[0].stride);
}

template <typename T>
static void launch_any(backend *b, const op_call *c, const linear_size *z, float *const u[]) {
    if (z->rows == 1)
        launch<T, 1>(b, c, z, u);
    else if (z->rows <= 4)
        launch<T, 4>(b, c, z, u);
    else
        launch<T, MOST>(b, c, z, u);
}

status cuda_linear_few(backend *b, const op_call *c, const linear_size *z, float *const u[]) {
    if (z->type == DTYPE_F32)
        launch_any<float>(b, c, z, u);
    else if (z->type == DTYPE_BF16)
        launch_any<bf16>(b, c, z, u);
    else
        launch_any<f16>(b, c, z, u);
    return CUDA_LAUNCHED(b, "a linear on few rows");
}
