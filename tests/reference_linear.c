/* reference_linear.c: OP_LINEAR in fp64: y = x W^T + bias + scale drop(x) A^T B^T per part of
 * a stack, W first rounded to the compute type, y rounded once; and its gradients. */
#include "op_test.h"

#include "common/alloc.h"
#include "common/checked.h"
#include "common/philox.h"

#include <math.h>
#include <string.h>

enum { X_BIT = 1u << LINEAR_X };

/* 1/(1-p) or 0 for element `e` of the input, by Philox as NUMERICS 3 has it. */
static double mask(const op_call *c, int k, int64_t e) {
    double p = c->attr->linear.dropout;
    if (p == 0 || c->micro == UINT64_MAX) return 1;
    philox_stream s = philox_open(c->seed, PHILOX_DROPOUT, (uint32_t)c->attr->linear.module[k],
                                  (uint32_t)c->layer, c->micro);
    return philox_word(&s, (uint64_t)e) >= philox_drop_threshold(p) ? (float)(1 / (1 - p)) : 0;
}

static int64_t stack_width(const op_call *c) {
    int64_t n = 0;
    for (int k = 0; k < c->attr->linear.parts; k++) n += c->attr->linear.out[k];
    return n;
}

/* t [rows, n] = x [rows, m] * w^T, w stored [n, m]. */
static void times_transposed(const double *x, const double *w, int64_t rows, int64_t n,
                             int64_t m, double *t) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < m; l++) sum += x[i * m + l] * w[j * m + l];
            t[i * n + j] = sum;
        }
}

/* One part with everything that both directions need. */
typedef struct part {
    int k;
    int64_t rows, in, out, first, r;
    double scale, *w, *dropped, *u; /* W rounded; drop(x); scale drop(x) A^T */
    const double *a, *b;
} part;

static double *numbers(int64_t n) {
    double *p = mem_alloc((size_t)max_i64(n, 1) * 8, "reference");
    assert_non_null(p);
    return p;
}

static part part_open(const ref_call *r, int k) {
    const op_call *c = r->call;
    part p = {
        .k = k, .rows = c->rows, .in = c->attr->linear.in, .out = c->attr->linear.out[k]};
    for (int i = 0; i < k; i++) p.first += c->attr->linear.out[i];
    p.scale = c->attr->linear.scale[k];
    p.a = r->in[linear_a(k)].x, p.b = r->in[linear_b(k)].x;
    p.r = p.a ? c->attr->linear.rank[k] : 0;
    p.w = numbers(p.out * p.in), p.dropped = numbers(p.rows * p.in),
    p.u = numbers(p.rows * p.r);
    for (int64_t e = 0; e < p.out * p.in; e++) p.w[e] = ref_round(r, r->in[linear_w(k)].x[e]);
    for (int64_t e = 0; e < p.rows * p.in; e++)
        p.dropped[e] = r->in[LINEAR_X].x[e] * mask(c, k, e);
    times_transposed(p.dropped, p.a, p.rows, p.r, p.in, p.u);
    for (int64_t e = 0; e < p.rows * p.r; e++) p.u[e] *= p.scale;
    return p;
}

static void part_close(part *p) {
    mem_free(p->w);
    mem_free(p->dropped);
    mem_free(p->u);
}

static void linear_forward(ref_call *r) {
    int64_t width = stack_width(r->call);
    for (int k = 0; k < r->call->attr->linear.parts; k++) {
        part p = part_open(r, k);
        double *y = numbers(p.rows * p.out), *low = numbers(p.rows * p.out);
        const double *bias = r->in[linear_bias(k)].x;
        times_transposed(r->in[LINEAR_X].x, p.w, p.rows, p.out, p.in, y);
        times_transposed(p.u, p.b, p.rows, p.out, p.r, low);
        for (int64_t i = 0; i < p.rows; i++)
            for (int64_t j = 0; j < p.out; j++)
                r->out[0].x[i * width + p.first + j] =
                    ref_round(r, y[i * p.out + j] + low[i * p.out + j] + (bias ? bias[j] : 0));
        mem_free(y);
        mem_free(low);
        part_close(&p);
    }
}

