/* reference_attention.c: attention written down from its definition, one query at a time in
 * fp64, and its cases. */
#include "op_test.h"

#include "common/alloc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One query head at one row, and the keys it sees: [first, last] of its document. */
typedef struct query {
    int64_t row, document, begin; /* begin: row of the document's first key in this batch */
    int head, kv;
    int64_t past, first, last;
} query;

static double *key_at(const ref_call *r, const query *q, int64_t j, int value) {
    int heads = r->call->attr->attention.heads, kv = r->call->attr->attention.kv_heads;
    int dim = r->call->attr->attention.head_dim;
    const ref_tensor *cache = &r->in[ATTENTION_CACHE], *qkv = &r->in[ATTENTION_QKV];
    if (cache->x) {
        int64_t row = q->document * r->call->attr->attention.cache_rows + j;
        return cache->x + row * cache->cols + (value * kv + q->kv) * dim;
    }
    return qkv->x + (q->begin + j) * qkv->cols + (heads + value * kv + q->kv) * dim;
}

static double score(const ref_call *r, const query *q, int64_t j, double *slope) {
    int dim = r->call->attr->attention.head_dim;
    const double *k = key_at(r, q, j, 0);
    const double *x =
        r->in[ATTENTION_QKV].x + q->row * r->in[ATTENTION_QKV].cols + q->head * dim;
    double s = 0, cap = r->call->attr->attention.softcap;
    for (int i = 0; i < dim; i++) s += x[i] * k[i];
    s *= r->call->attr->attention.scale;
    double t = cap > 0 ? tanh(s / cap) : 0;
    *slope = 1 - t * t;
    return cap > 0 ? cap * t : s;
}

static void each_query(ref_call *r, void (*visit)(ref_call *, const query *)) {
    const double *starts = r->in[ATTENTION_STARTS].x, *past = r->in[ATTENTION_PAST].x;
    int heads = r->call->attr->attention.heads,
        group = heads / r->call->attr->attention.kv_heads;
    int64_t window = r->call->attr->attention.window;
    for (int64_t d = 0; d < r->call->documents; d++)
        for (int64_t row = (int64_t)starts[d]; row < (int64_t)starts[d + 1]; row++)
            for (int h = 0; h < heads; h++) {
                int64_t before = past ? (int64_t)past[d] : 0, begin = (int64_t)starts[d];
                int64_t last = before + row - begin;
                int64_t first = window > 0 && last - window + 1 > 0 ? last - window + 1 : 0;
                visit(r, &(query){row, d, begin, h, h / group, before, first, last});
            }
}

static void forward_query(ref_call *r, const query *q) {
    int heads = r->call->attr->attention.heads, dim = r->call->attr->attention.head_dim;
    double *y = r->out[ATTENTION_Y].x + (q->row * heads + q->head) * dim, sum = 0, slope;
    double max = -INFINITY;
    for (int64_t j = q->first; j <= q->last; j++) max = fmax(max, score(r, q, j, &slope));
    for (int64_t j = q->first; j <= q->last; j++) {
        double p = exp(score(r, q, j, &slope) - max);
        sum += p;
        for (int i = 0; i < dim; i++) y[i] += p * key_at(r, q, j, 1)[i];
    }
    for (int i = 0; i < dim; i++) y[i] = ref_round(r, y[i] / sum);
    r->out[ATTENTION_LSE].x[q->row * heads + q->head] = max + log(sum);
}

static void forward(ref_call *r) {
    const ref_tensor *qkv = &r->in[ATTENTION_QKV], *cache = &r->in[ATTENTION_CACHE];
    const double *starts = r->in[ATTENTION_STARTS].x, *past = r->in[ATTENTION_PAST].x;
    for (int i = 0; i < 2; i++)
        memset(r->out[i].x, 0, (size_t)(r->out[i].rows * r->out[i].cols) * sizeof(double));
    for (int64_t d = 0; cache->x && d < r->call->documents; d++)
        for (int64_t row = (int64_t)starts[d]; row < (int64_t)starts[d + 1]; row++) {
            int64_t to = d * r->call->attr->attention.cache_rows + row - (int64_t)starts[d];
            to += past ? (int64_t)past[d] : 0;
            memcpy(cache->x + to * cache->cols, qkv->x + (row + 1) * qkv->cols - cache->cols,
                   (size_t)cache->cols * sizeof(double));
        }
    each_query(r, forward_query);
}

