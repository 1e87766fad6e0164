/* embedding.c: OP_EMBEDDING, a gather of rows and its scatter.
 *
 * An id outside the table (the -1 of bucket padding) gives a row of zeros and no gradient. The
 * scatter gives each thread columns and walks the rows in order, so that a token that occurs
 * twice is always summed in the same order, without atomics. */
#include "autograd/cpu/cpu.h"

#include "common/checked.h"

#include <string.h>

enum { SLAB = 64 /* columns */ };

static bool is_token(int32_t id, const tensor *w) {
    return id >= 0 && id < w->rows;
}

static void gather_row(const tensor *w, int32_t id, float scale, const tensor *y,
                       int64_t row) {
    int64_t row_bytes = y->cols * dtype_bytes(y->type);
    if (!is_token(id, w)) {
        memset(cpu_at(y, row, 0), 0, (size_t)row_bytes);
        return;
    }
    if (scale == 0) {
        memcpy(cpu_at(y, row, 0), cpu_at(w, id, 0), (size_t)row_bytes);
        return;
    }
    float piece[SLAB];
    for (int64_t c = 0; c < y->cols; c += SLAB) {
        int64_t n = min_i64(SLAB, y->cols - c);
        cpu_load(w, id, c, n, piece);
        for (int64_t j = 0; j < n; j++) piece[j] *= scale;
        cpu_store(y, row, c, n, piece);
    }
}

status cpu_embedding_forward(backend *b, const op_call *c) {
    const int32_t *ids = c->in[EMBEDDING_IDS].data;
    const tensor *w = &c->in[EMBEDDING_W], *y = &c->out[0];
    PARALLEL_FOR(b)
    for (int64_t row = 0; row < c->rows; row++)
        gather_row(w, ids[row], c->attr->embedding.scale, y, row);
    return STATUS_OK;
}

status cpu_embedding_backward(backend *b, const op_call *c) {
    const int32_t *ids = c->in[EMBEDDING_IDS].data;
    const tensor *dy = &c->gout[0], *dw = &c->gin[EMBEDDING_W];
    float scale = c->attr->embedding.scale != 0 ? c->attr->embedding.scale : 1;
    if (!dy->data || !dw->data) return STATUS_OK;
    int64_t slabs = (dw->cols + SLAB - 1) / SLAB;
    PARALLEL_FOR(b)
    for (int64_t s = 0; s < slabs; s++) {
        int64_t col = s * SLAB, n = min_i64(SLAB, dw->cols - col);
        float piece[SLAB];
        for (int64_t row = 0; row < c->rows; row++) {
            if (!is_token(ids[row], dw)) continue;
            float *to = cpu_at(dw, ids[row], col);
            cpu_load(dy, row, col, n, piece);
            for (int64_t j = 0; j < n; j++) to[j] += scale * piece[j];
        }
    }
    return STATUS_OK;
}
