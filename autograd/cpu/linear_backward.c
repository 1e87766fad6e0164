/* linear_backward.c: OP_LINEAR's gradients.
 *
 *   v = scale dy B, u = scale drop(x) A^T             per part, where wanted
 *   dA += v^T drop(x), dB += dy^T u                   adapter.c, rows in a fixed order
 *   dW += dy^T x, dbias += sum of dy                  full training: 512 rows after 512
 *   per tile of W's columns:
 *     dx_t = sum over parts of dy_k W_k,t             [rows, n], in f32
 *     dx_t += mask (v A_t), rounded to C once */
#include "autograd/cpu/linear.h"

#include "common/checked.h"

#include <stdatomic.h>
#include <string.h>

typedef struct space {
    void *w;                /* one tile of W in C */
    float *tile;            /* [rows, n]; NULL: straight into dx */
    float *u;               /* [rows, r] of one part */
    float *v[LINEAR_PARTS]; /* [rows, r] */
    float *masked;          /* [threads, LINEAR_CHUNK, n], with dropout */
    linear_adapters adapters;
    gemm_space gemm;
} space;

/* dx_t (+)= dy_k W_k,t; ldb is W's stride where W is not made. */
static gemm_shape product(const linear_size *z, int k, int64_t first) {
    int64_t n = min_i64(linear_tile_cols(z), z->in - first), stack = 0;
    for (int i = 0; i < z->parts; i++) stack += z->out[i];
    return (gemm_shape){.in = z->type,
                        .out = DTYPE_F32,
                        .add = k > 0,
                        .m = z->rows,
                        .n = n,
                        .k = z->out[k],
                        .lda = stack,
                        .ldb = z->made[k] ? n : z->in,
                        .ldc = n};
}

/* dW_k += dy_k^T x over some rows. */
static gemm_shape product_dw(const linear_size *z, int k, int64_t row) {
    gemm_shape s = product(z, k, 0);
    return (gemm_shape){.ta = true,
                        .in = z->type,
                        .out = DTYPE_F32,
                        .add = true,
                        .m = z->out[k],
                        .n = z->in,
                        .k = min_i64(LINEAR_SUM_ROWS, z->rows - row),
                        .lda = s.lda,
                        .ldb = z->in,
                        .ldc = z->in};
}

static status plan_product(backend *b, const gemm_shape *s, int64_t *most) {
    int64_t bytes;
    TRY(gemm_plan(cpu_of(b)->gemm, s, &bytes));
    *most = max_i64(*most, bytes);
    return STATUS_OK;
}

/* Plans every product; *bytes is the most scratch that one of them needs. */
static status plan_products(backend *b, const linear_size *z, uint32_t gradients,
                            int64_t *bytes) {
    *bytes = 0;
    for (int k = 0; k < z->parts; k++) {
        gemm_shape dw = product_dw(z, k, 0);
        if (gradients & 1u << linear_w(k)) TRY(plan_product(b, &dw, bytes));
        for (int64_t i = 0; gradients & 1u << LINEAR_X && i < z->in;
             i += linear_tile_cols(z)) {
            gemm_shape dx = product(z, k, i);
            TRY(plan_product(b, &dx, bytes));
        }
    }
    return STATUS_OK;
}

static void take(backend *b, scratch *s, const linear_size *z, uint32_t gradients,
                 space *out) {
    int64_t made = 0, rank = 0, n = linear_tile_cols(z);
    bool dx = gradients & 1u << LINEAR_X;
    *out = (space){0};
    for (int k = 0; k < z->parts; k++) {
        if (dx && z->made[k]) made = max_i64(made, z->out[k]);
        rank = max_i64(rank, z->rank[k]);
        out->v[k] = scratch_take(s, 4 * z->rows * z->rank[k]);
    }
    out->u = scratch_take(s, 4 * z->rows * rank);
    out->w = scratch_take(s, made * n * dtype_bytes(z->type));
    if (dx && z->type != DTYPE_F32) out->tile = scratch_take(s, 4 * z->rows * n);
    if (dx && z->dropout && rank)
        out->masked = scratch_take(s, 4 * b->threads * LINEAR_CHUNK * n);
    linear_adapters_take(s, z, b->threads, &out->adapters);
}

/* ---- dx ---- */