static void backward_query(ref_call *r, const query *q) {
    int heads = r->call->attr->attention.heads, dim = r->call->attr->attention.head_dim;
    const double *y = r->out[ATTENTION_Y].x + (q->row * heads + q->head) * dim;
    const double *dy = r->gout[ATTENTION_Y].x + (q->row * heads + q->head) * dim;
    double lse = r->out[ATTENTION_LSE].x[q->row * heads + q->head], delta = 0, slope;
    const double *x =
        r->in[ATTENTION_QKV].x + q->row * r->in[ATTENTION_QKV].cols + q->head * dim;
    const double *from = r->in[ATTENTION_QKV].x;
    double *g = r->gin[ATTENTION_QKV].x;
    for (int i = 0; i < dim; i++) delta += y[i] * dy[i];
    for (int64_t j = q->first; j <= q->last; j++) {
        const double *k = key_at(r, q, j, 0), *v = key_at(r, q, j, 1);
        double dp = 0;
        double p = exp(score(r, q, j, &slope) - lse);
        for (int i = 0; i < dim; i++) dp += dy[i] * v[i];
        double ds = p * (dp - delta) * slope * (double)r->call->attr->attention.scale;
        for (int i = 0; i < dim; i++) {
            g[x - from + i] += ds * k[i];
            g[k - from + i] += ds * x[i];
            g[v - from + i] += p * dy[i];
        }
    }
}

static void backward(ref_call *r) {
    each_query(r, backward_query);
}

typedef struct sizes {
    int heads, kv_heads, dim;
} sizes;

/* Documents begin at `starts` [documents + 1]; `padding` rows follow the last one. */
static op_case case_of(const char *name, sizes s, const int32_t *starts, int64_t documents,
                       int64_t padding) {
    int64_t used = starts[documents], rows = used + padding;
    return (op_case){
        .name = name,
        .attr.attention = {s.heads, s.kv_heads, s.dim, .scale = 1 / sqrtf((float)s.dim)},
        .rows = rows,
        .used = used,
        .documents = documents,
        .in = {[ATTENTION_QKV] =
                   format_of(TYPE_C, rows, (int64_t)(s.heads + 2 * s.kv_heads) * s.dim),
               [ATTENTION_STARTS] = format_of(DTYPE_I32, documents + 1, 1)},
        .out = {[ATTENTION_Y] = format_of(TYPE_C, rows, (int64_t)s.heads * s.dim),
                [ATTENTION_LSE] = format_of(DTYPE_F32, rows, s.heads)},
        .ints = {[ATTENTION_STARTS] = starts},
        .gradients = 1u << ATTENTION_QKV,
        .gouts = 1u << ATTENTION_Y,
        /* sums of D terms, then exp, which turns the error of s into |s| times that of e^s;
         * the backward sums over the group's rows as well */
        .k_forward = 32 + s.dim / 4,
        .k_backward = 64 + s.dim / 2,
        /* the weights are rounded in front of the values; in the backward so are dS, and delta
         * comes from a y that is */
        .card_k_forward = 4,
        .card_k_backward = 12,
    };
}

