/* activation.cu: the gated activations of the feed-forward block, and the plain sum: OP_GLU,
 * OP_ADD. A thread makes one piece of 16 bytes of each result.
 *
 * Formulas and roundings are autograd/cpu/activation.c's: silu(x) = x s(x) and gelu_tanh(x) =
 * x s(2 u(x)) with s the logistic function; the activation rounds to C before the multiply by
 * `up`. The division is the fast one: two ulp, and 0 where e^-x is beyond 2^126. */
#include "autograd/cuda/rows.h"

#define GELU_A 1.5957691216f /* 2 sqrt(2/pi) */
#define GELU_B 0.0713548163f /* GELU_A * 0.044715 */

/* act(x) = x * logistic(s); *slope = ds/dx */
static __device__ __forceinline__ float gate_argument(activation act, float x, float *slope) {
    *slope = act == ACT_SILU ? 1.0f : GELU_A + 3.0f * GELU_B * x * x;
    return act == ACT_SILU ? x : x * (GELU_A + GELU_B * x * x);
}
static __device__ __forceinline__ float logistic(float x) {
    return __fdividef(1.0f, 1.0f + expf(-x));
}

/* ---- OP_GLU ---- */

template <typename T> struct glu_call {
    matrix<T> gate, up, y;    /* [rows, F] each; the first two side by side */
    matrix<T> dy, dgate, dup; /* backward */
    bool add;                 /* to dgate and dup */
    activation act;
    int64_t cols, per_row; /* F; blocks of a row */
};

template <typename T, int n>
static __global__ void __launch_bounds__(ROW_THREADS) glu_forward(glu_call<T> c) {
    row_place at = row_place_of(c.per_row, n);
    float gate[n], up[n], slope;
    pack<T, n> first = pack_load<n>(c.gate, at.row, at.col, c.cols);
    pack<T, n> second = pack_load<n>(c.up, at.row, at.col, c.cols);
    pack_widen(first, gate);
    pack_widen(second, up);
    UNROLL
    for (int i = 0; i < n; i++) gate[i] *= logistic(gate_argument(c.act, gate[i], &slope));
    pack_round_all<T, n>(gate);
    UNROLL
    for (int i = 0; i < n; i++) gate[i] *= up[i];
    pack_store(c.y, at.row, at.col, c.cols, pack_narrow<T, n>(gate));
}

template <typename T, int n>
static __global__ void __launch_bounds__(ROW_THREADS) glu_backward(glu_call<T> c) {
    row_place at = row_place_of(c.per_row, n);
    float gate[n], up[n], d[n];
    pack<T, n> first = pack_load<n>(c.gate, at.row, at.col, c.cols);
    pack<T, n> second = pack_load<n>(c.up, at.row, at.col, c.cols);
    pack<T, n> third = pack_load<n>(c.dy, at.row, at.col, c.cols);
    pack_widen(first, gate);
    pack_widen(second, up);
    pack_widen(third, d);
    UNROLL
    for (int i = 0; i < n; i++) { /* up becomes dgate, gate the activation */
        float x = gate[i], slope, s = logistic(gate_argument(c.act, x, &slope));
        up[i] = up[i] * d[i] * (s + x * slope * (s * (1.0f - s)));
        gate[i] = x * s;
    }
    pack_round_all<T, n>(gate);
    UNROLL
    for (int i = 0; i < n; i++) gate[i] *= d[i];
    pack_gradient<n>(c.dgate, c.add, at.row, at.col, c.cols, up);
    pack_gradient<n>(c.dup, c.add, at.row, at.col, c.cols, gate);
}

template <typename T> static bool is_wide(const glu_call<T> &c) {
    return c.gate.wide && c.up.wide && c.y.wide && c.dy.wide && c.dgate.wide && c.dup.wide &&
           whole_pieces<T>(c.cols);
}

template <typename T, int n>
static void launch_glu_forward(backend *b, int64_t rows, glu_call<T> c) {
    row_grid g = row_grid_of(rows, c.cols, n);
    c.per_row = g.per_row;
    LAUNCH((glu_forward<T, n>), (unsigned)g.blocks, g.threads, 0, cuda_stream(b), c);
}

template <typename T, int n>
static void launch_glu_backward(backend *b, int64_t rows, glu_call<T> c) {
    row_grid g = row_grid_of(rows, c.cols, n);
    c.per_row = g.per_row;
    LAUNCH((glu_backward<T, n>), (unsigned)g.blocks, g.threads, 0, cuda_stream(b), c);
}

/* The two halves of [rows, 2F]. */
template <typename T>
static void halves_of(const tensor *t, int64_t cols, matrix<T> *gate, matrix<T> *up) {
    tensor first = tensor_columns(t, 0, cols), second = tensor_columns(t, cols, cols);
    *gate = matrix_of<T>(&first);
    *up = matrix_of<T>(&second);
}

template <typename T> static status glu_run_forward(backend *b, const op_call *call) {
    glu_call<T> c = {};
    c.act = call->attr->glu.act, c.cols = call->out[0].cols;
    halves_of(&call->in[0], c.cols, &c.gate, &c.up);
    c.y = matrix_of<T>(&call->out[0]);
    is_wide(c) ? launch_glu_forward<T, piece<T>::count>(b, call->rows, c)
               : launch_glu_forward<T, 1>(b, call->rows, c);
    return CUDA_LAUNCHED(b, "glu");
}