/* One chunk of a tile: adapters' share, masked; then rounded (and added) into dx. */
static status finish_chunk(const op_call *c, const linear_size *z, const space *at,
                           const adapter *parts, int64_t first, int64_t row, int64_t rows,
                           float *t, int64_t ld, const tensor *dx) {
    float *masked =
        at->masked + (int64_t)parallel_thread() * LINEAR_CHUNK * linear_tile_cols(z);
    for (int k = 0; k < z->parts; k++) {
        const adapter *p = &parts[k];
        if (!p->rank) continue;
        bool drop = p->drop.on;
        gemm_shape s = {.add = !drop,
                        .m = rows,
                        .n = dx->cols,
                        .k = p->rank,
                        .lda = p->rank,
                        .ldb = z->in,
                        .ldc = drop ? dx->cols : ld};
        TRY(gemm_f32(&s, 1.0f, at->v[k] + row * p->rank, p->a + first,
                     drop ? masked : t + row * ld));
        for (int64_t i = 0; drop && i < rows; i++) {
            float *from = masked + i * dx->cols, *to = t + (row + i) * ld;
            dropout_apply(&p->drop, row + i, first, dx->cols, from);
            for (int64_t j = 0; j < dx->cols; j++) to[j] += from[j];
        }
    }
    if (dx->type == DTYPE_F32) return STATUS_OK;
    float old[LINEAR_TILE_MOST];
    for (int64_t i = row; i < row + rows; i++) {
        if (c->add & 1u << LINEAR_X) {
            cpu_load(dx, i, 0, dx->cols, old);
            for (int64_t j = 0; j < dx->cols; j++) t[i * ld + j] += old[j];
        }
        cpu_store(dx, i, 0, dx->cols, t + i * ld);
    }
    return STATUS_OK;
}

static status gradient_x_tile(backend *b, const op_call *c, const linear_size *z,
                              const space *at, const adapter *parts, int64_t first) {
    int64_t n = min_i64(linear_tile_cols(z), z->in - first);
    tensor dx = tensor_columns(&c->gin[LINEAR_X], first, n);
    bool direct = !at->tile;
    float *to = direct ? dx.data : at->tile;
    int64_t ld = direct ? dx.stride : n;
    for (int k = 0; k < z->parts; k++) {
        const tensor *w = &c->in[linear_w(k)];
        tensor dy = linear_part_of(&c->gout[0], z, k);
        gemm_shape s = product(z, k, first);
        s.lda = dy.stride, s.ldc = ld;
        if (direct && c->add & 1u << LINEAR_X) s.add = true;
        if (z->made[k]) weights_window(b, w, 0, z->out[k], first, n, z->type, at->w);
        TRY(gemm_run(cpu_of(b)->gemm, &s, dy.data, z->made[k] ? at->w : cpu_at(w, 0, first),
                     to, at->gemm));
    }
    atomic_bool failed = false;
    int64_t chunks = (z->rows + LINEAR_CHUNK - 1) / LINEAR_CHUNK;
    PARALLEL_FOR(b)
    for (int64_t i = 0; i < chunks; i++) {
        int64_t row = i * LINEAR_CHUNK, rows = min_i64(LINEAR_CHUNK, z->rows - row);
        if (finish_chunk(c, z, at, parts, first, row, rows, to, ld, &dx) != STATUS_OK)
            failed = true;
    }
    return failed ? status_fail(STATUS_INTERNAL, "oneDNN refused an adapter's product")
                  : STATUS_OK;
}

/* ---- parameters ---- */

static status gradient_w(backend *b, const op_call *c, const linear_size *z, const space *at,
                         int k, const tensor *dy) {
    const tensor *x = &c->in[LINEAR_X], *dw = &c->gin[linear_w(k)];
    for (int64_t row = 0; row < z->rows; row += LINEAR_SUM_ROWS) {
        gemm_shape s = product_dw(z, k, row);
        s.lda = dy->stride, s.ldb = x->stride;
        TRY(gemm_run(cpu_of(b)->gemm, &s, cpu_at(dy, row, 0), cpu_at(x, row, 0), dw->data,
                     at->gemm));
    }
    return STATUS_OK;
}

