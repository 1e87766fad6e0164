/* reference_norm.c: RMSNorm in fp64 with operation.h's roundings, and its cases. */
#include "op_test.h"

#include <math.h>

/* The normalized input: x, or the sum. */
static ref_tensor stream(const ref_call *r) {
    return r->in[RMSNORM_RESIDUAL].x ? r->out[RMSNORM_SUM] : r->in[RMSNORM_X];
}

static void forward(ref_call *r) {
    const ref_tensor *x = &r->in[RMSNORM_X], *residual = &r->in[RMSNORM_RESIDUAL];
    for (int64_t e = 0; residual->x && e < x->rows * x->cols; e++)
        r->out[RMSNORM_SUM].x[e] = ref_round(r, x->x[e] + residual->x[e]);
    for (int64_t row = 0; row < x->rows; row++) {
        const double *s = stream(r).x + row * x->cols;
        double squares = 0;
        for (int64_t c = 0; c < x->cols; c++) squares += s[c] * s[c];
        double rstd = 1 / sqrt(squares / (double)x->cols + (double)r->call->attr->rmsnorm.eps);
        r->out[RMSNORM_RSTD].x[row] = rstd;
        for (int64_t c = 0; c < x->cols; c++)
            r->out[RMSNORM_Y].x[row * x->cols + c] =
                ref_round(r, ref_round(r, s[c] * rstd) * r->in[RMSNORM_W].x[c]);
    }
}

static void backward(ref_call *r) {
    int64_t rows = r->in[RMSNORM_X].rows, cols = r->in[RMSNORM_X].cols;
    for (int64_t row = 0; row < rows; row++) {
        const double *s = stream(r).x + row * cols, *dy = r->gout[RMSNORM_Y].x + row * cols;
        const double *dsum = r->gout[RMSNORM_SUM].x;
        double rstd = r->out[RMSNORM_RSTD].x[row], dot = 0;
        for (int64_t c = 0; c < cols; c++) dot += dy[c] * r->in[RMSNORM_W].x[c] * s[c] * rstd;
        for (int64_t c = 0; c < cols; c++) {
            double d = dy[c] * r->in[RMSNORM_W].x[c] - s[c] * rstd * dot / (double)cols;
            double dx = rstd * d + (dsum ? dsum[row * cols + c] : 0);
            if (r->gin[RMSNORM_X].x) r->gin[RMSNORM_X].x[row * cols + c] += dx;
            if (r->gin[RMSNORM_RESIDUAL].x) r->gin[RMSNORM_RESIDUAL].x[row * cols + c] += dx;
            if (r->gin[RMSNORM_W].x)
                r->gin[RMSNORM_W].x[c] += dy[c] * ref_round(r, s[c] * rstd);
        }
    }
}

static void run_case(const op_suite *suite, const char *name, int64_t rows, int64_t cols,
                     bool residual, bool windows, uint32_t gradients) {
    tensor_format batch = format_of(TYPE_C, rows, cols);
    op_case c = {
        .name = name,
        .attr.rmsnorm.eps = 1e-5f,
        .rows = rows,
        .in = {[RMSNORM_X] = batch, [RMSNORM_W] = format_of(TYPE_C, 1, cols)},
        .out = {[RMSNORM_Y] = batch, [RMSNORM_RSTD] = format_of(DTYPE_F32, rows, 1)},
        .spread = {[RMSNORM_X] = 2},
        .windows = windows,
        .gradients = gradients,
        .parameters = 1u << RMSNORM_W,
        .gouts = 1u << RMSNORM_Y,
    };
    if (residual) {
        c.in[RMSNORM_RESIDUAL] = c.out[RMSNORM_SUM] = batch;
        c.gouts |= 1u << RMSNORM_SUM;
    }
    op_test(suite, &c);
}

static void run(const op_suite *suite) {
    uint32_t x = 1u << RMSNORM_X, residual = 1u << RMSNORM_RESIDUAL, w = 1u << RMSNORM_W;
    run_case(suite, "plain", 67, 64, false, false, x | w);
    run_case(suite, "residual", 67, 172, true, false, x | residual | w);
    run_case(suite, "several pieces, frozen weight", 5, 1331, true, false, x);
    run_case(suite, "weight only", 33, 48, false, false, w);
    run_case(suite, "one row, windows", 1, 16, true, false, x | residual);
    run_case(suite, "windows", 9, 80, true, true, x | residual | w);
}

const op_suite suite_rmsnorm = {OP_RMSNORM, forward, backward, NULL, run};
