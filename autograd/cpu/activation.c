/* activation.c: the gated activations of the feed-forward block, and the plain sum.
 *
 * silu(x) = x s(x) and gelu_tanh(x) = x s(2 u(x)), u = sqrt(2/pi) (x + 0.044715 x^3), since
 * (1 + tanh u) / 2 = s(2u) with s the logistic function. The activation rounds to C before the
 * multiply by `up` (NUMERICS 3); derivatives are computed in f32 and rounded once. */
#include "autograd/cpu/rows.h"
#include "autograd/cpu/vector.h"

#include <string.h>

static const float GELU_A = 1.5957691216f; /* 2 sqrt(2/pi) */
static const float GELU_B = 0.0713548163f; /* GELU_A * 0.044715 */

/* s and x with which act(x) = x * logistic(s); *slope = ds/dx. */
SIMD_INLINE float gate_argument(activation act, float x, float *slope) {
    *slope = act == ACT_SILU ? 1.0f : GELU_A + 3.0f * GELU_B * x * x;
    return act == ACT_SILU ? x : x * (GELU_A + GELU_B * x * x);
}
SIMD_INLINE float logistic(float x) {
    return 1.0f / (1.0f + vector_exp(-x));
}

/* `act` is a constant where these are inlined, so that the loops have no branch and vectorize.
 */
SIMD_INLINE void activate_all(activation act, const float *restrict x, float *restrict y,
                              int64_t n) {
    float slope;
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * logistic(gate_argument(act, x[i], &slope));
}
SIMD_INLINE void derive_all(activation act, const float *restrict gate,
                            const float *restrict up, const float *restrict d,
                            float *restrict dgate, float *restrict value, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float x = gate[i], slope;
        float s = logistic(gate_argument(act, x, &slope));
        value[i] = x * s;
        dgate[i] = up[i] * d[i] * (s + x * slope * (s * (1.0f - s)));
    }
}

SIMD_INLINE void glu_activate_body(activation act, const float *x, float *y, int64_t n) {
    if (act == ACT_SILU)
        activate_all(ACT_SILU, x, y, n);
    else
        activate_all(ACT_GELU_TANH, x, y, n);
}
SIMD_TWICE(glu_activate, (activation act, const float *x, float *y, int64_t n), (act, x, y, n))

/* From gate, up and dy: gate's gradient, and the activation in `value`. */
SIMD_INLINE void glu_derive_body(activation act, const float *gate, const float *up,
                                 const float *d, float *dgate, float *value, int64_t n) {
    if (act == ACT_SILU)
        derive_all(ACT_SILU, gate, up, d, dgate, value, n);
    else
        derive_all(ACT_GELU_TANH, gate, up, d, dgate, value, n);
}
SIMD_TWICE(glu_derive,
           (activation act, const float *gate, const float *up, const float *d, float *dgate,
            float *value, int64_t n),
           (act, gate, up, d, dgate, value, n))

/* x *= by */
SIMD_INLINE void glu_multiply_body(float *restrict x, const float *restrict by, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] *= by[i];
}
SIMD_TWICE(glu_multiply, (float *x, const float *by, int64_t n), (x, by, n))

