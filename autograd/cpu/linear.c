/* linear.c: OP_LINEAR forward, y = x W^T + bias + scale drop(x) A^T B^T over a stack of parts.
 *
 *   per part:  u = scale drop(x) A^T                                  [rows, r]   adapter.c
 *     per tile of W's rows:  W_t = dequantize, rounded to C           [n, in]
 *       y_t = x W_t^T      into y when C is f32, else into an f32 tile   [rows, n]
 *       y_t += u B_t^T + bias, rounded to C once
 *
 * Backward is linear_backward.c, decoding a few rows linear_few.c. */
#include "autograd/cpu/linear.h"

#include "common/checked.h"

#include <stdatomic.h>

/* ---- sizes ---- */

static linear_size size_of_attr(const op_attr *attr, dtype type, int64_t rows) {
    linear_size z = {.type = type,
                     .rows = rows,
                     .in = attr->linear.in,
                     .parts = attr->linear.parts,
                     .dropout = attr->linear.dropout > 0};
    for (int k = 0; k < z.parts; k++) z.out[k] = attr->linear.out[k];
    return z;
}

linear_size linear_size_of_shape(const op_shape *s) {
    linear_size z = size_of_attr(s->attr, s->compute, s->rows);
    for (int k = 0; k < z.parts; k++) {
        z.made[k] = dtype_is_4bit(s->in[linear_w(k)].type);
        z.rank[k] = s->in[linear_a(k)].type < DTYPE_COUNT ? s->attr->linear.rank[k] : 0;
    }
    return z;
}

linear_size linear_size_of_call(const op_call *c) {
    linear_size z = size_of_attr(c->attr, c->compute, c->rows);
    for (int k = 0; k < z.parts; k++) {
        z.made[k] = dtype_is_4bit(c->in[linear_w(k)].type);
        z.rank[k] = c->in[linear_a(k)].data ? c->attr->linear.rank[k] : 0;
    }
    return z;
}

static int64_t tile_of(int64_t depth) {
    int64_t n = LINEAR_TILE_ELEMENTS / max_i64(depth, 1) / 64 * 64;
    return min_i64(max_i64(n, LINEAR_TILE_LEAST), LINEAR_TILE_MOST);
}

int64_t linear_tile_rows(const linear_size *z, int k) {
    return min_i64(tile_of(z->in), z->out[k]);
}

int64_t linear_tile_cols(const linear_size *z) {
    int64_t deepest = 0;
    for (int k = 0; k < z->parts; k++) deepest = max_i64(deepest, z->out[k]);
    return min_i64(tile_of(deepest), z->in);
}

tensor linear_part_of(const tensor *t, const linear_size *z, int k) {
    int64_t first = 0;
    for (int i = 0; i < k; i++) first += z->out[i];
    return tensor_columns(t, first, z->out[k]);
}

/* ---- adapters ---- */

void linear_adapters_take(scratch *s, const linear_size *z, int threads,
                          linear_adapters *out) {
    *out = (linear_adapters){0};
    bool any = false;
    for (int k = 0; k < z->parts; k++) {
        if (!z->rank[k]) continue;
        any = true;
        if (z->type == DTYPE_F32) continue;
        out->a[k] = scratch_take(s, 4 * z->rank[k] * z->in);
        out->b[k] = scratch_take(s, 4 * z->rank[k] * z->out[k]);
    }
    if (any) out->pieces = scratch_take(s, 4 * (int64_t)threads * ADAPTER_FLOATS);
}

static const float *wide_parameter(const tensor *t, float *space) {
    if (!space) return t->data;
    for (int64_t i = 0; i < t->rows; i++) cpu_load(t, i, 0, t->cols, space + i * t->cols);
    return space;
}

adapter linear_adapter(const op_call *c, const linear_size *z, const linear_adapters *space,
                       int k) {
    adapter p = {.rank = z->rank[k], .in = z->in, .out = z->out[k]};
    if (!p.rank) return p;
    p.scale = c->attr->linear.scale[k];
    p.a = wide_parameter(&c->in[linear_a(k)], space->a[k]);
    p.b = wide_parameter(&c->in[linear_b(k)], space->b[k]);
    p.drop = dropout_of(c, k);
    return p;
}

/* ---- forward ---- */

typedef struct space {
    void *w;     /* one tile of W in C */
    float *tile; /* [rows, n]; NULL: products go straight into y */
    float *u;    /* [rows, r] of one part */
    linear_adapters adapters;
    gemm_space gemm;
} space;

static gemm_shape product(const linear_size *z, int k, int64_t first) {
    int64_t n = min_i64(linear_tile_rows(z, k), z->out[k] - first);
    return (gemm_shape){.tb = true,
                        .in = z->type,
                        .out = DTYPE_F32,
                        .m = z->rows,
                        .n = n,
                        .k = z->in,
                        .lda = z->in,
                        .ldb = z->in,
                        .ldc = n};
}

/* Plans every product; *bytes is the most scratch that one of them needs. */
static status plan_products(backend *b, const linear_size *z, int64_t *bytes) {
    *bytes = 0;
    for (int k = 0; k < z->parts; k++)
        for (int64_t o = 0; o < z->out[k]; o += linear_tile_rows(z, k)) {
            gemm_shape s = product(z, k, o);
            int64_t one;
            TRY(gemm_plan(cpu_of(b)->gemm, &s, &one));
            *bytes = max_i64(*bytes, one);
        }
    return STATUS_OK;
}