template <typename T> static status glu_run_backward(backend *b, const op_call *call) {
    glu_call<T> c = {};
    c.act = call->attr->glu.act, c.cols = call->gout[0].cols, c.add = call->add & 1;
    halves_of(&call->in[0], c.cols, &c.gate, &c.up);
    halves_of(&call->gin[0], c.cols, &c.dgate, &c.dup);
    c.dy = matrix_of<T>(&call->gout[0]);
    is_wide(c) ? launch_glu_backward<T, piece<T>::count>(b, call->rows, c)
               : launch_glu_backward<T, 1>(b, call->rows, c);
    return CUDA_LAUNCHED(b, "glu backward");
}

status cuda_glu_forward(backend *b, const op_call *call) {
    static const by_type run = {glu_run_forward<float>, glu_run_forward<bf16>,
                                glu_run_forward<f16>};
    return call->rows ? run[call->compute](b, call) : STATUS_OK;
}

status cuda_glu_backward(backend *b, const op_call *call) {
    static const by_type run = {glu_run_backward<float>, glu_run_backward<bf16>,
                                glu_run_backward<f16>};
    return call->rows && call->gin[0].data ? run[call->compute](b, call) : STATUS_OK;
}

/* ---- OP_ADD ---- */

template <typename T> struct add_call {
    matrix<T> a, b, y;
    matrix<T> dy, da, db; /* backward */
    bool add_da, add_db;
    int64_t cols, per_row;
};

template <typename T, int n>
static __global__ void __launch_bounds__(ROW_THREADS) add_forward(add_call<T> c) {
    row_place at = row_place_of(c.per_row, n);
    float x[n], y[n];
    pack<T, n> first = pack_load<n>(c.a, at.row, at.col, c.cols);
    pack<T, n> second = pack_load<n>(c.b, at.row, at.col, c.cols);
    pack_widen(first, x);
    pack_widen(second, y);
    UNROLL
    for (int i = 0; i < n; i++) x[i] += y[i];
    pack_store(c.y, at.row, at.col, c.cols, pack_narrow<T, n>(x));
}

/* One of the two may take dy's place: it is read before either is stored. */
template <typename T, int n>
static __global__ void __launch_bounds__(ROW_THREADS) add_backward(add_call<T> c) {
    row_place at = row_place_of(c.per_row, n);
    float g[n], copy[n];
    pack_widen(pack_load<n>(c.dy, at.row, at.col, c.cols), g);
    UNROLL
    for (int i = 0; i < n; i++) copy[i] = g[i];
    if (c.da.at) pack_gradient<n>(c.da, c.add_da, at.row, at.col, c.cols, g);
    if (c.db.at) pack_gradient<n>(c.db, c.add_db, at.row, at.col, c.cols, copy);
}

template <typename T> static bool is_wide(const add_call<T> &c) {
    return c.a.wide && c.b.wide && c.y.wide && c.dy.wide && c.da.wide && c.db.wide &&
           whole_pieces<T>(c.cols);
}

template <typename T, int n>
static void launch_add_forward(backend *b, int64_t rows, add_call<T> c) {
    row_grid g = row_grid_of(rows, c.cols, n);
    c.per_row = g.per_row;
    LAUNCH((add_forward<T, n>), (unsigned)g.blocks, g.threads, 0, cuda_stream(b), c);
}

template <typename T, int n>
static void launch_add_backward(backend *b, int64_t rows, add_call<T> c) {
    row_grid g = row_grid_of(rows, c.cols, n);
    c.per_row = g.per_row;
    LAUNCH((add_backward<T, n>), (unsigned)g.blocks, g.threads, 0, cuda_stream(b), c);
}

template <typename T> static status add_run_forward(backend *b, const op_call *call) {
    add_call<T> c = {};
    c.a = matrix_of<T>(&call->in[0]), c.b = matrix_of<T>(&call->in[1]);
    c.y = matrix_of<T>(&call->out[0]), c.cols = call->out[0].cols;
    is_wide(c) ? launch_add_forward<T, piece<T>::count>(b, call->rows, c)
               : launch_add_forward<T, 1>(b, call->rows, c);
    return CUDA_LAUNCHED(b, "add");
}

/* A gradient that stands in dy's place and is not added to is there already. */
template <typename T> static status add_run_backward(backend *b, const op_call *call) {
    add_call<T> c = {};
    c.dy = matrix_of<T>(&call->gout[0]), c.cols = call->gout[0].cols;
    c.da = matrix_of<T>(&call->gin[0]), c.db = matrix_of<T>(&call->gin[1]);
    c.add_da = call->add & 1, c.add_db = call->add >> 1 & 1;
    if (c.db.at == c.da.at) c.db.at = NULL;
    if (c.da.at == c.dy.at && !c.add_da) c.da.at = NULL;
    if (!c.da.at && !c.db.at) return STATUS_OK;
    is_wide(c) ? launch_add_backward<T, piece<T>::count>(b, call->rows, c)
               : launch_add_backward<T, 1>(b, call->rows, c);
    return CUDA_LAUNCHED(b, "add backward");
}

status cuda_add_forward(backend *b, const op_call *call) {
    static const by_type run = {add_run_forward<float>, add_run_forward<bf16>,
                                add_run_forward<f16>};
    return call->rows ? run[call->compute](b, call) : STATUS_OK;
}

status cuda_add_backward(backend *b, const op_call *call) {
    static const by_type run = {add_run_backward<float>, add_run_backward<bf16>,
                                add_run_backward<f16>};
    return call->rows ? run[call->compute](b, call) : STATUS_OK;
}
