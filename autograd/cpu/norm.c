/* norm.c: RMSNorm over rows, with the residual's sum in front of it.
 *
 * Rounding points are Hugging Face's (NUMERICS 3): the sum rounds to C, statistics are f32,
 * the normalized value rounds to C before the multiply by the weight. The weight's gradient is
 * summed in double over ROW_SPLITS fixed parts of the rows, then over the parts in order. Not
 * here: the per-head norm of queries and keys, which is part of rope.c. */
#include "autograd/cpu/rows.h"

#include <math.h>
#include <string.h>

SIMD_INLINE void norm_squares_body(const float *x, int64_t n, float *lanes) {
    int64_t i = 0;
    for (; i + ROW_LANES <= n; i += ROW_LANES)
        for (int j = 0; j < ROW_LANES; j++) lanes[j] += x[i + j] * x[i + j];
    for (int j = 0; i + j < n; j++) lanes[j] += x[i + j] * x[i + j];
}
SIMD_TWICE(norm_squares, (const float *x, int64_t n, float *lanes), (x, n, lanes))

/* lanes += dy * w * s */
SIMD_INLINE void norm_products_body(const float *dy, const float *w, const float *s, int64_t n,
                                    float *lanes) {
    int64_t i = 0;
    for (; i + ROW_LANES <= n; i += ROW_LANES)
        for (int j = 0; j < ROW_LANES; j++) lanes[j] += dy[i + j] * w[i + j] * s[i + j];
    for (int j = 0; i + j < n; j++) lanes[j] += dy[i + j] * w[i + j] * s[i + j];
}
SIMD_TWICE(norm_products,
           (const float *dy, const float *w, const float *s, int64_t n, float *lanes),
           (dy, w, s, n, lanes))

/* dx = dsum + rstd * (dy * w - s * rstd * mean) */
SIMD_INLINE void norm_gradient_body(const float *dy, const float *w, const float *s,
                                    float rstd, float mean, const float *dsum, float *dx,
                                    int64_t n) {
    EACH_APART
    for (int64_t i = 0; i < n; i++)
        dx[i] = dsum[i] + rstd * (dy[i] * w[i] - s[i] * rstd * mean);
}
SIMD_TWICE(norm_gradient,
           (const float *dy, const float *w, const float *s, float rstd, float mean,
            const float *dsum, float *dx, int64_t n),
           (dy, w, s, rstd, mean, dsum, dx, n))

/* y = x * by, y *= w, sum = a + b; what is written may be what is read */
SIMD_INLINE void norm_scale_body(const float *x, float by, float *y, int64_t n) {
    EACH_APART
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * by;
}
SIMD_TWICE(norm_scale, (const float *x, float by, float *y, int64_t n), (x, by, y, n))
SIMD_INLINE void norm_weigh_body(float *restrict y, const float *restrict w, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] *= w[i];
}
SIMD_TWICE(norm_weigh, (float *y, const float *w, int64_t n), (y, w, n))
SIMD_INLINE void norm_add_body(const float *a, const float *b, float *sum, int64_t n) {
    EACH_APART
    for (int64_t i = 0; i < n; i++) sum[i] = a[i] + b[i];
}
SIMD_TWICE(norm_add, (const float *a, const float *b, float *sum, int64_t n), (a, b, sum, n))

static float lanes_sum(const float *lanes) {
    double sum = 0;
    for (int j = 0; j < ROW_LANES; j++) sum += lanes[j];
    return (float)sum;
}

static void forward_row(const op_call *call, int64_t row) {
    const tensor *x = &call->in[RMSNORM_X], *residual = &call->in[RMSNORM_RESIDUAL];
    const tensor *sum = &call->out[RMSNORM_SUM], *y = &call->out[RMSNORM_Y];
    const tensor *s = residual->data ? sum : x;
    int64_t cols = x->cols;
    float first[ROW_PIECE], second[ROW_PIECE], third[ROW_PIECE], lanes[ROW_LANES] = {0};
    for (int64_t c = 0; c < cols; c += ROW_PIECE) {
        int64_t n = min_i64(ROW_PIECE, cols - c);
        const float *a = cpu_view(x, row, c, n, first);
        if (residual->data) {
            float *both = cpu_place(sum, row, c, third);
            norm_add(a, cpu_view(residual, row, c, n, second), both, n);
            cpu_round(call->compute, both, n);
            cpu_settle(sum, row, c, n, both);
            a = both;
        }
        norm_squares(a, n, lanes);
    }
    float mean = lanes_sum(lanes) / (float)cols;
    float rstd = 1.0f / sqrtf(mean + call->attr->rmsnorm.eps);
    *(float *)cpu_at(&call->out[RMSNORM_RSTD], row, 0) = rstd;
    for (int64_t c = 0; c < cols; c += ROW_PIECE) {
        int64_t n = min_i64(ROW_PIECE, cols - c);
        float *out = cpu_place(y, row, c, third);
        norm_scale(cpu_view(s, row, c, n, first), rstd, out, n);
        cpu_round(call->compute, out, n);
        norm_weigh(out, cpu_view(&call->in[RMSNORM_W], 0, c, n, second), n);
        cpu_settle(y, row, c, n, out);
    }
}

