/* reference_rope.c: per-head norm and rotation in fp64, and the cases. The rotation is written
 * as a complex product, its angle in f32 as the contract says. */
#include "op_test.h"

#include <complex.h>
#include <math.h>
#include <stdlib.h>

typedef struct place {
    int64_t row;
    int head, dim, heads, turning; /* heads below `turning` turn; the others are values */
    int norm;                      /* input with this head's norm weight, 0: none */
} place;

static place place_of(const ref_call *r, int64_t i) {
    int heads = r->call->attr->rope.heads, kv = r->call->attr->rope.kv_heads;
    place p = {i / (heads + 2 * kv),
               (int)(i % (heads + 2 * kv)),
               r->call->attr->rope.head_dim,
               heads,
               heads + kv,
               0};
    int norm = p.head < heads ? ROPE_Q_NORM : ROPE_K_NORM;
    if (p.head < p.turning && r->in[norm].x) p.norm = norm;
    return p;
}

static int64_t places(const ref_call *r) {
    return r->in[ROPE_X].rows * (r->in[ROPE_X].cols / r->call->attr->rope.head_dim);
}

/* The unit vector by which pair i turns. */
static double complex turn(const ref_call *r, const place *p, int i) {
    if (p->head >= p->turning) return 1;
    float angle = (float)r->in[ROPE_POSITIONS].x[p->row] * (float)r->in[ROPE_INV_FREQ].x[i];
    double factor = r->call->attr->rope.factor;
    return CMPLX(ref_round(r, ref_round_to(r, DTYPE_F32, cos(angle)) * factor),
                 ref_round(r, ref_round_to(r, DTYPE_F32, sin(angle)) * factor));
}

static double rstd_of(const ref_call *r, const place *p, const double *x) {
    double squares = 0;
    for (int i = 0; i < p->dim; i++) squares += x[i] * x[i];
    return 1 / sqrt(squares / p->dim + (double)r->call->attr->rope.eps);
}

static void forward(ref_call *r) {
    for (int64_t at = 0; at < places(r); at++) {
        place p = place_of(r, at);
        const double *x = r->in[ROPE_X].x + at * p.dim, *w = p.norm ? r->in[p.norm].x : NULL;
        double *y = r->out[ROPE_Y].x + at * p.dim, rstd = w ? rstd_of(r, &p, x) : 0;
        if (r->out[ROPE_RSTD].x && p.head < p.turning)
            r->out[ROPE_RSTD].x[p.row * p.turning + p.head] = rstd;
        for (int i = 0; i < p.dim; i++)
            y[i] = w ? ref_round(r, ref_round(r, x[i] * rstd) * w[i]) : x[i];
        for (int i = 0; i < p.dim / 2; i++) {
            double complex z = CMPLX(y[i], y[i + p.dim / 2]) * turn(r, &p, i);
            y[i] = ref_round(r, creal(z)), y[i + p.dim / 2] = ref_round(r, cimag(z));
        }
    }
}

static void backward(ref_call *r) {
    for (int64_t at = 0; at < places(r); at++) {
        place p = place_of(r, at);
        const double *x = r->in[ROPE_X].x + at * p.dim, *dy = r->gout[ROPE_Y].x + at * p.dim;
        double g[256], dot = 0;
        for (int i = 0; i < p.dim / 2; i++) {
            double complex z = CMPLX(dy[i], dy[i + p.dim / 2]) * conj(turn(r, &p, i));
            g[i] = creal(z), g[i + p.dim / 2] = cimag(z);
        }
        double rstd = p.norm ? rstd_of(r, &p, x) : 0, *dw = p.norm ? r->gin[p.norm].x : NULL;
        for (int i = 0; p.norm && i < p.dim; i++) {
            if (dw) dw[i] += g[i] * ref_round(r, x[i] * rstd);
            g[i] *= r->in[p.norm].x[i];
            dot += g[i] * x[i] * rstd;
        }
        for (int i = 0; r->gin[ROPE_X].x && i < p.dim; i++)
            r->gin[ROPE_X].x[at * p.dim + i] +=
                p.norm ? rstd * (g[i] - x[i] * rstd * dot / p.dim) : g[i];
    }
}

typedef struct sizes {
    int heads, kv_heads, dim;
    int64_t rows;
} sizes;

static void run_case(const op_suite *suite, const char *name, sizes s, float factor,
                     uint32_t norms, uint32_t gradients, bool windows) {
    int32_t positions[200];
    float inv_freq[128];
    for (int64_t i = 0; i < s.rows; i++) /* two documents, and a far position */
        positions[i] = i == s.rows - 1 ? 131071 : (int32_t)(i % (s.rows / 2 + 1));
    for (int i = 0; i < s.dim / 2; i++)
        inv_freq[i] = powf(10000, -2.0f * (float)i / (float)s.dim);
    tensor_format batch =
        format_of(TYPE_C, s.rows, (int64_t)(s.heads + 2 * s.kv_heads) * s.dim);
    op_case c = {
        .name = name,
        .attr.rope = {s.heads, s.kv_heads, s.dim, 1e-6f, factor},
        .rows = s.rows,
        .in = {[ROPE_X] = batch,
               [ROPE_POSITIONS] = format_of(DTYPE_I32, s.rows, 1),
               [ROPE_INV_FREQ] = format_of(DTYPE_F32, 1, s.dim / 2)},
        .out = {[ROPE_Y] = batch},
        .ints = {[ROPE_POSITIONS] = positions},
        .values = {[ROPE_INV_FREQ] = inv_freq},
        .windows = windows,
        .gradients = gradients,
        .parameters = 1u << ROPE_Q_NORM | 1u << ROPE_K_NORM,
        .gouts = 1u << ROPE_Y,
        .no_op_in_place = norms ? 3 : 0,
    };
    if (norms) c.out[ROPE_RSTD] = format_of(DTYPE_F32, s.rows, s.heads + s.kv_heads);
    if (norms & 1u << ROPE_Q_NORM) c.in[ROPE_Q_NORM] = format_of(TYPE_C, 1, s.dim);
    if (norms & 1u << ROPE_K_NORM) c.in[ROPE_K_NORM] = format_of(TYPE_C, 1, s.dim);
    op_test(suite, &c);
}

static void run(const op_suite *suite) {
    uint32_t x = 1u << ROPE_X, q = 1u << ROPE_Q_NORM, k = 1u << ROPE_K_NORM;
    run_case(suite, "plain", (sizes){4, 2, 16, 65}, 1, 0, x, false);
    run_case(suite, "scaled, windows", (sizes){3, 1, 8, 20}, 1.2f, 0, x, true);
    run_case(suite, "odd half", (sizes){2, 2, 10, 9}, 1, 0, x, false);
    run_case(suite, "norms", (sizes){4, 2, 64, 33}, 1, q | k, x | q | k, false);
    run_case(suite, "norms, frozen", (sizes){2, 1, 128, 17}, 1, q | k, x, true);
    run_case(suite, "one norm, weights only", (sizes){4, 4, 20, 40}, 1, q, q, false);
    run_case(suite, "large heads", (sizes){1, 1, 256, 5}, 1, q | k, x | k, false);
}

const op_suite suite_rope = {OP_ROPE, forward, backward, NULL, run};