/* The gradients of part p from dy [rows, out]; dx before any rounding. */
static void part_backward(ref_call *r, const part *p, const double *dy) {
    const double *x = r->in[LINEAR_X].x;
    double *v = numbers(p->rows * p->r), *dx = r->gin[LINEAR_X].x;
    double *dw = r->gin[linear_w(p->k)].x, *dbias = r->gin[linear_bias(p->k)].x;
    double *da = r->gin[linear_a(p->k)].x, *db = r->gin[linear_b(p->k)].x;
    for (int64_t i = 0; i < p->rows; i++)
        for (int64_t j = 0; j < p->out; j++) {
            double d = dy[i * p->out + j];
            if (dbias) dbias[j] += d;
            for (int64_t l = 0; l < p->r; l++) {
                v[i * p->r + l] += p->scale * d * p->b[j * p->r + l];
                if (db) db[j * p->r + l] += d * p->u[i * p->r + l];
            }
            for (int64_t l = 0; l < p->in; l++) {
                if (dx) dx[i * p->in + l] += d * p->w[j * p->in + l];
                if (dw) dw[j * p->in + l] += d * x[i * p->in + l];
            }
        }
    for (int64_t i = 0; i < p->rows; i++)
        for (int64_t j = 0; j < p->r; j++)
            for (int64_t l = 0; l < p->in; l++) {
                double d = v[i * p->r + j];
                if (da) da[j * p->in + l] += d * p->dropped[i * p->in + l];
                if (dx)
                    dx[i * p->in + l] +=
                        d * p->a[j * p->in + l] * mask(r->call, p->k, i * p->in + l);
            }
    mem_free(v);
}

static void linear_backward(ref_call *r) {
    int64_t width = stack_width(r->call);
    for (int k = 0; k < r->call->attr->linear.parts; k++) {
        part p = part_open(r, k);
        double *dy = numbers(p.rows * p.out);
        for (int64_t i = 0; i < p.rows; i++)
            memcpy(dy + i * p.out, r->gout[0].x + i * width + p.first, (size_t)p.out * 8);
        part_backward(r, &p, dy);
        mem_free(dy);
        part_close(&p);
    }
}

/* ---- cases ---- */

/* What varies between the cases; `want` names gradients by letter: x w(eight) b(ias)
 * A(dapters). */
typedef struct linear_case {
    const char *name;
    int64_t rows, in, out[LINEAR_PARTS];
    int rank[LINEAR_PARTS];
    dtype w; /* TYPE_C, DTYPE_NF4, DTYPE_FP4 */
    bool nested, bias, windows;
    float dropout;
    const char *want;
    uint32_t types;
} linear_case;

static void add_part(op_case *c, const linear_case *l, int k, int64_t out) {
    c->attr.linear.parts = k + 1;
    c->attr.linear.out[k] = out;
    c->attr.linear.rank[k] = l->rank[k];
    c->attr.linear.scale[k] = 2.0f / (float)(k + 1);
    c->attr.linear.module[k] = 3 + k;
    c->in[linear_w(k)] = l->w == TYPE_C ? format_of(TYPE_C, out, l->in)
                                        : format_4bit(l->w, out, l->in, l->nested);
    c->spread[linear_w(k)] = 0.1f;
    if (l->bias) c->in[linear_bias(k)] = format_of(TYPE_C, 1, out);
    uint32_t gradients = 0;
    if (strchr(l->want, 'w')) gradients |= 1u << linear_w(k);
    if (strchr(l->want, 'b')) gradients |= 1u << linear_bias(k);
    if (l->rank[k]) {
        c->in[linear_a(k)] = format_of(TYPE_C, l->rank[k], l->in);
        c->in[linear_b(k)] = format_of(TYPE_C, out, l->rank[k]);
        c->spread[linear_a(k)] = c->spread[linear_b(k)] = 0.2f;
        if (strchr(l->want, 'A')) gradients |= 1u << linear_a(k) | 1u << linear_b(k);
    }
    c->gradients |= gradients;
    c->parameters |= gradients;
    if (strchr(l->want, 'w')) c->library_gins |= 1u << linear_w(k);
}