/* y = a + b; y may be a or b. */
SIMD_INLINE void add_all_body(const float *a, const float *b, float *y, int64_t n) {
    EACH_APART
    for (int64_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}
SIMD_TWICE(add_all, (const float *a, const float *b, float *y, int64_t n), (a, b, y, n))

/* Of n pieces of a call, piece i: its row and columns. */
typedef struct piece {
    int64_t row, col, n;
} piece;

static int64_t piece_count(int64_t rows, int64_t cols) {
    return rows * ((cols + ROW_PIECE - 1) / ROW_PIECE);
}
static piece piece_at(int64_t i, int64_t cols) {
    int64_t per_row = (cols + ROW_PIECE - 1) / ROW_PIECE, col = i % per_row * ROW_PIECE;
    return (piece){i / per_row, col, min_i64(ROW_PIECE, cols - col)};
}

static void glu_forward(const op_call *call, piece p) {
    const tensor *x = &call->in[0], *y = &call->out[0];
    float gates[ROW_PIECE], ups[ROW_PIECE], outs[ROW_PIECE];
    const float *gate = cpu_view(x, p.row, p.col, p.n, gates);
    const float *up = cpu_view(x, p.row, p.col + y->cols, p.n, ups);
    float *out = cpu_place(y, p.row, p.col, outs);
    glu_activate(call->attr->glu.act, gate, out, p.n);
    cpu_round(call->compute, out, p.n);
    glu_multiply(out, up, p.n);
    cpu_settle(y, p.row, p.col, p.n, out);
}

status cpu_glu_forward(backend *b, const op_call *call) {
    int64_t cols = call->out[0].cols, count = piece_count(call->rows, cols);
    PARALLEL_FOR(b)
    for (int64_t i = 0; i < count; i++) glu_forward(call, piece_at(i, cols));
    return STATUS_OK;
}

static void glu_backward(const op_call *call, piece p) {
    const tensor *x = &call->in[0], *dy = &call->gout[0];
    float gates[ROW_PIECE], ups[ROW_PIECE], ds[ROW_PIECE], first[ROW_PIECE], second[ROW_PIECE];
    const float *gate = cpu_view(x, p.row, p.col, p.n, gates);
    const float *up = cpu_view(x, p.row, p.col + dy->cols, p.n, ups);
    const float *d = cpu_view(dy, p.row, p.col, p.n, ds);
    float *dgate = row_target(call, 0, p.row, p.col, first);
    float *value = row_target(call, 0, p.row, p.col + dy->cols, second);
    glu_derive(call->attr->glu.act, gate, up, d, dgate, value, p.n);
    cpu_round(call->compute, value, p.n);
    glu_multiply(value, d, p.n);
    row_gradient(call, 0, p.row, p.col, p.n, dgate);
    row_gradient(call, 0, p.row, p.col + dy->cols, p.n, value);
}

status cpu_glu_backward(backend *b, const op_call *call) {
    if (!call->gin[0].data) return STATUS_OK;
    int64_t cols = call->gout[0].cols, count = piece_count(call->rows, cols);
    PARALLEL_FOR(b)
    for (int64_t i = 0; i < count; i++) glu_backward(call, piece_at(i, cols));
    return STATUS_OK;
}

status cpu_add_forward(backend *b, const op_call *call) {
    int64_t cols = call->out[0].cols, count = piece_count(call->rows, cols);
    PARALLEL_FOR(b)
    for (int64_t i = 0; i < count; i++) {
        piece p = piece_at(i, cols);
        float first[ROW_PIECE], second[ROW_PIECE], sum[ROW_PIECE];
        float *y = cpu_place(&call->out[0], p.row, p.col, sum);
        add_all(cpu_view(&call->in[0], p.row, p.col, p.n, first),
                cpu_view(&call->in[1], p.row, p.col, p.n, second), y, p.n);
        cpu_settle(&call->out[0], p.row, p.col, p.n, y);
    }
    return STATUS_OK;
}

static void add_gradient(const op_call *call, int input, piece p) {
    float ds[ROW_PIECE], space[ROW_PIECE];
    const float *d = cpu_view(&call->gout[0], p.row, p.col, p.n, ds);
    float *g = row_target(call, input, p.row, p.col, space);
    if (g != d) memcpy(g, d, (size_t)p.n * sizeof *g);
    row_gradient(call, input, p.row, p.col, p.n, g);
}

status cpu_add_backward(backend *b, const op_call *call) {
    int64_t cols = call->gout[0].cols, count = piece_count(call->rows, cols);
    PARALLEL_FOR(b)
    for (int64_t i = 0; i < count; i++) {
        piece p = piece_at(i, cols);
        bool second = call->gin[1].data && call->gin[1].data != call->gin[0].data;
        if (second) add_gradient(call, 1, p); /* the first may take dy's place */
        if (call->gin[0].data) add_gradient(call, 0, p);
    }
    return STATUS_OK;
}