static void run_training(const op_suite *suite) {
    static const int32_t many[] = {0, 1, 3, 66, 130, 195}, one[] = {0, 200},
                         two[] = {0, 65, 128};
    static const int32_t gaps[] = {0, 0, 66, 66, 71};
    op_case c = case_of("five documents", (sizes){4, 4, 16}, many, 5, 61);
    op_test(suite, &c);
    c = case_of("groups of four", (sizes){8, 2, 8}, one, 1, 0);
    op_test(suite, &c);
    c = case_of("one kv head, odd size", (sizes){4, 1, 20}, many, 5, 0);
    op_test(suite, &c);
    c = case_of("large scores", (sizes){4, 2, 64}, two, 2, 3);
    c.spread[ATTENTION_QKV] = 2.5f;
    c.k_backward = c.k_forward = 256; /* scores beyond 100 */
    c.flips = 0.05;                   /* 256 roundings in f32 are 1/32 of one in f16 */
    op_test(suite, &c);
    c = case_of("size 80, windows", (sizes){2, 1, 80}, two, 2, 1);
    c.windows = true;
    op_test(suite, &c);
    c = case_of("size 128", (sizes){2, 2, 128}, two, 2, 0);
    op_test(suite, &c);
    c = case_of("size 256", (sizes){1, 1, 256}, two, 2, 0);
    op_test(suite, &c);
    c = case_of("a group in two parts, empty documents", (sizes){6, 1, 16}, gaps, 4, 2);
    op_test(suite, &c);
    c = case_of("no document", (sizes){2, 1, 16}, (int32_t[]){0}, 0, 7);
    op_test(suite, &c);
}

/* Documents of several tiles of keys and queries, for each width that tensor cores work in, so
 * that every stage of a pipeline is used again. */
static void run_tiles(const op_suite *suite) {
    static const int32_t starts[] = {0, 1, 150, 163};
    static const sizes all[] = {{2, 1, 32}, {1, 1, 64},  {1, 1, 80},
                                {1, 1, 96}, {1, 1, 128}, {1, 1, 256}};
    for (int i = 0; i < 6; i++) {
        op_case c = case_of("several tiles", all[i], starts, 3, i);
        c.types = 1u << DTYPE_BF16;
        op_test(suite, &c);
        if (all[i].dim != 64) continue;
        c.name = "several tiles, window and soft cap";
        c.types = 1u << DTYPE_F16;
        c.attr.attention.window = 70, c.attr.attention.softcap = 4;
        op_test(suite, &c);
    }
}

static void run_variations(const op_suite *suite) {
    static const int32_t many[] = {0, 1, 3, 66, 130, 195}, one[] = {0, 200};
    static const int32_t windows[] = {1, 5, 64, 100};
    for (int i = 0; i < 4; i++) {
        op_case c =
            case_of("sliding window", (sizes){4, 2, 16}, i % 2 ? one : many, i % 2 ? 1 : 5, 5);
        c.attr.attention.window = windows[i];
        op_test(suite, &c);
    }
    op_case c = case_of("soft cap", (sizes){4, 2, 48}, many, 5, 0);
    c.attr.attention.softcap = 3;
    op_test(suite, &c);
}

/* A cache of three sequences: rows in front of `past` are random, new ones are appended. */
static void run_cache(const op_suite *suite) {
    static const int32_t starts[] = {0, 70, 71, 74}, decode[] = {0, 1, 2, 3};
    static const int32_t none[] = {0, 0, 0}, past[] = {63, 130, 0}, mixed[] = {122, 5, 199};
    const int32_t *pasts[] = {none, past, mixed};
    for (int i = 0; i < 6; i++) {
        sizes s = {4, 2, i % 4 ? 64 : 20};
        op_case c = case_of("cache", s, i < 3 ? starts : decode, 3, i == 2);
        c.attr.attention.cache_rows = 202;
        c.attr.attention.window = i == 1 ? 40 : 0;
        c.in[ATTENTION_CACHE] = format_of(TYPE_C, 3 * 202, 2 * s.kv_heads * s.dim);
        c.in[ATTENTION_PAST] = format_of(DTYPE_I32, 3, 1);
        c.ints[ATTENTION_PAST] = pasts[i % 3];
        c.gradients = c.gouts = 0;
        op_test(suite, &c);
    }
}

static void run(const op_suite *suite) {
    run_training(suite);
    run_tiles(suite);
    run_variations(suite);
    run_cache(suite);
}

const op_suite suite_attention = {OP_ATTENTION, forward, backward, NULL, run};
