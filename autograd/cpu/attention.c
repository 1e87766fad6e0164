/* attention.c: causal attention inside documents, forward, with or without a key-value cache.
 *
 * The flash form (Dao et al. 2022): a tile of queries meets its keys tile by tile with a
 * running maximum and sum, so memory is O(rows). A task is a tile of queries of up to four
 * heads that share their keys. Arithmetic is f32 whatever C is; operands are converted tile by
 * tile. */
#include "autograd/cpu/attention.h"

#include <math.h>
#include <string.h>

attention_sizes attention_sizes_of(const op_attr *attr) {
    attention_sizes s = {.heads = attr->attention.heads,
                         .kv_heads = attr->attention.kv_heads,
                         .dim = attr->attention.head_dim};
    s.group = s.heads / s.kv_heads;
    s.parts = (s.group + HEADS_AT_ONCE - 1) / HEADS_AT_ONCE;
    s.padded = (int)round_up_i64(s.dim, TILE_COLS);
    s.row = s.padded / TILE_COLS % 2 ? s.padded : s.padded + TILE_COLS;
    s.key_col = (int64_t)s.heads * s.dim;
    s.value_col = s.key_col + (int64_t)s.kv_heads * s.dim;
    return s;
}

status attention_check(const op_attr *attr) {
    int heads = attr->attention.heads, kv = attr->attention.kv_heads;
    int dim = attr->attention.head_dim;
    if (kv > 0 && heads > 0 && heads % kv == 0 && dim > 0 && dim <= HEAD_DIM_MAX)
        return STATUS_OK;
    return status_fail(STATUS_INTERNAL, "attention: no kernel for %d heads, %d kv heads of %d",
                       heads, kv, dim);
}

attention_document attention_document_of(const op_call *call, int64_t document) {
    attention_sizes s = attention_sizes_of(call->attr);
    const int32_t *starts = call->in[ATTENTION_STARTS].data,
                  *past = call->in[ATTENTION_PAST].data;
    const tensor *cache = &call->in[ATTENTION_CACHE];
    attention_document d = {.row = starts[document],
                            .count = starts[document + 1] - starts[document],
                            .keys = &call->in[ATTENTION_QKV],
                            .key_row = starts[document],
                            .key_col = s.key_col,
                            .value_col = s.value_col};
    if (!cache->data) return d;
    d.past = past ? past[document] : 0;
    d.keys = cache;
    d.key_row = document * call->attr->attention.cache_rows;
    d.key_col = 0;
    d.value_col = (int64_t)s.kv_heads * s.dim;
    return d;
}

int64_t attention_list_tiles(const op_call *call, attention_tile *tiles) {
    int64_t n = 0;
    for (int64_t d = 0; d < call->documents; d++)
        for (int i = attention_tiles(attention_document_of(call, d).count) - 1; i >= 0; i--)
            tiles[n++] = (attention_tile){(int32_t)d, i};
    return n;
}

void attention_load(const attention_sizes *s, const tensor *from, int64_t row, int n,
                    int64_t col, float scale, float *to) {
    int rows = (int)round_up_i64(n, TILE_COLS);
    for (int r = 0; r < rows; r++) {
        float *at = to + r * s->row;
        int filled = r < n ? s->dim : 0;
        if (r < n) cpu_load(from, row + r, col, s->dim, at);
        for (int i = 0; scale != 1 && i < filled; i++) at[i] *= scale;
        for (int i = filled; i < s->padded; i++) at[i] = 0;
    }
}

int64_t attention_first_key(const op_attr *attr, int64_t first) {
    int64_t window = attr->attention.window;
    return window > 0 ? max_i64(0, first - window + 1) / TILE * TILE : 0;
}

tile_band attention_band(const op_attr *attr, int64_t delta) {
    return (tile_band){(int)delta, (int)min_i64(attr->attention.window, 1 << 30)};
}

/* ---- forward ---- */

/* A query head of a task. */
typedef struct head {
    float *qt;                  /* [dim, TILE_ROW] scaled queries, transposed */
    float *yt;                  /* [dim, TILE_ROW] unnormalized outputs, transposed */
    float *max, *sum, *rescale; /* [TILE] */
} head;

/* One thread's tiles. */
typedef struct space {
    float *k, *v; /* [TILE, row] */
    float *s;     /* [TILE, TILE_ROW] */
    head heads[HEADS_AT_ONCE];
} space;

