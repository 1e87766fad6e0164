/* rope.c: rotary position embedding of queries and keys, with the optional RMSNorm of each
 * head.
 *
 * A row holds heads of D elements: A of queries, K of keys, K of values. Pairs (i, i + D/2) of
 * a query or key head turn by position * inv_freq[i]. The angle is an f32 product as in
 * Hugging Face's models; its cosine and sine are computed in double, so they are the nearest
 * f32 but for ties and the same on every processor. The rotated pair is computed in f32 and
 * rounded once. */
#include "autograd/cpu/rows.h"

#include <math.h>
#include <string.h>

typedef struct rope_shape {
    int heads, kv_heads, dim;
} rope_shape;

static rope_shape shape_of(const op_attr *attr) {
    return (rope_shape){attr->rope.heads, attr->rope.kv_heads, attr->rope.head_dim};
}

static status check(const op_call *call) {
    rope_shape s = shape_of(call->attr);
    if (s.dim < 2 || s.dim > HEAD_DIM_MAX || s.dim % 2)
        return status_fail(STATUS_INTERNAL,
                           "rope: head size %d is not an even number up to %d", s.dim,
                           HEAD_DIM_MAX);
    return STATUS_OK;
}

/* Cosine and sine of n angles: quarter turns are taken off in double with pi/2 in two parts
 * (exact to 1e-10 at an angle of a million), the rest by Taylor polynomials, whose error below
 * pi/4 is 4e-13. Then times `factor` in f32. */
SIMD_INLINE void rope_turns_body(const float *inv_freq, float position, float factor,
                                 float *restrict cosine, float *restrict sine, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double a = (double)(position * inv_freq[i]);
        double t = a * 0.63661977236758134308 + 0x1.8p52;
        double k = t - 0x1.8p52;
        double x = a - k * 0x1.921fb544p+0 - k * 0x1.0b4611a626331p-34;
        double z = x * x;
        double s =
            x + x * z *
                    (-1.0 / 6 +
                     z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880 +
                                                              z * (-1.0 / 39916800 +
                                                                   z * (1.0 / 6227020800))))));
        double c =
            1 + z * (-0.5 +
                     z * (1.0 / 24 +
                          z * (-1.0 / 720 + z * (1.0 / 40320 + z * (-1.0 / 3628800 +
                                                                    z * (1.0 / 479001600))))));
        double half = k * 0.5, even = half + 0x1.8p52 - 0x1.8p52; /* k mod 4 by its halves */
        bool odd = half != even;
        double quarter = (k - (odd ? 1.0 : 0.0)) * 0.25;
        bool two = quarter + 0x1.8p52 - 0x1.8p52 != quarter;
        double cos_k = odd ? -s : c, sin_k = odd ? c : s;
        cosine[i] = (float)(two ? -cos_k : cos_k) * factor;
        sine[i] = (float)(two ? -sin_k : sin_k) * factor;
    }
}
SIMD_TWICE(rope_turns,
           (const float *inv_freq, float position, float factor, float *cosine, float *sine,
            int64_t n),
           (inv_freq, position, factor, cosine, sine, n))

/* A row's cosines and sines, rounded to C. */
typedef struct turns {
    float cosine[HEAD_DIM_MAX / 2], sine[HEAD_DIM_MAX / 2];
} turns;

static void turns_of_row(const op_call *call, int64_t row, turns *t) {
    int64_t half = call->attr->rope.head_dim / 2;
    int32_t position = *(int32_t *)cpu_at(&call->in[ROPE_POSITIONS], row, 0);
    const float *inv_freq = call->in[ROPE_INV_FREQ].data;
    rope_turns(inv_freq, (float)position, call->attr->rope.factor, t->cosine, t->sine, half);
    cpu_round(call->compute, t->cosine, half);
    cpu_round(call->compute, t->sine, half);
}

/* Turns one head forward (direction 1) or back (-1). */
static void rotate(const turns *t, float direction, float *x, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        float c = t->cosine[i], s = direction * t->sine[i], a = x[i], b = x[i + half];
        x[i] = a * c - b * s;
        x[i + half] = b * c + a * s;
    }
}

/* The norm weight of head `head` of a row, NULL if it has none. */
static const tensor *norm_of(const op_call *call, int head) {
    rope_shape s = shape_of(call->attr);
    if (head >= s.heads + s.kv_heads) return NULL;
    const tensor *w = &call->in[head < s.heads ? ROPE_Q_NORM : ROPE_K_NORM];
    return w->data ? w : NULL;
}

static float *rstd_at(const op_call *call, int64_t row, int head) {
    return cpu_at(&call->out[ROPE_RSTD], row, head);
}

static float sum_of_products(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return (float)sum;
}

/* x = C(C(x * rstd) * w), OP_RMSNORM's roundings */
static void normalize(const op_call *call, const tensor *w, int64_t row, int head, float *x) {
    int64_t dim = call->attr->rope.head_dim;
    float mean = sum_of_products(x, x, dim) / (float)dim, weight[HEAD_DIM_MAX];
    float rstd = 1.0f / sqrtf(mean + call->attr->rope.eps);
    *rstd_at(call, row, head) = rstd;
    cpu_load(w, 0, 0, dim, weight);
    for (int64_t i = 0; i < dim; i++) x[i] *= rstd;
    cpu_round(call->compute, x, dim);
    for (int64_t i = 0; i < dim; i++) x[i] *= weight[i];
    cpu_round(call->compute, x, dim);
}

