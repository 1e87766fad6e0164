/* attention_backward.c: the gradient of attention.c's forward.
 *
 * For a tile of queries i and of keys j of one head, from the saved log-sum-exp:
 *   P^T = e^(K Q^T - lse)   dV_j += P^T dY_i      dP^T = V dY^T   delta = row sums of dY * Y
 *   dS^T = P^T (dP^T - delta)   dK_j += dS^T Q_i   dQ_i += dS K_j
 * dQ_i sums over j rising; dK_j and dV_j over parts of the group, then i rising, then the
 * part's heads. A task is any rectangle of (part, i, j) of one document and kv head that
 * computes dQ, or dK and dV, or all three, always in that order. Where there are enough
 * documents and kv heads for the threads, one task each does everything with five products per
 * pair of tiles. Where there are not, one pass of tasks per key tile and one per query tile
 * cost seven, but run on all threads. Both give the same bits, so the choice may depend on the
 * number of threads. */
#include "autograd/cpu/attention.h"

#include <string.h>

/* A query head of a task: one tile of its queries, natural and transposed. */
typedef struct head {
    float *q, *dy;         /* [TILE, row]; q times the scale */
    float *qt, *dyt, *dqt; /* [dim, TILE_ROW] */
    float *lse, *delta;    /* [TILE] */
} head;

/* One thread's tiles, and the gradients of the keys of its task. */
typedef struct space {
    float *k, *v, *s, *dp;
    head heads[HEADS_AT_ONCE];
    float *dk, *dv; /* [keys of a task rounded up to tiles, row] */
} space;

static space take_space(const attention_sizes *s, int64_t rows, scratch *from) {
    int64_t tile = (int64_t)TILE * s->row * 4, across = round_up_i64(s->dim, 4) * TILE_ROW * 4;
    space w;
    w.k = scratch_take(from, tile);
    w.v = scratch_take(from, tile);
    w.s = scratch_take(from, TILE * TILE_ROW * 4);
    w.dp = scratch_take(from, TILE * TILE_ROW * 4);
    for (int h = 0; h < HEADS_AT_ONCE; h++) {
        w.heads[h].q = scratch_take(from, tile);
        w.heads[h].dy = scratch_take(from, tile);
        w.heads[h].qt = scratch_take(from, across);
        w.heads[h].dyt = scratch_take(from, across);
        w.heads[h].dqt = scratch_take(from, across);
        w.heads[h].lse = scratch_take(from, TILE * 4);
        w.heads[h].delta = scratch_take(from, TILE * 4);
    }
    w.dk = scratch_take(from, attention_tiles(rows) * tile);
    w.dv = scratch_take(from, attention_tiles(rows) * tile);
    return w;
}

/* Tiles [first, last). */
typedef struct tiles {
    int first, last;
} tiles;

typedef struct task {
    const op_call *call;
    attention_sizes sizes;
    attention_document document;
    int kv;
    tiles parts, queries, keys;
    bool want_q, want_kv;
} task;

/* The tile of queries at hand. */
typedef struct query_tile {
    int64_t first; /* of the document */
    int rows, cols;
    int head, heads; /* the part's query heads */
} query_tile;

