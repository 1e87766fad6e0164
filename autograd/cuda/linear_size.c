/* linear_size.c: see linear_size.h. */
#include "autograd/cuda/linear_size.h"
#include "autograd/cuda/gemm.h"
#include "autograd/cuda/sizes.h"

#include <string.h>

static linear_size size_of(const op_attr *attr, dtype type, int64_t rows) {
    linear_size z = {.type = type,
                     .rows = rows,
                     .in = attr->linear.in,
                     .parts = attr->linear.parts,
                     .terms = type == DTYPE_F32 ? 1 : 2};
    for (int k = 0; k < z.parts; k++) z.stack += z.out[k] = attr->linear.out[k];
    return z;
}

linear_size cuda_linear_size_of_shape(const op_shape *s) {
    linear_size z = size_of(s->attr, s->compute, s->rows);
    for (int k = 0; k < z.parts; k++) {
        z.made |= dtype_is_4bit(s->in[linear_w(k)].type);
        z.bias |= s->in[linear_bias(k)].type < DTYPE_COUNT;
        z.rank[k] = s->in[linear_a(k)].type < DTYPE_COUNT ? s->attr->linear.rank[k] : 0;
    }
    z.dropout = s->attr->linear.dropout > 0 && cuda_linear_rank(&z) > 0;
    return z;
}

linear_size cuda_linear_size_of_call(const op_call *c) {
    linear_size z = size_of(c->attr, c->compute, c->rows);
    for (int k = 0; k < z.parts; k++) {
        z.made |= dtype_is_4bit(c->in[linear_w(k)].type);
        z.bias |= c->in[linear_bias(k)].data != NULL;
        z.rank[k] = c->in[linear_a(k)].data ? c->attr->linear.rank[k] : 0;
    }
    z.dropout = c->attr->linear.dropout > 0 && cuda_linear_rank(&z) > 0;
    return z;
}

int cuda_linear_rank(const linear_size *z) {
    int rank = 0;
    for (int k = 0; k < z->parts; k++) rank += z->rank[k];
    return rank;
}

linear_tail cuda_linear_tail(const linear_size *z, bool bias) {
    linear_tail t = {.parts = z->parts, .terms = z->terms};
    for (int k = 0; k < z->parts; k++) {
        t.rank[k] = z->rank[k];
        t.first[k + 1] = t.first[k] + z->terms * z->rank[k];
        t.row[k + 1] = t.row[k] + z->out[k];
    }
    t.bias = bias ? t.first[z->parts] : -1;
    return t;
}

/* ---- forward ---- */

int64_t cuda_linear_depth(const linear_size *z) {
    linear_tail t = cuda_linear_tail(z, z->bias);
    int64_t tail = t.first[t.parts] + (t.bias >= 0);
    return tail ? round_up_i64(z->in + tail, LINEAR_EIGHT) : z->in;
}

int64_t cuda_linear_pitch(const linear_size *z) {
    return round_up_i64(cuda_linear_depth(z), LINEAR_EIGHT);
}

bool cuda_linear_gathers(const linear_size *z) {
    return z->made || cuda_linear_depth(z) > z->in;
}

void cuda_linear_take(cuda_scratch *s, const linear_size *z, linear_space *out) {
    int64_t size = dtype_bytes(z->type), depth = cuda_linear_depth(z);
    bool tail = depth > z->in;
    memset(out, 0, sizeof *out);
    if (tail || z->made) out->w = cuda_take(s, z->stack * cuda_linear_pitch(z) * size);
    if (tail) out->x = cuda_take(s, z->rows * depth * size);
    for (int k = 0; k < z->parts; k++) out->u[k] = cuda_take(s, 4 * z->rows * z->rank[k]);
    out->gemm = cuda_take(s, cuda_gemm_space(z->rows, z->stack));
}

/* ---- backward ---- */

bool cuda_linear_back_gathers(const linear_size *z) {
    return z->made || z->parts > 1 || cuda_linear_rank(z) > 0;
}

int64_t cuda_linear_back_depth(const linear_size *z) {
    int64_t tail = z->dropout ? 0 : (int64_t)z->terms * cuda_linear_rank(z);
    return tail ? round_up_i64(z->stack + tail, LINEAR_EIGHT) : z->stack;
}

int64_t cuda_linear_back_pitch(const linear_size *z) {
    return cuda_linear_back_gathers(z) ? round_up_i64(z->in, LINEAR_EIGHT) : z->in;
}

int64_t cuda_adapter_sum_bytes(int64_t rows, int64_t cols, int64_t r) {
    return 4 * ((rows + ADAPTER_SPLIT - 1) / ADAPTER_SPLIT) * cols * r;
}

void cuda_linear_back_take(cuda_scratch *s, const linear_size *z, uint32_t gradients,
                           linear_back_space *out) {
    int64_t size = dtype_bytes(z->type), widest = 0, sums = 0, largest = z->rows, rank = 0;
    int64_t depth = cuda_linear_back_depth(z);
    bool dx = gradients >> LINEAR_X & 1, gathers = cuda_linear_back_gathers(z);
    memset(out, 0, sizeof *out);
    for (int k = 0; k < z->parts; k++) {
        if (gradients >> linear_w(k) & 1) largest = max_i64(largest, z->out[k]);
        if (!z->rank[k]) continue;
        rank = max_i64(rank, z->rank[k]);
        widest = max_i64(widest, z->rank[k] * z->out[k]);
        sums = max_i64(sums,
                       cuda_adapter_sum_bytes(z->rows, max_i64(z->in, z->out[k]), z->rank[k]));
        out->v[k] = cuda_take(s, 4 * z->rows * z->rank[k]);
    }
    out->u = cuda_take(s, 4 * z->rows * rank);
    out->turned = cuda_take(s, widest * size);
    out->sums = cuda_take(s, sums);
    if (dx && gathers) out->w = cuda_take(s, depth * cuda_linear_back_pitch(z) * size);
    if (dx && depth > z->stack) out->dy = cuda_take(s, z->rows * depth * size);
    if (dx && z->dropout) out->tile = cuda_take(s, 4 * min_i64(z->rows, LINEAR_CHUNK) * z->in);
    out->gemm = cuda_take(s, cuda_gemm_space(largest, z->in));
}

/* ---- planning ---- */

int64_t cuda_linear_scratch(const op_shape *shape) {
    linear_size z = cuda_linear_size_of_shape(shape);
    cuda_scratch s = {0};
    linear_space forward;
    linear_back_space backward;
    if (shape->backward)
        cuda_linear_back_take(&s, &z, shape->gradients, &backward);
    else
        cuda_linear_take(&s, &z, &forward);
    return s.used;
}