static space take_space(const attention_sizes *s, scratch *from) {
    int64_t tile = (int64_t)TILE * s->row * 4, across = round_up_i64(s->dim, 4) * TILE_ROW * 4;
    space out;
    out.k = scratch_take(from, tile);
    out.v = scratch_take(from, tile);
    out.s = scratch_take(from, TILE * TILE_ROW * 4);
    for (int h = 0; h < HEADS_AT_ONCE; h++)
        out.heads[h] = (head){scratch_take(from, across), scratch_take(from, across),
                              scratch_take(from, TILE * 4), scratch_take(from, TILE * 4),
                              scratch_take(from, TILE * 4)};
    return out;
}

/* A task: `count` heads from `first` of one group, over one tile of queries. */
typedef struct task {
    const op_call *call;
    attention_sizes sizes;
    attention_document document;
    int kv, first, count;
    int64_t row; /* of the batch */
    int queries, cols;
} task;

static void begin_head(const task *t, int h, const space *w) {
    head *a = (head *)&w->heads[h];
    attention_load(&t->sizes, &t->call->in[ATTENTION_QKV], t->row, t->queries,
                   (int64_t)(t->first + h) * t->sizes.dim, t->call->attr->attention.scale,
                   w->k);
    tile_transpose(a->qt, TILE_ROW, w->k, t->sizes.row, t->cols, t->sizes.dim);
    for (int i = 0; i < t->cols; i++) a->max[i] = TILE_LOWEST, a->sum[i] = 0;
}

/* One head meets the key tile in w->k, w->v. */
static void meet_keys(const task *t, const head *a, const space *w, int keys, tile_band band,
                      bool first) {
    const tile_functions *f = tile_functions_get();
    f->product(&(tile_product){.a = w->k,
                               .a_row = t->sizes.row,
                               .a_depth = 1,
                               .b = a->qt,
                               .b_row = TILE_ROW,
                               .c = w->s,
                               .c_row = TILE_ROW,
                               .rows = keys,
                               .cols = t->cols,
                               .depth = t->sizes.dim,
                               .cut = TILE_CUT_ROWS,
                               .band = band});
    f->softmax(&(tile_scores){.s = w->s,
                              .keys = keys,
                              .cols = t->cols,
                              .band = band,
                              .softcap = t->call->attr->attention.softcap,
                              .max = a->max,
                              .sum = a->sum,
                              .rescale = a->rescale});
    f->product(&(tile_product){.a = w->v,
                               .a_row = 1,
                               .a_depth = t->sizes.row,
                               .b = w->s,
                               .b_row = TILE_ROW,
                               .c = a->yt,
                               .c_row = TILE_ROW,
                               .rows = t->sizes.dim,
                               .cols = t->cols,
                               .depth = keys,
                               .add = !first,
                               .rescale = first ? NULL : a->rescale,
                               .cut = TILE_CUT_KEYS,
                               .band = band});
}

static void end_head(const task *t, int h, const space *w) {
    const head *a = &w->heads[h];
    tile_transpose(w->k, t->sizes.row, a->yt, TILE_ROW, t->sizes.dim, t->cols);
    for (int i = 0; i < t->queries; i++) {
        float *y = w->k + i * t->sizes.row, scale = 1 / a->sum[i];
        for (int c = 0; c < t->sizes.dim; c++) y[c] *= scale;
        cpu_store(&t->call->out[ATTENTION_Y], t->row + i,
                  (int64_t)(t->first + h) * t->sizes.dim, t->sizes.dim, y);
        float *lse = cpu_at(&t->call->out[ATTENTION_LSE], t->row + i, t->first + h);
        *lse = a->max[i] + logf(a->sum[i]);
    }
}

static void run_task(const task *t, const space *w) {
    const attention_document *d = &t->document;
    int64_t begin = d->past + t->row - d->row, end = begin + t->queries;
    int64_t first = attention_first_key(t->call->attr, begin),
            col = (int64_t)t->kv * t->sizes.dim;
    for (int h = 0; h < t->count; h++) begin_head(t, h, w);
    for (int64_t j = first; j < end; j += TILE) {
        int keys = (int)min_i64(TILE, end - j);
        tile_band band = attention_band(t->call->attr, begin - j);
        attention_load(&t->sizes, d->keys, d->key_row + j, keys, d->key_col + col, 1, w->k);
        attention_load(&t->sizes, d->keys, d->key_row + j, keys, d->value_col + col, 1, w->v);
        for (int h = 0; h < t->count; h++)
            meet_keys(t, &w->heads[h], w, keys, band, j == first);
    }
    for (int h = 0; h < t->count; h++) end_head(t, h, w);
}

