/* measure.c: how fast matrix products and copies are, for predictions.
 *
 * Random operands (zeros run faster than real numbers), the best of a few runs, about 0.3 s in
 * all. */
#include "autograd/cpu/cpu.h"

#include "common/alloc.h"
#include "common/checked.h"
#include "common/philox.h"

#include <string.h>
#include <time.h>

enum {
    SIDE = 768,           /* of the square product: 0.9 GFLOP */
    COPY_BYTES = 16 << 20 /* beyond the caches of a core */
};

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fill_random(void *at, dtype type, int64_t n) {
    philox_stream s = philox_open(1, PHILOX_INIT, 0, 0, 0);
    tensor_format f = format_of(type, 1, n);
    tensor t = tensor_at(&f, at);
    for (int64_t i = 0; i < n; i++) {
        float x = philox_uniform(philox_word(&s, (uint64_t)i)) - 0.5f;
        cpu_store(&t, 0, i, 1, &x);
    }
}

/* FLOP/s of one product in `type`; runs until 0.15 s are over, at least twice. */
static status measure_product(backend *b, dtype type, double *rate) {
    gemm *g = cpu_of(b)->gemm;
    gemm_shape s = {.tb = true,
                    .in = type,
                    .out = type,
                    .m = SIDE,
                    .n = SIDE,
                    .k = SIDE,
                    .lda = SIDE,
                    .ldb = SIDE,
                    .ldc = SIDE};
    int64_t matrix = round_up_i64(SIDE * SIDE * dtype_bytes(type), TENSOR_ALIGN);
    int64_t bytes;
    TRY(gemm_plan(g, &s, &bytes));
    char *space = mem_alloc((size_t)(3 * matrix + bytes), "measuring");
    if (!space) return STATUS_MEMORY;
    fill_random(space, type, SIDE * SIDE);
    fill_random(space + matrix, type, SIDE * SIDE);
    status e = STATUS_OK;
    double best = 1e9, start = seconds_now();
    for (int i = 0; e == STATUS_OK && (i < 2 || seconds_now() - start < 0.15); i++) {
        double t = seconds_now();
        e = gemm_run(g, &s, space, space + matrix, space + 2 * matrix,
                     (gemm_space){space + 3 * matrix, bytes});
        t = seconds_now() - t;
        if (t < best) best = t;
    }
    mem_free(space);
    *rate = 2.0 * SIDE * SIDE * SIDE / best;
    return e;
}

/* Bytes per second of a copy with all threads, or through one copy queue. */
static status measure_copy(backend *b, double *all, double *queued) {
    char *space = mem_alloc(2 * COPY_BYTES, "measuring");
    if (!space) return STATUS_MEMORY;
    memset(space, 1, 2 * COPY_BYTES); /* touches the pages */
    double best_all = 1e9, best_queued = 1e9;
    for (int i = 0; i < 5; i++) {
        double t = seconds_now();
        PARALLEL_FOR(b)
        for (int part = 0; part < 64; part++)
            memcpy(space + COPY_BYTES + part * (COPY_BYTES / 64),
                   space + part * (COPY_BYTES / 64), COPY_BYTES / 64);
        t = seconds_now() - t;
        if (t < best_all) best_all = t;
        t = seconds_now();
        b->table->await(
            b, b->table->copy(b, QUEUE_IN, space + COPY_BYTES, space, COPY_BYTES, (event){0}));
        t = seconds_now() - t;
        if (t < best_queued) best_queued = t;
    }
    mem_free(space);
    *all = 2.0 * COPY_BYTES / best_all; /* read and written */
    *queued = COPY_BYTES / best_queued;
    return STATUS_OK;
}

status cpu_measure(backend *b, dtype compute, backend_rates *rates) {
    TRY(measure_product(b, compute, &rates->gemm_flops));
    return measure_copy(b, &rates->copy_bytes, &rates->host_bytes);
}
