/* attention.c: causal attention inside documents, row by row (the optimized one follows). */
#include "autograd/cpu/rows.h"

#include <math.h>
#include <string.h>

typedef struct heads {
    int q, kv, dim;
    int64_t row_k, row_v;
} heads;

static heads heads_of(const op_call *c) {
    heads h = {c->attr->attention.heads, c->attr->attention.kv_heads, c->attr->attention.head_dim, 0, 0};
    h.row_k = (int64_t)h.q * h.dim;
    h.row_v = h.row_k + (int64_t)h.kv * h.dim;
    return h;
}

static float dot(const float *a, const float *b, int n) {
    float s = 0;
    for (int i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

static void key_value(const op_call *c, int64_t doc, int64_t first, int64_t j, int kv, float *k, float *v) {
    heads h = heads_of(c);
    const tensor *cache = &c->in[ATTENTION_CACHE];
    if (cache->data) {
        int64_t row = doc * c->attr->attention.cache_rows + j;
        cpu_load(cache, row, (int64_t)kv * h.dim, h.dim, k);
        cpu_load(cache, row, (int64_t)(h.kv + kv) * h.dim, h.dim, v);
    } else {
        cpu_load(&c->in[ATTENTION_QKV], first + j, h.row_k + (int64_t)kv * h.dim, h.dim, k);
        cpu_load(&c->in[ATTENTION_QKV], first + j, h.row_v + (int64_t)kv * h.dim, h.dim, v);
    }
}

static float score(const op_call *c, const float *q, const float *k, float *slope) {
    float s = c->attr->attention.scale * dot(q, k, c->attr->attention.head_dim);
    float cap = c->attr->attention.softcap;
    *slope = 1;
    if (cap <= 0) return s;
    float t = tanhf(s / cap);
    *slope = 1 - t * t;
    return cap * t;
}

status cpu_attention_forward(backend *b, const op_call *c) {
    heads h = heads_of(c);
    const int32_t *starts = c->in[ATTENTION_STARTS].data, *pasts = c->in[ATTENTION_PAST].data;
    const tensor *cache = &c->in[ATTENTION_CACHE], *qkv = &c->in[ATTENTION_QKV];
    for (int64_t r = 0; r < c->rows; r++) {
        float zero[HEAD_DIM_MAX] = {0};
        for (int a = 0; a < h.q; a++) {
            cpu_store(&c->out[0], r, (int64_t)a * h.dim, h.dim, zero);
            *(float *)cpu_at(&c->out[1], r, a) = 0;
        }
    }
    for (int64_t d = 0; d < c->documents; d++) {
        int64_t first = starts[d], n = starts[d + 1] - first, past = cache->data && pasts ? pasts[d] : 0;
        for (int64_t i = 0; cache->data && i < n; i++)
            memcpy(cpu_at(cache, d * c->attr->attention.cache_rows + past + i, 0),
                   cpu_at(qkv, first + i, h.row_k), (size_t)(2 * h.kv * h.dim * dtype_bytes(c->compute)));
        for (int64_t i = 0; i < n; i++)
            for (int a = 0; a < h.q; a++) {
                float q[HEAD_DIM_MAX], k[HEAD_DIM_MAX], v[HEAD_DIM_MAX], y[HEAD_DIM_MAX] = {0}, slope;
                float m = -INFINITY, sum = 0;
                cpu_load(qkv, first + i, (int64_t)a * h.dim, h.dim, q);
                int64_t p = past + i, w = c->attr->attention.window;
                for (int64_t j = w > 0 ? max_i64(0, p - w + 1) : 0; j <= p; j++) {
                    key_value(c, d, first, j, a / (h.q / h.kv), k, v);
                    float s = score(c, q, k, &slope), old = m;
                    m = fmaxf(m, s);
                    float e = expf(s - m), scale = expf(old - m);
                    sum = sum * scale + e;
                    for (int x = 0; x < h.dim; x++) y[x] = y[x] * scale + e * v[x];
                }
                for (int x = 0; x < h.dim; x++) y[x] /= sum;
                cpu_store(&c->out[0], first + i, (int64_t)a * h.dim, h.dim, y);
                *(float *)cpu_at(&c->out[1], first + i, a) = m + logf(sum);
            }
    }
    return STATUS_OK;
}

status cpu_attention_backward(backend *b, const op_call *c) {
    heads h = heads_of(c);
    const int32_t *starts = c->in[ATTENTION_STARTS].data;
    const tensor *qkv = &c->in[ATTENTION_QKV], *dy = &c->gout[0];
    int64_t width = (h.q + 2 * h.kv) * h.dim;
    float *g = c->scratch;
    memset(g, 0, (size_t)(c->rows * width) * 4);
    for (int64_t d = 0; d < c->documents; d++)
        for (int64_t i = 0; i < starts[d + 1] - starts[d]; i++)
            for (int a = 0; a < h.q; a++) {
                int64_t first = starts[d], w = c->attr->attention.window, row = first + i;
                int kv = a / (h.q / h.kv);
                float q[HEAD_DIM_MAX], k[HEAD_DIM_MAX], v[HEAD_DIM_MAX], o[HEAD_DIM_MAX], y[HEAD_DIM_MAX], slope;
                cpu_load(qkv, row, (int64_t)a * h.dim, h.dim, q);
                cpu_load(dy, row, (int64_t)a * h.dim, h.dim, o);
                cpu_load(&c->out[0], row, (int64_t)a * h.dim, h.dim, y);
                float delta = dot(o, y, h.dim), lse = *(float *)cpu_at(&c->out[1], row, a);
                for (int64_t j = w > 0 ? max_i64(0, i - w + 1) : 0; j <= i; j++) {
                    key_value(c, d, first, j, kv, k, v);
                    float p = expf(score(c, q, k, &slope) - lse);
                    float ds = p * (dot(o, v, h.dim) - delta) * slope * c->attr->attention.scale;
                    float *gq = g + row * width + (int64_t)a * h.dim;
                    float *gk = g + (first + j) * width + h.row_k + (int64_t)kv * h.dim;
                    float *gv = gk + (int64_t)h.kv * h.dim;
                    for (int x = 0; x < h.dim; x++) {
                        gq[x] += ds * k[x];
                        gk[x] += ds * q[x];
                        gv[x] += p * o[x];
                    }
                }
            }
    for (int64_t r = 0; r < c->rows; r++)
        for (int64_t x = 0; x < width; x += h.dim) row_gradient(c, 0, r, x, h.dim, g + r * width + x);
    return STATUS_OK;
}

int64_t cpu_attention_scratch(backend *b, const op_shape *s) {
    return s->backward ? s->rows * s->in[0].cols * 4 : 0;
}