static void take(backend *b, scratch *s, const linear_size *z, space *out) {
    int64_t made = 0, widest = 0, rank = 0;
    for (int k = 0; k < z->parts; k++) {
        widest = max_i64(widest, linear_tile_rows(z, k));
        if (z->made[k]) made = max_i64(made, linear_tile_rows(z, k));
        rank = max_i64(rank, z->rank[k]);
    }
    out->w = scratch_take(s, made * z->in * dtype_bytes(z->type));
    out->tile = z->type == DTYPE_F32 ? NULL : scratch_take(s, 4 * z->rows * widest);
    out->u = scratch_take(s, 4 * z->rows * rank);
    linear_adapters_take(s, z, b->threads, &out->adapters);
}

/* y_t += u B_t^T + bias for one chunk of rows, and rounded into y. `t` is y_t's tile in f32 (y
 * itself when C is f32), `y` the tile's window of y. */
static status finish_chunk(const adapter *p, const tensor *bias, const float *u, int64_t first,
                           int64_t row, int64_t rows, float *t, int64_t ld, const tensor *y) {
    if (p->rank) {
        gemm_shape s = {.tb = true,
                        .add = true,
                        .m = rows,
                        .n = y->cols,
                        .k = p->rank,
                        .lda = p->rank,
                        .ldb = p->rank,
                        .ldc = ld};
        TRY(gemm_f32(&s, 1.0f, u + row * p->rank, p->b + first * p->rank, t + row * ld));
    }
    float added[LINEAR_TILE_MOST];
    if (bias->data) cpu_load(bias, 0, first, y->cols, added);
    for (int64_t i = row; i < row + rows; i++) {
        float *line = t + i * ld;
        for (int64_t j = 0; bias->data && j < y->cols; j++) line[j] += added[j];
        if (y->type != DTYPE_F32) cpu_store(y, i, 0, y->cols, line);
    }
    return STATUS_OK;
}

static status finish(backend *b, const adapter *p, const tensor *bias, const float *u,
                     int64_t first, float *t, int64_t ld, const tensor *y) {
    if (!p->rank && !bias->data && y->type == DTYPE_F32) return STATUS_OK;
    atomic_bool failed = false;
    int64_t chunks = (y->rows + LINEAR_CHUNK - 1) / LINEAR_CHUNK;
    PARALLEL_FOR(b)
    for (int64_t c = 0; c < chunks; c++) {
        int64_t row = c * LINEAR_CHUNK, rows = min_i64(LINEAR_CHUNK, y->rows - row);
        if (finish_chunk(p, bias, u, first, row, rows, t, ld, y) != STATUS_OK) failed = true;
    }
    return failed ? status_fail(STATUS_INTERNAL, "oneDNN refused an adapter's product")
                  : STATUS_OK;
}

static status forward_tile(backend *b, const op_call *c, const linear_size *z, const space *at,
                           const adapter *p, int k, int64_t first) {
    const tensor *x = &c->in[LINEAR_X], *w = &c->in[linear_w(k)];
    gemm_shape s = product(z, k, first);
    tensor part = linear_part_of(&c->out[0], z, k), y = tensor_columns(&part, first, s.n);
    bool direct = !at->tile;
    float *to = direct ? y.data : at->tile;
    const void *from = at->w;
    if (z->made[k])
        weights_window(b, w, first, s.n, 0, z->in, z->type, at->w);
    else
        from = cpu_at(w, first, 0);
    s.lda = x->stride;
    if (direct) s.ldc = y.stride;
    TRY(gemm_run(cpu_of(b)->gemm, &s, x->data, from, to, at->gemm));
    return finish(b, p, &c->in[linear_bias(k)], at->u, first, to, s.ldc, &y);
}

status cpu_linear_forward(backend *b, const op_call *c) {
    linear_size z = linear_size_of_call(c);
    scratch s = {.base = c->scratch};
    if (z.rows == 0) return STATUS_OK;
    if (z.rows <= LINEAR_FEW_ROWS) {
        linear_few few;
        linear_few_take(&s, &z, b->threads, &few);
        TRY(scratch_check(&s, "linear", c->scratch_bytes));
        return linear_few_forward(b, c, &z, &few);
    }
    space at;
    take(b, &s, &z, &at);
    TRY(scratch_check(&s, "linear", c->scratch_bytes));
    at.gemm = scratch_rest(&s, c->scratch_bytes);
    for (int k = 0; k < z.parts; k++) {
        adapter p = linear_adapter(c, &z, &at.adapters, k);
        if (p.rank) TRY(adapter_down(b, &p, &c->in[LINEAR_X], at.u, at.adapters.pieces));
        for (int64_t o = 0; o < z.out[k]; o += linear_tile_rows(&z, k))
            TRY(forward_tile(b, c, &z, &at, &p, k, o));
    }
    return STATUS_OK;
}

int64_t cpu_linear_scratch(backend *b, const op_shape *shape) {
    if (shape->backward) return linear_backward_scratch(b, shape);
    linear_size z = linear_size_of_shape(shape);
    scratch many = {0}, few = {0};
    space at;
    linear_few at_few;
    int64_t products;
    if (plan_products(b, &z, &products) != STATUS_OK) products = 0; /* prepare says why */
    take(b, &many, &z, &at);
    z.rows = min_i64(z.rows, LINEAR_FEW_ROWS);
    linear_few_take(&few, &z, b->threads, &at_few);
    return max_i64(many.used + products, few.used);
}

status cpu_linear_prepare(backend *b, const op_shape *shape) {
    if (shape->backward) return linear_backward_prepare(b, shape);
    linear_size z = linear_size_of_shape(shape);
    int64_t bytes;
    return plan_products(b, &z, &bytes);
}
