/* masters.c: see masters.h. */
#include "trainer/model/masters.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "trainer/model/weights.h"

enum { PIECE = 1 << 18 }; /* elements */

const trainable *trainable_of(const decoder *d, parameter_id working) {
    for (size_t i = 0; i < d->trainable_count; i++)
        if (d->trainables[i].working == working) return &d->trainables[i];
    return NULL;
}

/* Rounds n <= PIECE values into the working copy; `rounded` has room for PIECE of them. */
static status put_working(const decoder *d, engine *e, parameter_id working, int64_t first,
                          int64_t n, const float *values, void *rounded) {
    dtype type = d->table.items[working].format.type;
    int64_t size = dtype_bytes(type);
    convert_array(values, QUANT_SRC_F32, rounded, quant_source_of(type), n);
    return engine_load(e, working, rounded, first * size, n * size);
}

static status put_pieces(const decoder *d, engine *e, parameter_id working, int64_t first,
                         int64_t n, const float *values, void *rounded) {
    const trainable *t = trainable_of(d, working);
    for (int64_t at = 0; at < n; at += PIECE) {
        int64_t m = min_i64(PIECE, n - at);
        TRY(put_working(d, e, working, first + at, m, values + at, rounded));
        if (t) TRY(engine_load(e, t->master, values + at, (first + at) * 4, m * 4));
    }
    return STATUS_OK;
}

status masters_put(const decoder *d, engine *e, parameter_id working, int64_t first, int64_t n,
                   const float *values) {
    void *rounded = mem_alloc((size_t)min_i64(n, PIECE) * 4, "rounding of masters");
    if (!rounded) return STATUS_MEMORY;
    status s = put_pieces(d, e, working, first, n, values, rounded);
    mem_free(rounded);
    return s;
}

status masters_get(const decoder *d, engine *e, parameter_id working, int64_t first, int64_t n,
                   float *values) {
    const trainable *t = trainable_of(d, working);
    if (!t)
        return status_fail(STATUS_INTERNAL, "%s is not trained", d->table.items[working].name);
    return engine_store(e, t->master, values, first * 4, n * 4);
}

static status round_one(const decoder *d, engine *e, const trainable *t, float *values,
                        void *rounded) {
    int64_t count = t->rows * t->cols;
    for (int64_t at = 0; at < count; at += PIECE) {
        int64_t n = min_i64(PIECE, count - at);
        TRY(engine_store(e, t->master, values, at * 4, n * 4));
        TRY(put_working(d, e, t->working, at, n, values, rounded));
    }
    return STATUS_OK;
}

status masters_round(const decoder *d, engine *e) {
    float *values = mem_alloc(2 * PIECE * sizeof *values, "rounding of masters");
    status s = values ? STATUS_OK : STATUS_MEMORY;
    for (size_t i = 0; s == STATUS_OK && i < d->trainable_count; i++)
        s = round_one(d, e, &d->trainables[i], values, values + PIECE);
    mem_free(values);
    return s;
}