/* Column sums in double, row after row. */
static void gradient_bias(backend *b, const tensor *dy, float *dbias) {
    int64_t slabs = (dy->cols + ADAPTER_SLAB - 1) / ADAPTER_SLAB;
    PARALLEL_FOR(b)
    for (int64_t s = 0; s < slabs; s++) {
        int64_t col = s * ADAPTER_SLAB, n = min_i64(ADAPTER_SLAB, dy->cols - col);
        double sum[ADAPTER_SLAB] = {0};
        float line[ADAPTER_SLAB];
        for (int64_t row = 0; row < dy->rows; row++) {
            cpu_load(dy, row, col, n, line);
            for (int64_t j = 0; j < n; j++) sum[j] += line[j];
        }
        for (int64_t j = 0; j < n; j++) dbias[col + j] += (float)sum[j];
    }
}

/* dA, dB and v of part k. */
static status gradient_adapter(backend *b, const op_call *c, const space *at, const adapter *p,
                               int k, const tensor *dy) {
    const tensor *x = &c->in[LINEAR_X];
    const tensor *da = &c->gin[linear_a(k)], *db = &c->gin[linear_b(k)];
    float *pieces = at->adapters.pieces;
    if (!p->rank) return STATUS_OK;
    if (da->data || c->gin[LINEAR_X].data)
        TRY(adapter_down_gradient(b, p, dy, at->v[k], pieces));
    if (da->data) TRY(adapter_gradient_a(b, p, x, at->v[k], da->data, pieces));
    if (db->data) {
        TRY(adapter_down(b, p, x, at->u, pieces));
        TRY(adapter_gradient_b(b, p, dy, at->u, db->data, pieces));
    }
    return STATUS_OK;
}

/* ---- the operation ---- */

static uint32_t wanted(const op_call *c) {
    uint32_t mask = 0;
    for (int i = 0; i < OP_INPUTS; i++) mask |= c->gin[i].data ? 1u << i : 0;
    return mask;
}

/* No gradient came: dx is zero, or stays as it is when added to. */
static void clear_dx(const op_call *c) {
    const tensor *dx = &c->gin[LINEAR_X];
    if (!dx->data || c->add & 1u << LINEAR_X) return;
    for (int64_t i = 0; i < dx->rows; i++)
        memset(cpu_at(dx, i, 0), 0, (size_t)(dx->cols * dtype_bytes(dx->type)));
}

status cpu_linear_backward(backend *b, const op_call *c) {
    linear_size z = linear_size_of_call(c);
    if (z.rows == 0) return STATUS_OK;
    if (!c->gout[0].data) {
        clear_dx(c);
        return STATUS_OK;
    }
    scratch s = {.base = c->scratch};
    space at;
    adapter parts[LINEAR_PARTS];
    take(b, &s, &z, wanted(c), &at);
    TRY(scratch_check(&s, "linear backward", c->scratch_bytes));
    at.gemm = scratch_rest(&s, c->scratch_bytes);
    for (int k = 0; k < z.parts; k++) {
        tensor dy = linear_part_of(&c->gout[0], &z, k);
        parts[k] = linear_adapter(c, &z, &at.adapters, k);
        TRY(gradient_adapter(b, c, &at, &parts[k], k, &dy));
        if (c->gin[linear_w(k)].data) TRY(gradient_w(b, c, &z, &at, k, &dy));
        if (c->gin[linear_bias(k)].data) gradient_bias(b, &dy, c->gin[linear_bias(k)].data);
    }
    if (c->gin[LINEAR_X].data)
        for (int64_t i = 0; i < z.in; i += linear_tile_cols(&z))
            TRY(gradient_x_tile(b, c, &z, &at, parts, i));
    return STATUS_OK;
}

int64_t linear_backward_scratch(backend *b, const op_shape *shape) {
    linear_size z = linear_size_of_shape(shape);
    scratch s = {0};
    space at;
    int64_t products;
    if (plan_products(b, &z, shape->gradients, &products) != STATUS_OK) products = 0;
    take(b, &s, &z, shape->gradients, &at);
    return s.used + products;
}

status linear_backward_prepare(backend *b, const op_shape *shape) {
    linear_size z = linear_size_of_shape(shape);
    int64_t bytes;
    return plan_products(b, &z, shape->gradients, &bytes);
}