static void linear_one(const op_suite *suite, const linear_case *l) {
    int64_t width = 0;
    op_case c = {
        .name = l->name,
        .rows = l->rows,
        .capacity = l->rows + 70,
        .windows = l->windows,
        .seed = 77,
        .micro = 5,
        .layer = 2,
        .types = l->types,
        .in = {format_of(TYPE_C, l->rows, l->in)},
        .gradients = strchr(l->want, 'x') ? X_BIT : 0,
        .library_outs = 1,
        .library_gins = X_BIT,
        .flips = 0.02,
    };
    c.attr.linear.in = l->in;
    c.attr.linear.dropout = l->dropout;
    for (int k = 0; k < LINEAR_PARTS && l->out[k]; k++) {
        add_part(&c, l, k, l->out[k]);
        width += l->out[k];
    }
    c.out[0] = format_of(TYPE_C, l->rows, width);
    c.gouts = c.gradients ? 1 : 0;
    /* an f32 sum of n products is off by about sqrt(n) roundings */
    c.k_forward = 4 + 2 * sqrt((double)l->in);
    c.k_backward = 4 + 2 * sqrt((double)max_i64(l->in, max_i64(width, l->rows)));
    op_test(suite, &c);
}

static void linear_run(const op_suite *suite) {
    static const uint32_t f32 = 1u << DTYPE_F32, bf16 = 1u << DTYPE_BF16;
    static const linear_case cases[] = {
        {"full training", 37, 172, {40, 24, 16}, {0}, TYPE_C, .bias = true, .want = "xwb"},
        {"LoRA on a stack",
         64,
         96,
         {48, 16, 32},
         {4, 1, 16},
         TYPE_C,
         .bias = true,
         .want = "xwbA",
         .types = f32},
        {"QLoRA, blocks cross rows", 200, 172, {48, 31}, {8, 8}, DTYPE_NF4, .want = "xA"},
        {"double quantization, windows",
         37,
         172,
         {66, 33},
         {8, 4},
         DTYPE_NF4,
         .nested = true,
         .windows = true,
         .want = "xA"},
        {"FP4, one part of two adapted",
         70,
         64,
         {48, 16},
         {0, 8},
         DTYPE_FP4,
         .bias = true,
         .want = "xA"},
        {"dropout", 130, 90, {33, 48}, {8, 16}, DTYPE_NF4, .dropout = 0.25f, .want = "xA"},
        {"dropout, the lowest adapter",
         65,
         172,
         {33},
         {64},
         TYPE_C,
         .dropout = 0.05f,
         .want = "A"},
        {"no adapter", 65, 128, {48}, {0}, DTYPE_NF4, .want = "x"},
        {"several tiles forward",
         9,
         64,
         {2100},
         {1},
         DTYPE_NF4,
         .want = "x",
         .types = f32 | bf16},
        {"several tiles back",
         9,
         2100,
         {24},
         {4},
         DTYPE_NF4,
         .bias = true,
         .dropout = 0.1f,
         .want = "xA",
         .types = f32 | bf16},
        {"many rows",
         600,
         64,
         {40},
         {8},
         TYPE_C,
         .bias = true,
         .want = "xwbA",
         .types = f32 | bf16},
        {"deeper than a widened tile", 5, 4200, {16}, {0}, TYPE_C, .want = "x", .types = bf16},
        {"one row",
         1,
         172,
         {48, 31},
         {8, 4},
         DTYPE_NF4,
         .nested = true,
         .bias = true,
         .want = "xA"},
        {"one row from codes",
         1,
         1088,
         {48, 31},
         {8, 40},
         DTYPE_NF4,
         .nested = true,
         .bias = true,
         .want = ""},
        {"three rows from codes, windows",
         3,
         64,
         {5, 70},
         {0, 4},
         DTYPE_FP4,
         .windows = true,
         .want = ""},
        {"eight rows from codes, dropout",
         8,
         2080,
         {33},
         {16},
         DTYPE_NF4,
         .dropout = 0.25f,
         .want = ""},
        {"four rows, dropout", 4, 2500, {9}, {4}, DTYPE_NF4, .dropout = 0.5f, .want = ""},
        {"three rows, dense, windows",
         3,
         172,
         {17, 8},
         {1, 0},
         TYPE_C,
         .windows = true,
         .want = ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) linear_one(suite, &cases[i]);
}

const op_suite suite_linear = {OP_LINEAR, linear_forward, linear_backward, NULL, linear_run};
