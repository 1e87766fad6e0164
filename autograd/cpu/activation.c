/* activation.c: the gated activations of the feed-forward block, and the plain sum.
 *
 * silu(x) = x s(x) and gelu_tanh(x) = x s(2 u(x)), u = sqrt(2/pi) (x + 0.044715 x^3), since
 * (1 + tanh u) / 2 = s(2u) with s the logistic function. The activation rounds to C before the
 * multiply by `up` (NUMERICS 3); derivatives are computed in f32 and rounded once. */
#include "autograd/cpu/rows.h"
#include "autograd/cpu/vector.h"

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
SIMD_INLINE void activate_all(activation act, float *restrict x, int64_t n) {
    float slope;
    for (int64_t i = 0; i < n; i++) x[i] *= logistic(gate_argument(act, x[i], &slope));
}
SIMD_INLINE void derive_all(activation act, float *restrict gate, const float *restrict dact,
                            float *restrict value, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float x = gate[i], slope;
        float s = logistic(gate_argument(act, x, &slope));
        value[i] = x * s;
        gate[i] = dact[i] * (s + x * slope * (s * (1.0f - s)));
    }
}

SIMD_INLINE void glu_activate_body(activation act, float *x, int64_t n) {
    if (act == ACT_SILU)
        activate_all(ACT_SILU, x, n);
    else
        activate_all(ACT_GELU_TANH, x, n);
}
SIMD_TWICE(glu_activate, (activation act, float *x, int64_t n), (act, x, n))

/* From gate and dy * up: gate's gradient in `gate`, the activation in `value`. */
SIMD_INLINE void glu_derive_body(activation act, float *gate, const float *dact, float *value,
                                 int64_t n) {
    if (act == ACT_SILU)
        derive_all(ACT_SILU, gate, dact, value, n);
    else
        derive_all(ACT_GELU_TANH, gate, dact, value, n);
}
SIMD_TWICE(glu_derive,
           (activation act, float *gate, const float *dact, float *value, int64_t n),
           (act, gate, dact, value, n))

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
    float gate[ROW_PIECE], up[ROW_PIECE];
    cpu_load(x, p.row, p.col, p.n, gate);
    cpu_load(x, p.row, p.col + y->cols, p.n, up);
    glu_activate(call->attr->glu.act, gate, p.n);
    cpu_round(call->compute, gate, p.n);
    for (int64_t i = 0; i < p.n; i++) gate[i] *= up[i];
    cpu_store(y, p.row, p.col, p.n, gate);
}

status cpu_glu_forward(backend *b, const op_call *call) {
    int64_t cols = call->out[0].cols, count = piece_count(call->rows, cols);
    PARALLEL_FOR(b)
    for (int64_t i = 0; i < count; i++) glu_forward(call, piece_at(i, cols));
    return STATUS_OK;
}

static void glu_backward(const op_call *call, piece p) {
    const tensor *x = &call->in[0], *dy = &call->gout[0];
    float gate[ROW_PIECE], up[ROW_PIECE], d[ROW_PIECE], value[ROW_PIECE];
    cpu_load(x, p.row, p.col, p.n, gate);
    cpu_load(x, p.row, p.col + dy->cols, p.n, up);
    cpu_load(dy, p.row, p.col, p.n, d);
    for (int64_t i = 0; i < p.n; i++) up[i] *= d[i];
    glu_derive(call->attr->glu.act, gate, up, value, p.n);
    cpu_round(call->compute, value, p.n);
    for (int64_t i = 0; i < p.n; i++) value[i] *= d[i];
    row_gradient(call, 0, p.row, p.col, p.n, gate);
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
        float x[ROW_PIECE], y[ROW_PIECE];
        cpu_load(&call->in[0], p.row, p.col, p.n, x);
        cpu_load(&call->in[1], p.row, p.col, p.n, y);
        for (int64_t j = 0; j < p.n; j++) x[j] += y[j];
        cpu_store(&call->out[0], p.row, p.col, p.n, x);
    }
    return STATUS_OK;
}

status cpu_add_backward(backend *b, const op_call *call) {
    int64_t cols = call->gout[0].cols, count = piece_count(call->rows, cols);
    PARALLEL_FOR(b)
    for (int64_t i = 0; i < count; i++) {
        piece p = piece_at(i, cols);
        float d[ROW_PIECE], copy[ROW_PIECE];
        cpu_load(&call->gout[0], p.row, p.col, p.n, d);
        for (int64_t j = 0; j < p.n; j++) copy[j] = d[j];
        if (call->gin[0].data) row_gradient(call, 0, p.row, p.col, p.n, d);
        if (call->gin[1].data && call->gin[1].data != call->gin[0].data)
            row_gradient(call, 1, p.row, p.col, p.n, copy);
    }
    return STATUS_OK;
}