static void load_head(const task *t, const query_tile *i, int h, const space *w) {
    const attention_sizes *s = &t->sizes;
    const head *a = &w->heads[h];
    const tensor *lse = &t->call->out[ATTENTION_LSE], *y = &t->call->out[ATTENTION_Y];
    int64_t row = t->document.row + i->first, col = (int64_t)(i->head + h) * s->dim;
    float scale = t->call->attr->attention.scale;
    attention_load(s, &t->call->in[ATTENTION_QKV], row, i->rows, col, scale, a->q);
    attention_load(s, &t->call->gout[ATTENTION_Y], row, i->rows, col, 1, a->dy);
    attention_load(s, y, row, i->rows, col, 1, w->k);
    tile_transpose(a->qt, TILE_ROW, a->q, s->row, i->cols, s->dim);
    tile_transpose(a->dyt, TILE_ROW, a->dy, s->row, i->cols, s->dim);
    for (int r = 0; r < i->cols; r++) {
        float lanes[TILE_COLS] = {0};
        const float *dy = a->dy + r * s->row, *out = w->k + r * s->row;
        for (int c = 0; c < s->padded; c += TILE_COLS)
            for (int l = 0; l < TILE_COLS; l++) lanes[l] += dy[c + l] * out[c + l];
        a->delta[r] = 0;
        for (int l = 0; l < TILE_COLS; l++) a->delta[r] += lanes[l];
        a->lse[r] = r < i->rows ? *(float *)cpu_at(lse, row + r, i->head + h) : 0;
    }
    if (t->want_q) memset(a->dqt, 0, (size_t)s->dim * TILE_ROW * sizeof(float));
}

/* P^T in w->s and dS^T in w->dp of one head against the key tile in w->k, w->v. */
static void derive_scores(const task *t, const query_tile *i, const head *a, const space *w,
                          int keys, tile_band band) {
    const tile_functions *f = tile_functions_get();
    tile_product p = {.a = w->k,
                      .a_row = t->sizes.row,
                      .a_depth = 1,
                      .b = a->qt,
                      .b_row = TILE_ROW,
                      .c = w->s,
                      .c_row = TILE_ROW,
                      .rows = keys,
                      .cols = i->cols,
                      .depth = t->sizes.dim,
                      .cut = TILE_CUT_ROWS,
                      .band = band};
    f->product(&p);
    p.a = w->v, p.b = a->dyt, p.c = w->dp;
    f->product(&p);
    f->derive(&(tile_scores){.s = w->s,
                             .dp = w->dp,
                             .keys = keys,
                             .cols = i->cols,
                             .band = band,
                             .softcap = t->call->attr->attention.softcap,
                             .lse = a->lse,
                             .delta = a->delta});
}

/* Adds what the pair of tiles gives to dQ, dK and dV. */
static void add_gradients(const task *t, const query_tile *i, const head *a, const space *w,
                          int keys, int key_tile, tile_band band) {
    const tile_functions *f = tile_functions_get();
    int64_t at = (int64_t)(key_tile - t->keys.first) * TILE * t->sizes.row;
    tile_product p = {.a = w->s,
                      .a_row = TILE_ROW,
                      .a_depth = 1,
                      .b = a->dy,
                      .b_row = t->sizes.row,
                      .c = w->dv + at,
                      .c_row = t->sizes.row,
                      .rows = keys,
                      .cols = t->sizes.padded,
                      .depth = i->cols,
                      .add = true,
                      .cut = TILE_CUT_QUERIES,
                      .band = band};
    if (t->want_kv) {
        f->product(&p);
        p.a = w->dp, p.b = a->q, p.c = w->dk + at;
        f->product(&p);
    }
    if (t->want_q)
        f->product(&(tile_product){.a = w->k,
                                   .a_row = 1,
                                   .a_depth = t->sizes.row,
                                   .b = w->dp,
                                   .b_row = TILE_ROW,
                                   .c = a->dqt,
                                   .c_row = TILE_ROW,
                                   .rows = t->sizes.dim,
                                   .cols = i->cols,
                                   .depth = keys,
                                   .add = true,
                                   .cut = TILE_CUT_KEYS,
                                   .band = band});
}

static void store_query_gradient(const task *t, const query_tile *i, int h, const space *w) {
    const attention_sizes *s = &t->sizes;
    tile_transpose(w->k, s->row, w->heads[h].dqt, TILE_ROW, s->dim, i->cols);
    for (int r = 0; r < i->rows; r++) {
        float *g = w->k + r * s->row;
        for (int c = 0; c < s->dim; c++) g[c] *= t->call->attr->attention.scale;
        row_gradient(t->call, ATTENTION_QKV, t->document.row + i->first + r,
                     (int64_t)(i->head + h) * s->dim, s->dim, g);
    }
}

