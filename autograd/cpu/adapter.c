/* adapter.c: see adapter.h. dnnl_sgemm on one thread reaches 75 to 90 % of its full rate on
 * these shapes (16 columns, Zen 3), so there is no micro-kernel of our own here. */
#include "autograd/cpu/adapter.h"

#include "common/checked.h"

#include <stdatomic.h>

/* The thread that failed keeps the message; this one says where. */
static status outcome(bool failed) {
    return failed ? status_fail(STATUS_INTERNAL, "oneDNN refused a product of an adapter")
                  : STATUS_OK;
}

/* Rows row.. x columns col.. of `t` in f32, dropped where asked: in place when nothing is to
 * be done, else widened into this thread's piece. */
static const float *widened(const tensor *t, const dropout *drop, int64_t row, int64_t rows,
                            int64_t col, int64_t cols, float *pieces, int64_t *ld) {
    bool dropped = drop && drop->on;
    if (t->type == DTYPE_F32 && !dropped) {
        *ld = t->stride;
        return cpu_at(t, row, col);
    }
    float *piece = pieces + (int64_t)parallel_thread() * ADAPTER_FLOATS;
    for (int64_t i = 0; i < rows; i++) {
        cpu_load(t, row + i, col, cols, piece + i * cols);
        if (dropped) dropout_apply(drop, row + i, col, cols, piece + i * cols);
    }
    *ld = cols;
    return piece;
}

/* out [rows, r] = scale * t [rows, depth] W, W stored [r, depth] (transposed) or [depth, r].
 */
static status down(backend *b, const tensor *t, const dropout *drop, const float *w,
                   bool transposed, int64_t r, float scale, float *out, float *pieces) {
    atomic_bool failed = false;
    int64_t chunks = (t->rows + ADAPTER_ROWS - 1) / ADAPTER_ROWS;
    PARALLEL_FOR(b)
    for (int64_t c = 0; c < chunks; c++) {
        int64_t row = c * ADAPTER_ROWS, rows = min_i64(ADAPTER_ROWS, t->rows - row);
        for (int64_t k = 0; k < t->cols; k += ADAPTER_DEPTH) {
            gemm_shape s = {.tb = transposed, .add = k > 0, .m = rows, .n = r, .ldc = r};
            s.k = min_i64(ADAPTER_DEPTH, t->cols - k);
            s.ldb = transposed ? t->cols : r;
            const float *from = widened(t, drop, row, rows, k, s.k, pieces, &s.lda);
            const float *with = w + (transposed ? k : k * r);
            if (gemm_f32(&s, scale, from, with, out + row * r) != STATUS_OK) failed = true;
        }
    }
    return outcome(failed);
}

status adapter_down(backend *b, const adapter *p, const tensor *x, float *u, float *pieces) {
    return down(b, x, &p->drop, p->a, true, p->rank, p->scale, u, pieces);
}

status adapter_down_gradient(backend *b, const adapter *p, const tensor *dy, float *v,
                             float *pieces) {
    return down(b, dy, NULL, p->b, false, p->rank, p->scale, v, pieces);
}

/* One slab of a sum over rows, in row order: da[:, col..] += v^T t (as_rows) or
 * db[col.., :] += t^T u. */
static status sum_slab(const tensor *t, const dropout *drop, const float *skinny, int64_t r,
                       int64_t col, bool as_rows, float *gradient, float *pieces) {
    int64_t cols = min_i64(ADAPTER_SLAB, t->cols - col), ld;
    for (int64_t row = 0; row < t->rows; row += ADAPTER_DEPTH) {
        int64_t rows = min_i64(ADAPTER_DEPTH, t->rows - row);
        const float *wide = widened(t, drop, row, rows, col, cols, pieces, &ld);
        const float *thin = skinny + row * r;
        gemm_shape s = {.ta = true, .add = true, .k = rows};
        if (as_rows) {
            s.m = r, s.n = cols, s.lda = r, s.ldb = ld, s.ldc = t->cols;
            TRY(gemm_f32(&s, 1.0f, thin, wide, gradient + col));
        } else {
            s.m = cols, s.n = r, s.lda = ld, s.ldb = r, s.ldc = r;
            TRY(gemm_f32(&s, 1.0f, wide, thin, gradient + col * r));
        }
    }
    return STATUS_OK;
}

static status sum_rows(backend *b, const tensor *t, const dropout *drop, const float *skinny,
                       int64_t r, bool as_rows, float *gradient, float *pieces) {
    atomic_bool failed = false;
    int64_t slabs = (t->cols + ADAPTER_SLAB - 1) / ADAPTER_SLAB;
    PARALLEL_FOR(b)
    for (int64_t s = 0; s < slabs; s++) {
        int64_t col = s * ADAPTER_SLAB;
        if (sum_slab(t, drop, skinny, r, col, as_rows, gradient, pieces) != STATUS_OK)
            failed = true;
    }
    return outcome(failed);
}

status adapter_gradient_a(backend *b, const adapter *p, const tensor *x, const float *v,
                          float *da, float *pieces) {
    return sum_rows(b, x, &p->drop, v, p->rank, true, da, pieces);
}

status adapter_gradient_b(backend *b, const adapter *p, const tensor *dy, const float *u,
                          float *db, float *pieces) {
    return sum_rows(b, dy, NULL, u, p->rank, false, db, pieces);
}