status cpu_rmsnorm_forward(backend *b, const op_call *call) {
    PARALLEL_FOR(b)
    for (int64_t row = 0; row < call->rows; row++) forward_row(call, row);
    return STATUS_OK;
}

static void backward_row(const op_call *call, int64_t row, double *dw) {
    const tensor *sum = &call->out[RMSNORM_SUM], *dsum = &call->gout[RMSNORM_SUM];
    const tensor *s = sum->data ? sum : &call->in[RMSNORM_X];
    const tensor *dy = &call->gout[RMSNORM_Y];
    float rstd = *(float *)cpu_at(&call->out[RMSNORM_RSTD], row, 0);
    int64_t cols = s->cols;
    static const float nothing[ROW_PIECE];
    float first[ROW_PIECE], second[ROW_PIECE], third[ROW_PIECE], fourth[ROW_PIECE];
    float lanes[ROW_LANES] = {0};
    for (int64_t c = 0; dy->data && c < cols; c += ROW_PIECE) {
        int64_t n = min_i64(ROW_PIECE, cols - c);
        const float *a = cpu_view(s, row, c, n, first), *g = cpu_view(dy, row, c, n, third);
        norm_products(g, cpu_view(&call->in[RMSNORM_W], 0, c, n, second), a, n, lanes);
        if (!dw) continue;
        norm_scale(a, rstd, first, n);
        cpu_round(call->compute, first, n);
        for (int64_t i = 0; i < n; i++) dw[c + i] += (double)g[i] * first[i];
    }
    float mean = lanes_sum(lanes) * rstd / (float)cols;
    bool dx = call->gin[RMSNORM_X].data, dresidual = call->gin[RMSNORM_RESIDUAL].data;
    if (call->gin[RMSNORM_X].data == call->gin[RMSNORM_RESIDUAL].data) dresidual = false;
    for (int64_t c = 0; (dx || dresidual) && c < cols; c += ROW_PIECE) {
        int64_t n = min_i64(ROW_PIECE, cols - c);
        const float *a = cpu_view(s, row, c, n, first);
        const float *w = cpu_view(&call->in[RMSNORM_W], 0, c, n, second);
        const float *g = dy->data ? cpu_view(dy, row, c, n, third) : nothing;
        const float *d = dsum->data ? cpu_view(dsum, row, c, n, fourth) : nothing;
        float space[ROW_PIECE], copy[ROW_PIECE];
        float *out = dx ? row_target(call, RMSNORM_X, row, c, space) : space;
        norm_gradient(g, w, a, rstd, mean, d, out, n);
        if (dresidual) memcpy(copy, out, (size_t)n * sizeof *copy);
        if (dx) row_gradient(call, RMSNORM_X, row, c, n, out);
        if (dresidual) row_gradient(call, RMSNORM_RESIDUAL, row, c, n, copy);
    }
}

status cpu_rmsnorm_backward(backend *b, const op_call *call) {
    int64_t cols = call->in[RMSNORM_W].cols;
    float *dw = call->gin[RMSNORM_W].data;
    double *parts =
        dw && call->gout[RMSNORM_Y].data ? call->scratch : NULL; /* [ROW_SPLITS][cols] */
    PARALLEL_FOR(b)
    for (int part = 0; part < ROW_SPLITS; part++) {
        double *sum = parts ? parts + part * cols : NULL;
        if (sum) memset(sum, 0, (size_t)cols * sizeof *sum);
        int64_t last = row_split(call->rows, part + 1);
        for (int64_t row = row_split(call->rows, part); row < last; row++)
            backward_row(call, row, sum);
    }
    for (int64_t c = 0; parts && c < cols; c++) {
        double sum = 0;
        for (int part = 0; part < ROW_SPLITS; part++) sum += parts[part * cols + c];
        dw[c] += (float)sum;
    }
    return STATUS_OK;
}

int64_t cpu_rmsnorm_scratch(backend *b, const op_shape *shape) {
    if (!shape->backward || !(shape->gradients >> RMSNORM_W & 1)) return 0;
    return ROW_SPLITS * shape->in[RMSNORM_W].cols * (int64_t)sizeof(double);
}