/* One tile of queries of one part meets the task's keys. */
static void run_queries(const task *t, const query_tile *i, const space *w) {
    const attention_document *d = &t->document;
    int first = (int)(attention_first_key(t->call->attr, i->first) / TILE);
    int last = (int)((i->first + i->rows + TILE - 1) / TILE);
    if (first < t->keys.first) first = t->keys.first;
    if (last > t->keys.last) last = t->keys.last;
    if (first >= last) return;
    for (int h = 0; h < i->heads; h++) load_head(t, i, h, w);
    for (int j = first; j < last; j++) {
        int64_t key = (int64_t)j * TILE, col = (int64_t)t->kv * t->sizes.dim;
        int keys = (int)min_i64(TILE, i->first + i->rows - key);
        tile_band band = attention_band(t->call->attr, i->first - key);
        attention_load(&t->sizes, d->keys, d->key_row + key, keys, d->key_col + col, 1, w->k);
        attention_load(&t->sizes, d->keys, d->key_row + key, keys, d->value_col + col, 1,
                       w->v);
        for (int h = 0; h < i->heads; h++) {
            derive_scores(t, i, &w->heads[h], w, keys, band);
            add_gradients(t, i, &w->heads[h], w, keys, j, band);
        }
    }
    for (int h = 0; t->want_q && h < i->heads; h++) store_query_gradient(t, i, h, w);
}

static void store_key_gradients(const task *t, const space *w) {
    const attention_sizes *s = &t->sizes;
    int64_t first = (int64_t)t->keys.first * TILE, col = (int64_t)t->kv * s->dim;
    int64_t last = min_i64((int64_t)t->keys.last * TILE, t->document.count);
    for (int64_t key = first; key < last; key++) {
        int64_t row = t->document.row + key, at = (key - first) * s->row;
        row_gradient(t->call, ATTENTION_QKV, row, s->key_col + col, s->dim, w->dk + at);
        row_gradient(t->call, ATTENTION_QKV, row, s->value_col + col, s->dim, w->dv + at);
    }
}

static void run_task(const task *t, const space *w) {
    const attention_sizes *s = &t->sizes;
    size_t bytes =
        (size_t)(t->keys.last - t->keys.first) * TILE * (size_t)s->row * sizeof(float);
    if (t->want_kv) {
        memset(w->dk, 0, bytes);
        memset(w->dv, 0, bytes);
    }
    for (int part = t->parts.first; part < t->parts.last; part++)
        for (int tile = t->queries.first; tile < t->queries.last; tile++) {
            query_tile i = {.first = (int64_t)tile * TILE};
            i.rows = (int)min_i64(TILE, t->document.count - i.first);
            i.cols = (int)round_up_i64(i.rows, TILE_COLS);
            i.head = t->kv * s->group + part * HEADS_AT_ONCE;
            i.heads = (int)min_i64(HEADS_AT_ONCE, s->group - part * HEADS_AT_ONCE);
            run_queries(t, &i, w);
        }
    if (t->want_kv) store_key_gradients(t, w);
}

/* ---- which tasks there are ---- */

static task task_whole(const op_call *call, int64_t document, int kv) {
    attention_sizes s = attention_sizes_of(call->attr);
    attention_document d = attention_document_of(call, document);
    tiles all = {0, attention_tiles(d.count)};
    return (task){call, s, d, kv, {0, s.parts}, all, all, true, true};
}

/* Keys of tile `at` and all queries behind them; or the queries of tile `at`, one part. */
static task task_keys(const op_call *call, attention_tile at, int kv) {
    task t = task_whole(call, at.document, kv);
    t.keys = (tiles){at.index, at.index + 1};
    t.queries.first = at.index;
    t.want_q = false;
    return t;
}
static task task_queries(const op_call *call, attention_tile at, int kv, int part) {
    task t = task_whole(call, at.document, kv);
    t.queries = (tiles){at.index, at.index + 1};
    t.parts = (tiles){part, part + 1};
    t.want_kv = false;
    return t;
}