static void forward_row(const op_call *call, int64_t row) {
    rope_shape s = shape_of(call->attr);
    const tensor *x = &call->in[ROPE_X], *y = &call->out[ROPE_Y];
    int turning = s.heads + s.kv_heads;
    turns t;
    turns_of_row(call, row, &t);
    for (int head = 0; head < turning + s.kv_heads; head++) {
        float h[HEAD_DIM_MAX];
        if (head >= turning && x->data == y->data) break; /* values stay where they are */
        cpu_load(x, row, (int64_t)head * s.dim, s.dim, h);
        const tensor *w = norm_of(call, head);
        if (w) normalize(call, w, row, head, h);
        if (head < turning) rotate(&t, 1, h, s.dim / 2);
        cpu_store(y, row, (int64_t)head * s.dim, s.dim, h);
    }
    if (!call->out[ROPE_RSTD].data) return;
    for (int head = 0; head < turning;
         head++) /* of a head without a norm: finite, never read */
        if (!norm_of(call, head)) *rstd_at(call, row, head) = 0;
}

status cpu_rope_forward(backend *b, const op_call *call) {
    TRY(check(call));
    PARALLEL_FOR(b)
    for (int64_t row = 0; row < call->rows; row++) forward_row(call, row);
    return STATUS_OK;
}

/* From g = d(normalized head): the gradient of the head in g, of the weight added to dw [dim].
 */
static void denormalize(const op_call *call, const tensor *w, int64_t row, int head, float *g,
                        double *dw) {
    int64_t dim = call->attr->rope.head_dim;
    float rstd = *rstd_at(call, row, head), x[HEAD_DIM_MAX], weight[HEAD_DIM_MAX];
    float n[HEAD_DIM_MAX];
    cpu_load(&call->in[ROPE_X], row, head * dim, dim, x);
    cpu_load(w, 0, 0, dim, weight);
    for (int64_t i = 0; i < dim; i++) n[i] = x[i] *= rstd;
    cpu_round(call->compute, n, dim);
    for (int64_t i = 0; dw && i < dim; i++) dw[i] += (double)g[i] * n[i];
    for (int64_t i = 0; i < dim; i++) g[i] *= weight[i];
    float mean = sum_of_products(g, x, dim) / (float)dim;
    for (int64_t i = 0; i < dim; i++) g[i] = rstd * (g[i] - x[i] * mean);
}

/* dw: [2][dim] sums of the query and key weights' gradients, or NULL. */
static void backward_row(const op_call *call, int64_t row, double *dw) {
    rope_shape s = shape_of(call->attr);
    const tensor *dy = &call->gout[ROPE_Y], *dx = &call->gin[ROPE_X];
    int turning = s.heads + s.kv_heads;
    turns t;
    turns_of_row(call, row, &t);
    for (int head = 0; head < turning + s.kv_heads; head++) {
        float g[HEAD_DIM_MAX];
        if (head >= turning && (!dx->data || dx->data == dy->data)) break;
        cpu_load(dy, row, (int64_t)head * s.dim, s.dim, g);
        if (head < turning) rotate(&t, -1, g, s.dim / 2);
        const tensor *w = norm_of(call, head);
        if (w) denormalize(call, w, row, head, g, dw ? dw + (head >= s.heads) * s.dim : NULL);
        if (dx->data) row_gradient(call, ROPE_X, row, (int64_t)head * s.dim, s.dim, g);
    }
}

status cpu_rope_backward(backend *b, const op_call *call) {
    TRY(check(call));
    int64_t dim = call->attr->rope.head_dim;
    float *dq = call->gin[ROPE_Q_NORM].data, *dk = call->gin[ROPE_K_NORM].data;
    double *parts = dq || dk ? call->scratch : NULL; /* [ROW_SPLITS][2][dim] */
    PARALLEL_FOR(b)
    for (int part = 0; part < ROW_SPLITS; part++) {
        double *sum = parts ? parts + part * 2 * dim : NULL;
        if (sum) memset(sum, 0, (size_t)(2 * dim) * sizeof *sum);
        int64_t last = row_split(call->rows, part + 1);
        for (int64_t row = row_split(call->rows, part); row < last; row++)
            backward_row(call, row, sum);
    }
    for (int64_t c = 0; parts && c < 2 * dim; c++) {
        float *dw = c < dim ? dq : dk;
        double sum = 0;
        for (int part = 0; part < ROW_SPLITS; part++) sum += parts[part * 2 * dim + c];
        if (dw) dw[c % dim] += (float)sum;
    }
    return STATUS_OK;
}

int64_t cpu_rope_scratch(backend *b, const op_shape *shape) {
    bool wanted = shape->gradients & (1u << ROPE_Q_NORM | 1u << ROPE_K_NORM);
    if (!shape->backward || !wanted) return 0;
    return ROW_SPLITS * 2 * shape->attr->rope.head_dim * (int64_t)sizeof(double);
}
