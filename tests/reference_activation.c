/* reference_activation.c: gated activations and the plain sum in fp64, and their cases. */
#include "op_test.h"

#include <math.h>

static double logistic(double x) {
    return 1 / (1 + exp(-x));
}

/* act(x) as its definition says, and act'(x). */
static double activate(const op_call *call, double x, double *slope) {
    if (call->attr->glu.act == ACT_SILU) {
        double s = logistic(x);
        *slope = s * (1 + x * (1 - s));
        return x * s;
    }
    double k = sqrt(2 / acos(-1)), t = tanh(k * (x + 0.044715 * x * x * x));
    *slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x);
    return 0.5 * x * (1 + t);
}

static void glu_forward(ref_call *r) {
    int64_t rows = r->out[0].rows, cols = r->out[0].cols;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < cols; c++) {
            const double *x = r->in[0].x + row * 2 * cols;
            double slope, act = ref_round(r, activate(r->call, x[c], &slope));
            r->out[0].x[row * cols + c] = ref_round(r, act * x[c + cols]);
        }
}

static void glu_backward(ref_call *r) {
    int64_t rows = r->out[0].rows, cols = r->out[0].cols;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < cols; c++) {
            const double *x = r->in[0].x + row * 2 * cols;
            double *g = r->gin[0].x + row * 2 * cols, dy = r->gout[0].x[row * cols + c], slope;
            double act = ref_round(r, activate(r->call, x[c], &slope));
            g[c] += dy * x[c + cols] * slope;
            g[c + cols] += dy * act;
        }
}

static void glu_case(const op_suite *suite, const char *name, activation act, int64_t rows,
                     int64_t cols, float spread, bool windows) {
    op_case c = {
        .name = name,
        .attr.glu.act = act,
        .rows = rows,
        .in = {format_of(TYPE_C, rows, 2 * cols)},
        .out = {format_of(TYPE_C, rows, cols)},
        .spread = {spread},
        .windows = windows,
        .gradients = 1,
        .gouts = 1,
        .k_backward = 8 * (spread > 4 ? spread : 4), /* x times 1 - s, s near 1 */
    };
    op_test(suite, &c);
}

static void glu_run(const op_suite *suite) {
    glu_case(suite, "silu", ACT_SILU, 65, 172, 2, false);
    glu_case(suite, "silu, several pieces", ACT_SILU, 3, 1100, 2, false);
    glu_case(suite, "silu, far out", ACT_SILU, 4, 64, 22, true);
    glu_case(suite, "gelu", ACT_GELU_TANH, 65, 96, 2, false);
    glu_case(suite, "gelu, far out, one row", ACT_GELU_TANH, 1, 530, 20, false);
}

static void add_forward(ref_call *r) {
    for (int64_t e = 0; e < r->out[0].rows * r->out[0].cols; e++)
        r->out[0].x[e] = ref_round(r, r->in[0].x[e] + r->in[1].x[e]);
}

static void add_backward(ref_call *r) {
    for (int64_t e = 0; e < r->out[0].rows * r->out[0].cols; e++)
        for (int i = 0; i < 2; i++)
            if (r->gin[i].x) r->gin[i].x[e] += r->gout[0].x[e];
}

static void add_case(const op_suite *suite, const char *name, int64_t rows, int64_t cols,
                     uint32_t gradients, bool windows) {
    tensor_format batch = format_of(TYPE_C, rows, cols);
    op_case c = {
        .name = name,
        .rows = rows,
        .in = {batch, batch},
        .out = {batch},
        .windows = windows,
        .gradients = gradients,
        .gouts = 1,
        .no_op_in_place = gradients & 1 ? 0 : 2,
    };
    op_test(suite, &c);
}

static void add_run(const op_suite *suite) {
    add_case(suite, "both", 65, 172, 3, false);
    add_case(suite, "second only, several pieces", 3, 1100, 2, false);
    add_case(suite, "windows", 7, 40, 3, true);
}

const op_suite suite_glu = {OP_GLU, glu_forward, glu_backward, NULL, glu_run};
const op_suite suite_add = {OP_ADD, add_forward, add_backward, NULL, add_run};
