/* head_size.c: see head_size.h. */
#include "autograd/cuda/head_size.h"
#include "autograd/cuda/gemm.h"
#include "autograd/cuda/sizes.h"

#include <string.h>

static head_size size_of(dtype type, int64_t rows, int64_t width, int64_t vocabulary) {
    return (head_size){.type = type,
                       .rows = rows,
                       .width = width,
                       .vocabulary = vocabulary,
                       .pitch = round_up_i64(vocabulary, 8)};
}

head_size cuda_head_size_of_shape(const op_shape *s) {
    head_size z = size_of(s->compute, s->rows, s->in[HEAD_W].cols, s->in[HEAD_W].rows);
    z.dx = s->backward && s->gradients >> HEAD_X & 1;
    z.dw = s->backward && s->gradients >> HEAD_W & 1;
    return z;
}

head_size cuda_head_size_of_call(const op_call *c) {
    head_size z = size_of(c->compute, c->rows, c->in[HEAD_W].cols, c->in[HEAD_W].rows);
    z.dx = c->gin[HEAD_X].data != NULL;
    z.dw = c->gin[HEAD_W].data != NULL;
    return z;
}

int64_t cuda_head_chunk(int64_t rows) {
    return min_i64(round_up_i64(rows, HEAD_STEP), HEAD_CHUNK);
}

void cuda_head_take(cuda_scratch *s, const head_size *z, head_space *out) {
    int64_t rows = cuda_head_chunk(z->rows), size = dtype_bytes(z->type);
    out->kept = cuda_take(s, 4 * round_up_i64(z->rows, HEAD_CHUNK));
    out->x = cuda_take(s, rows * z->width * size);
    out->logits = cuda_take(s, rows * z->pitch * size);
    out->dx = cuda_take(s, z->dx ? rows * z->width * size : 0);
    int64_t wide = max_i64(z->vocabulary, z->width);
    out->gemm = cuda_take(s, cuda_gemm_space(z->dw ? max_i64(rows, z->width) : rows, wide));
}

int64_t cuda_head_cross_entropy_scratch(const op_shape *shape) {
    head_size z = cuda_head_size_of_shape(shape);
    cuda_scratch s = {0};
    head_space at;
    cuda_head_take(&s, &z, &at);
    return s.used;
}

/* ---- logits of selected rows ---- */

void cuda_logits_take(cuda_scratch *s, dtype type, int64_t rows, int64_t vocabulary,
                      int64_t width, head_space *out) {
    memset(out, 0, sizeof *out);
    out->x = cuda_take(s, rows * width * dtype_bytes(type));
    out->gemm = cuda_take(s, cuda_gemm_space(rows, vocabulary));
}

int64_t cuda_logits_rows(const op_shape *s) {
    int64_t n = s->in[LOGITS_SELECTED].rows;
    return n > 0 ? n : s->rows;
}

int64_t cuda_logits_scratch(const op_shape *shape) {
    cuda_scratch s = {0};
    head_space at;
    cuda_logits_take(&s, shape->compute, cuda_logits_rows(shape), shape->in[LOGITS_W].rows,
                     shape->in[LOGITS_W].cols, &at);
    return s.used;
}