/* Task `i` of all: tiles in order, and for each its (kv head, part) pairs. */
static task task_at(const op_call *call, const attention_tile *tiles, int64_t i) {
    attention_sizes s = attention_sizes_of(call->attr);
    int per_tile = s.kv_heads * s.parts, part = (int)(i % s.parts);
    attention_tile tile = tiles[i / per_tile];
    task t = {
        .call = call, .sizes = s, .document = attention_document_of(call, tile.document)};
    t.kv = (int)(i % per_tile) / s.parts;
    t.first = t.kv * s.group + part * HEADS_AT_ONCE;
    t.count = (int)min_i64(HEADS_AT_ONCE, s.group - part * HEADS_AT_ONCE);
    t.row = t.document.row + (int64_t)tile.index * TILE;
    t.queries = (int)min_i64(TILE, t.document.count - (int64_t)tile.index * TILE);
    t.cols = (int)round_up_i64(t.queries, TILE_COLS);
    return t;
}

/* Stores the new keys and values behind the old ones. */
static status append(const op_call *call, int64_t document) {
    attention_sizes s = attention_sizes_of(call->attr);
    attention_document d = attention_document_of(call, document);
    if (d.past < 0 || d.past + d.count > call->attr->attention.cache_rows)
        return status_fail(
            STATUS_INTERNAL,
            "attention: %lld + %lld keys of sequence %lld do not fit a cache of %lld",
            (long long)d.past, (long long)d.count, (long long)document,
            (long long)call->attr->attention.cache_rows);
    int64_t bytes = 2 * (int64_t)s.kv_heads * s.dim * dtype_bytes(d.keys->type);
    for (int64_t i = 0; i < d.count; i++)
        memcpy(cpu_at(d.keys, d.key_row + d.past + i, 0),
               cpu_at(&call->in[ATTENTION_QKV], d.row + i, s.key_col), (size_t)bytes);
    return STATUS_OK;
}

/* Rows past the last document. */
static void clear_padding(const op_call *call) {
    const tensor *y = &call->out[ATTENTION_Y], *lse = &call->out[ATTENTION_LSE];
    const int32_t *starts = call->in[ATTENTION_STARTS].data;
    for (int64_t row = call->documents ? starts[call->documents] : 0; row < call->rows;
         row++) {
        memset(cpu_at(y, row, 0), 0, (size_t)(y->cols * dtype_bytes(y->type)));
        memset(cpu_at(lse, row, 0), 0, (size_t)lse->cols * sizeof(float));
    }
}

typedef struct plan {
    attention_tile *tiles; /* [rows] */
    scratch rest;
    int64_t space; /* bytes of one thread's tiles */
} plan;

static plan plan_of(const op_attr *attr, int64_t rows, int threads, void *base) {
    attention_sizes s = attention_sizes_of(attr);
    scratch one = {0};
    plan p = {.rest = {base, 0}};
    p.tiles = scratch_take(&p.rest, rows * (int64_t)sizeof(attention_tile));
    take_space(&s, &one);
    p.space = one.used;
    p.rest.used += threads * p.space;
    return p;
}

status cpu_attention_forward(backend *b, const op_call *call) {
    TRY(attention_check(call->attr));
    attention_sizes s = attention_sizes_of(call->attr);
    plan p = plan_of(call->attr, call->rows, b->threads, call->scratch);
    TRY(scratch_check(&p.rest, "attention", call->scratch_bytes));
    for (int64_t d = 0; call->in[ATTENTION_CACHE].data && d < call->documents; d++)
        TRY(append(call, d));
    clear_padding(call);
    int64_t tasks = attention_list_tiles(call, p.tiles) * s.kv_heads * s.parts;
    char *spaces = (char *)call->scratch + p.rest.used - b->threads * p.space;
    ATTENTION_TASKS(b)
    for (int64_t i = 0; i < tasks; i++) {
        scratch mine = {spaces + parallel_thread() * p.space, 0};
        space w = take_space(&s, &mine);
        task t = task_at(call, p.tiles, i);
        run_task(&t, &w);
    }
    return STATUS_OK;
}

int64_t cpu_attention_scratch(backend *b, const op_shape *shape) {
    if (attention_check(shape->attr) != STATUS_OK) return 0;
    if (shape->backward)
        return attention_backward_scratch(b->threads, shape->attr, shape->rows);
    return plan_of(shape->attr, shape->rows, b->threads, NULL).rest.used;
}
