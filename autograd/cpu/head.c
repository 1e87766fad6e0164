/* head.c: the language model's head: OP_HEAD_CROSS_ENTROPY and OP_LOGITS.
 *
 * Rows without a target are dropped before the products. The others go in chunks of 1,024, so
 * at most [1024, V] logits in C exist (V = 128,256 in bf16: 263 MB). The backward does
 * everything in one pass over a chunk: logits, logp and lse, dlogits in the logits' place, dx
 * and dW. */
#include "autograd/cpu/cpu.h"
#include "autograd/cpu/scratch.h"
#include "autograd/cpu/vector.h"

#include "common/checked.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum {
    CHUNK = 1024,   /* kept rows per product */
    SUM_ROWS = 512, /* rows per product of dW: the fixed split of its sum */
    PIECE = 1024,   /* logits at a time on the stack */
    LANES = 16,
};

typedef struct head_size {
    dtype type; /* C */
    int64_t rows, width, vocabulary;
    bool dx, dw;
} head_size;

typedef struct head_space {
    int32_t *kept; /* [rows] numbers of the rows with a target */
    char *x;       /* C [chunk, H] gathered */
    char *logits;  /* C [chunk, V] */
    char *dx;      /* C [chunk, H] */
    gemm_space gemm;
} head_space;

static head_size size_of_shape(const op_shape *s) {
    return (head_size){.type = s->compute,
                       .rows = s->rows,
                       .width = s->in[HEAD_W].cols,
                       .vocabulary = s->in[HEAD_W].rows,
                       .dx = s->backward && s->gradients & 1u << HEAD_X,
                       .dw = s->backward && s->gradients & 1u << HEAD_W};
}

static head_size size_of_call(const op_call *c) {
    return (head_size){.type = c->compute,
                       .rows = c->rows,
                       .width = c->in[HEAD_W].cols,
                       .vocabulary = c->in[HEAD_W].rows,
                       .dx = c->gin[HEAD_X].data != NULL,
                       .dw = c->gin[HEAD_W].data != NULL};
}

/* ---- products ---- */

/* Rows of a chunk's products: kept rows, filled up with zeros where primitives are made per
 * shape. */
static int64_t padded(backend *b, const head_size *z, int64_t rows) {
    bool native = z->type != DTYPE_F32 && gemm_native(cpu_of(b)->gemm, z->type);
    return native ? round_up_i64(rows, GEMM_ROWS) : rows;
}

static gemm_shape product_logits(const head_size *z, int64_t rows) {
    return (gemm_shape){.tb = true,
                        .in = z->type,
                        .out = z->type,
                        .m = rows,
                        .n = z->vocabulary,
                        .k = z->width,
                        .lda = z->width,
                        .ldb = z->width,
                        .ldc = z->vocabulary};
}
static gemm_shape product_dx(const head_size *z, int64_t rows) {
    return (gemm_shape){.in = z->type,
                        .out = z->type,
                        .m = rows,
                        .n = z->width,
                        .k = z->vocabulary,
                        .lda = z->vocabulary,
                        .ldb = z->width,
                        .ldc = z->width};
}
static gemm_shape product_dw(const head_size *z, int64_t rows) {
    return (gemm_shape){.ta = true,
                        .in = z->type,
                        .out = DTYPE_F32,
                        .add = true,
                        .m = z->vocabulary,
                        .n = z->width,
                        .k = rows,
                        .lda = z->vocabulary,
                        .ldb = z->width,
                        .ldc = z->width};
}

/* Plans a full chunk's products; *bytes is the most scratch that one of them needs. */
static status plan_products(backend *b, const head_size *z, int64_t *bytes) {
    int64_t rows = padded(b, z, min_i64(z->rows, CHUNK)), one;
    gemm *g = cpu_of(b)->gemm;
    gemm_shape logits = product_logits(z, rows), dx = product_dx(z, rows);
    gemm_shape dw = product_dw(z, min_i64(rows, SUM_ROWS));
    TRY(gemm_plan(g, &logits, bytes));
    if (z->dx) TRY(gemm_plan(g, &dx, &one));
    if (z->dx) *bytes = max_i64(*bytes, one);
    if (z->dw) TRY(gemm_plan(g, &dw, &one));
    if (z->dw) *bytes = max_i64(*bytes, one);
    return STATUS_OK;
}