/* One pass takes at least as long as its longest task, two passes 7/5 of the work. */
static bool two_passes(const op_call *call, int threads) {
    double longest = 0, total = 0;
    for (int64_t d = 0; d < call->documents; d++) {
        double n = (double)attention_document_of(call, d).count;
        total += n * n * call->attr->attention.kv_heads;
        if (n * n > longest) longest = n * n;
    }
    return longest * threads > 1.4 * total;
}

typedef struct plan {
    attention_tile *tiles; /* [rows] */
    scratch rest;
    int64_t space; /* bytes of one thread */
} plan;

static plan plan_of(const op_attr *attr, int64_t rows, int threads, void *base) {
    attention_sizes s = attention_sizes_of(attr);
    scratch one = {0};
    plan p = {.rest = {base, 0}};
    p.tiles = scratch_take(&p.rest, rows * (int64_t)sizeof(attention_tile));
    take_space(&s, rows, &one);
    p.space = one.used;
    p.rest.used += threads * p.space;
    return p;
}

int64_t attention_backward_scratch(int threads, const op_attr *attr, int64_t rows) {
    return plan_of(attr, rows, threads, NULL).rest.used;
}

static void run_tasks(backend *b, const op_call *call, const plan *p, int64_t tasks,
                      task (*at)(const op_call *, const attention_tile *, int64_t)) {
    attention_sizes s = attention_sizes_of(call->attr);
    char *spaces = (char *)call->scratch + p->rest.used - b->threads * p->space;
    ATTENTION_TASKS(b)
    for (int64_t i = 0; i < tasks; i++) {
        scratch mine = {spaces + parallel_thread() * p->space, 0};
        space w = take_space(&s, call->rows, &mine);
        task t = at(call, p->tiles, i);
        run_task(&t, &w);
    }
}

static task whole_at(const op_call *call, const attention_tile *list, int64_t i) {
    int kv = call->attr->attention.kv_heads;
    return task_whole(call, i / kv, (int)(i % kv));
}
static task keys_at(const op_call *call, const attention_tile *list, int64_t i) {
    int kv = call->attr->attention.kv_heads;
    return task_keys(call, list[i / kv], (int)(i % kv));
}
static task queries_at(const op_call *call, const attention_tile *list, int64_t i) {
    attention_sizes s = attention_sizes_of(call->attr);
    int64_t pair = i / s.parts;
    return task_queries(call, list[pair / s.kv_heads], (int)(pair % s.kv_heads),
                        (int)(i % s.parts));
}

/* Rows past the last document get no gradient. */
static void clear_padding(const op_call *call) {
    const tensor *g = &call->gin[ATTENTION_QKV];
    const int32_t *starts = call->in[ATTENTION_STARTS].data;
    if (call->add >> ATTENTION_QKV & 1) return;
    for (int64_t row = call->documents ? starts[call->documents] : 0; row < call->rows; row++)
        memset(cpu_at(g, row, 0), 0, (size_t)(g->cols * dtype_bytes(g->type)));
}

status cpu_attention_backward(backend *b, const op_call *call) {
    TRY(attention_check(call->attr));
    if (!call->gin[ATTENTION_QKV].data) return STATUS_OK;
    attention_sizes s = attention_sizes_of(call->attr);
    plan p = plan_of(call->attr, call->rows, b->threads, call->scratch);
    TRY(scratch_check(&p.rest, "attention", call->scratch_bytes));
    clear_padding(call);
    if (!two_passes(call, b->threads)) {
        run_tasks(b, call, &p, call->documents * s.kv_heads, whole_at);
        return STATUS_OK;
    }
    int64_t count = attention_list_tiles(call, p.tiles) * s.kv_heads;
    run_tasks(b, call, &p, count, keys_at);
    run_tasks(b, call, &p, count * s.parts, queries_at);
    return STATUS_OK;
}