static void take(backend *b, scratch *s, const head_size *z, head_space *out) {
    int64_t rows = padded(b, z, min_i64(z->rows, CHUNK)), width = dtype_bytes(z->type);
    out->kept = scratch_take(s, 4 * z->rows);
    out->x = scratch_take(s, rows * z->width * width);
    out->logits = scratch_take(s, rows * z->vocabulary * width);
    out->dx = scratch_take(s, z->dx ? rows * z->width * width : 0);
}

int64_t cpu_head_cross_entropy_scratch(backend *b, const op_shape *shape) {
    head_size z = size_of_shape(shape);
    scratch s = {0};
    head_space at;
    int64_t products;
    if (plan_products(b, &z, &products) != STATUS_OK) products = 0; /* prepare says why */
    take(b, &s, &z, &at);
    return s.used + products;
}

status cpu_head_cross_entropy_prepare(backend *b, const op_shape *shape) {
    head_size z = size_of_shape(shape);
    int64_t bytes;
    return plan_products(b, &z, &bytes);
}

/* ---- one row of logits ---- */

SIMD_INLINE void head_max_body(const float *x, int64_t n, float *lanes) {
    for (int64_t i = 0; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            lanes[j] = vector_select(x[i + j] > lanes[j], x[i + j], lanes[j]);
    for (int64_t i = n / LANES * LANES, j = 0; i + j < n; j++)
        lanes[j] = vector_select(x[i + j] > lanes[j], x[i + j], lanes[j]);
}
SIMD_TWICE(head_max, (const float *x, int64_t n, float *lanes), (x, n, lanes))

SIMD_INLINE void head_exp_sum_body(const float *x, int64_t n, float most, float *lanes) {
    for (int64_t i = 0; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] += vector_exp(x[i + j] - most);
    for (int64_t i = n / LANES * LANES, j = 0; i + j < n; j++)
        lanes[j] += vector_exp(x[i + j] - most);
}
SIMD_TWICE(head_exp_sum, (const float *x, int64_t n, float most, float *lanes),
           (x, n, most, lanes))

SIMD_INLINE void head_softmax_body(float *x, int64_t n, float lse, float weight) {
    for (int64_t i = 0; i < n; i++) x[i] = weight * vector_exp(x[i] - lse);
}
SIMD_TWICE(head_softmax, (float *x, int64_t n, float lse, float weight), (x, n, lse, weight))

/* log of the sum of exp over a row: f32 lanes per piece, double over the pieces. A NaN
 * anywhere comes out as NaN, since its exp joins the sum. */
static double row_lse(const tensor *logits, int64_t row) {
    float space[PIECE], most[LANES];
    for (int j = 0; j < LANES; j++) most[j] = -INFINITY;
    for (int64_t i = 0; i < logits->cols; i += PIECE) {
        int64_t n = min_i64(PIECE, logits->cols - i);
        head_max(cpu_view(logits, row, i, n, space), n, most);
    }
    for (int j = 1; j < LANES; j++)
        if (most[j] > most[0]) most[0] = most[j];
    double sum = 0;
    for (int64_t i = 0; i < logits->cols; i += PIECE) {
        int64_t n = min_i64(PIECE, logits->cols - i);
        float lanes[LANES] = {0};
        head_exp_sum(cpu_view(logits, row, i, n, space), n, most[0], lanes);
        for (int j = 0; j < LANES; j++) sum += lanes[j];
    }
    return (double)most[0] + log(sum);
}

/* logits := weight * (softmax - [target]), rounded to C. */
static void row_gradient(const tensor *logits, int64_t row, int32_t target, float lse,
                         float weight) {
    float space[PIECE];
    for (int64_t i = 0; i < logits->cols; i += PIECE) {
        int64_t n = min_i64(PIECE, logits->cols - i);
        float *piece = cpu_view(logits, row, i, n, space);
        head_softmax(piece, n, lse, weight);
        if (target >= i && target < i + n) piece[target - i] -= weight;
        cpu_settle(logits, row, i, n, piece);
    }
}

/* ---- the operation ---- */

/* Numbers of the rows with a target. STATUS_DATA for a target that is no token. */
static status keep_rows(const op_call *c, const head_size *z, int32_t *kept, int64_t *count) {
    const int32_t *targets = c->in[HEAD_TARGETS].data;
    *count = 0;
    for (int64_t row = 0; row < z->rows; row++) {
        if (targets[row] >= z->vocabulary)
            return status_fail(STATUS_DATA,
                               "target %d in row %" PRId64
                               " is outside the vocabulary of %" PRId64,
                               targets[row], row, z->vocabulary);
        if (targets[row] >= 0) kept[(*count)++] = (int32_t)row;
    }
    return STATUS_OK;
}

static void clear_results(const op_call *c, const head_size *z) {
    memset(c->out[HEAD_LOGP].data, 0, (size_t)z->rows * 4);
    memset(c->out[HEAD_LSE].data, 0, (size_t)z->rows * 4);
    if (!z->dx || c->add & 1u << HEAD_X) return;
    for (int64_t i = 0; i < z->rows; i++)
        memset(cpu_at(&c->gin[HEAD_X], i, 0), 0, (size_t)(z->width * dtype_bytes(z->type)));
}

static void gather(backend *b, const tensor *x, const int32_t *kept, int64_t n, int64_t rows,
                   char *to) {
    int64_t bytes = x->cols * dtype_bytes(x->type);
    PARALLEL_FOR(b)
    for (int64_t i = 0; i < n; i++)
        memcpy(to + i * bytes, cpu_at(x, kept[i], 0), (size_t)bytes);
    memset(to + n * bytes, 0, (size_t)((rows - n) * bytes));
}

/* dx of the kept rows to their places; the others were cleared, or keep what is added to. */
static void scatter(backend *b, const op_call *c, const int32_t *kept, int64_t n,
                    const tensor *from) {
    const tensor *dx = &c->gin[HEAD_X];
    bool add = c->add & 1u << HEAD_X;
    PARALLEL_FOR(b)
    for (int64_t i = 0; i < n; i++) {
        float piece[PIECE], old[PIECE];
        for (int64_t col = 0; col < dx->cols; col += PIECE) {
            int64_t m = min_i64(PIECE, dx->cols - col);
            cpu_load(from, i, col, m, piece);
            if (add) cpu_load(dx, kept[i], col, m, old);
            for (int64_t j = 0; add && j < m; j++) piece[j] += old[j];
            cpu_store(dx, kept[i], col, m, piece);
        }
    }
}

/* logp and lse of the kept rows; with gradients, dlogits in the logits' place. */
static void finish_rows(backend *b, const op_call *c, const head_size *z, const int32_t *kept,
                        int64_t n, int64_t rows, const tensor *logits) {
    const int32_t *targets = c->in[HEAD_TARGETS].data;
    const float *weights = c->in[HEAD_WEIGHTS].data;
    float *logp = c->out[HEAD_LOGP].data, *lse = c->out[HEAD_LSE].data;
    bool gradients = z->dx || z->dw;
    PARALLEL_FOR(b)
    for (int64_t i = 0; i < n; i++) {
        int32_t row = kept[i], target = targets[row];
        float chosen;
        double sum = row_lse(logits, i);
        cpu_load(logits, i, target, 1, &chosen);
        logp[row] = (float)(chosen - sum);
        lse[row] = (float)sum;
        if (gradients) row_gradient(logits, i, target, lse[row], weights[row]);
    }
    int64_t bytes = logits->cols * dtype_bytes(logits->type);
    if (gradients) memset(cpu_at(logits, n, 0), 0, (size_t)((rows - n) * bytes));
}

static status chunk(backend *b, const op_call *c, const head_size *z, const head_space *at,
                    const int32_t *kept, int64_t n) {
    gemm *g = cpu_of(b)->gemm;
    const void *w = c->in[HEAD_W].data;
    int64_t rows = padded(b, z, n);
    tensor_format wide = format_of(z->type, rows, z->vocabulary);
    tensor_format thin = format_of(z->type, rows, z->width);
    tensor logits = tensor_at(&wide, at->logits), dx = tensor_at(&thin, at->dx);
    gather(b, &c->in[HEAD_X], kept, n, rows, at->x);
    gemm_shape s = product_logits(z, rows);
    TRY(gemm_run(g, &s, at->x, w, at->logits, at->gemm));
    finish_rows(b, c, z, kept, n, rows, &logits);
    for (int64_t i = 0; z->dw && i < rows; i += SUM_ROWS) {
        gemm_shape sum = product_dw(z, min_i64(SUM_ROWS, rows - i));
        TRY(gemm_run(g, &sum, cpu_at(&logits, i, 0),
                     at->x + i * z->width * dtype_bytes(z->type), c->gin[HEAD_W].data,
                     at->gemm));
    }
    if (!z->dx) return STATUS_OK;
    s = product_dx(z, rows);
    TRY(gemm_run(g, &s, at->logits, w, at->dx, at->gemm));
    scatter(b, c, kept, n, &dx);
    return STATUS_OK;
}

static status run_head(backend *b, const op_call *c) {
    head_size z = size_of_call(c);
    scratch s = {.base = c->scratch};
    head_space at;
    int64_t count;
    if (z.rows == 0) return STATUS_OK;
    take(b, &s, &z, &at);
    TRY(scratch_check(&s, "head_cross_entropy", c->scratch_bytes));
    at.gemm = scratch_rest(&s, c->scratch_bytes);
    TRY(keep_rows(c, &z, at.kept, &count));
    clear_results(c, &z);
    for (int64_t i = 0; i < count; i += CHUNK)
        TRY(chunk(b, c, &z, &at, at.kept + i, min_i64(CHUNK, count - i)));
    return STATUS_OK;
}

status cpu_head_cross_entropy_forward(backend *b, const op_call *c) {
    return run_head(b, c);
}
status cpu_head_cross_entropy_backward(backend *b, const op_call *c) {
    return run_head(b, c);
}

/* ---- logits of selected rows ---- */

static gemm_shape product_selected(dtype type, int64_t rows, const tensor_format *w) {
    return (gemm_shape){.tb = true,
                        .in = type,
                        .out = DTYPE_F32,
                        .m = rows,
                        .n = w->rows,
                        .k = w->cols,
                        .lda = w->cols,
                        .ldb = w->cols,
                        .ldc = w->rows};
}

static int64_t most_selected(const op_shape *s) {
    int64_t n = s->in[LOGITS_SELECTED].rows;
    return n > 0 ? n : s->rows;
}

int64_t cpu_logits_scratch(backend *b, const op_shape *s) {
    gemm_shape p = product_selected(s->compute, most_selected(s), &s->in[LOGITS_W]);
    scratch at = {0};
    int64_t products;
    if (gemm_plan(cpu_of(b)->gemm, &p, &products) != STATUS_OK) products = 0;
    scratch_take(&at, p.m * p.k * dtype_bytes(s->compute));
    return at.used + products;
}

status cpu_logits_prepare(backend *b, const op_shape *s) {
    gemm_shape p = product_selected(s->compute, most_selected(s), &s->in[LOGITS_W]);
    int64_t bytes;
    return gemm_plan(cpu_of(b)->gemm, &p, &bytes);
}

status cpu_logits_forward(backend *b, const op_call *c) {
    const tensor *x = &c->in[LOGITS_X], *w = &c->in[LOGITS_W];
    const int32_t *selected = c->in[LOGITS_SELECTED].data;
    tensor_format f = format_of(w->type, w->rows, w->cols);
    gemm_shape p = product_selected(c->compute, c->selected, &f);
    scratch s = {.base = c->scratch};
    if (c->selected == 0) return STATUS_OK;
    for (int64_t i = 0; i < c->selected; i++)
        if (selected[i] < 0 || selected[i] >= x->rows)
            return status_fail(STATUS_INTERNAL, "logits of row %d of %" PRId64, selected[i],
                               x->rows);
    char *rows = scratch_take(&s, p.m * p.k * dtype_bytes(c->compute));
    TRY(scratch_check(&s, "logits", c->scratch_bytes));
    gather(b, x, selected, c->selected, c->selected, rows);
    p.ldc = c->out[0].stride;
    return gemm_run(cpu_of(b)->gemm, &p, rows, w->data, c->out[0].data,
                    scratch_rest(&s, c->scratch_bytes));
}
