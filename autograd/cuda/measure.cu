/* measure.cu: how fast matrix products and copies are on this card, for predictions.
 *
 * Random operands (zeros run 13 % faster than real numbers), the best of a few runs, each timed
 * by events on the compute stream. The memory is taken for the while: less than what opening
 * leaves free beside the arenas. */
#include "autograd/cuda/cuda.h"

extern "C" {
#include "common/alloc.h"
#include "common/philox.h"
#include "quant/convert.h"
}

enum {
    POOL = 1 << 14,        /* random numbers, repeated */
    COPY_BYTES = 48 << 20, /* beyond the card's cache */
    HOST_BYTES = 16 << 20,
    RUNS = 8,
    SMALL = 8, /* processors; a card with fewer is no card but an emulator */
};

typedef struct measuring {
    backend *b;
    cudaEvent_t begin, end;
    char *at;      /* on the device */
    char *host;    /* pinned */
    int64_t bytes; /* of either half of `at` */
    int64_t side;  /* of the products */
} measuring;

static int64_t side_of(const cuda_backend *c, dtype type) {
    if (c->processors < SMALL) return 128;
    return type == DTYPE_F32 ? 2048 : 4096;
}

static status fill_random(measuring *m, dtype type) {
    philox_stream s = philox_open(1, PHILOX_INIT, 0, 0, 0);
    float *pool = (float *)mem_alloc_array(2 * POOL, sizeof *pool, "measuring");
    if (!pool) return STATUS_MEMORY;
    for (int i = 0; i < POOL; i++)
        pool[i] = philox_uniform(philox_word(&s, (uint64_t)i)) - 0.5f;
    convert_array(pool, QUANT_SRC_F32, pool + POOL, (int)type, POOL);
    int64_t piece = POOL * dtype_bytes(type);
    status e = STATUS_OK;
    for (int64_t at = 0; at < 2 * m->bytes && e == STATUS_OK; at += piece)
        e = cuda_upload(m->b, m->at + at, pool + POOL, min_i64(piece, 2 * m->bytes - at));
    mem_free(pool);
    return e;
}

static status product(measuring *m, dtype type) {
    cuda_gemm_shape s = {};
    int64_t matrix = m->side * m->side * dtype_bytes(type);
    s.tb = true;
    s.in = s.out = type;
    s.m = s.n = s.k = s.lda = s.ldb = s.ldc = m->side;
    s.alpha = 1;
    return cuda_gemm_run(cuda_of(m->b)->gemm, cuda_stream(m->b), &s, m->at, m->at + matrix,
                         m->at + 2 * matrix, m->at + 2 * m->bytes);
}

static status copy(measuring *m, dtype type) {
    CUDA_TRY(m->b, cudaMemcpyAsync(m->at + m->bytes, m->at, (size_t)m->bytes,
                                   cudaMemcpyDeviceToDevice, cuda_stream(m->b)));
    return STATUS_OK;
}

static status copy_in(measuring *m, dtype type) {
    CUDA_TRY(m->b, cudaMemcpyAsync(m->at, m->host, HOST_BYTES, cudaMemcpyHostToDevice,
                                   cuda_stream(m->b)));
    return STATUS_OK;
}

/* The best time of a few runs; the first, which loads code, does not count. */
static status best_of(measuring *m, dtype type, status (*run)(measuring *, dtype),
                      double *best) {
    *best = 1e9;
    TRY(run(m, type));
    for (int i = 0; i < RUNS; i++) {
        float ms = 0;
        CUDA_TRY(m->b, cudaEventRecord(m->begin, cuda_stream(m->b)));
        TRY(run(m, type));
        CUDA_TRY(m->b, cudaEventRecord(m->end, cuda_stream(m->b)));
        CUDA_TRY(m->b, cudaEventSynchronize(m->end));
        CUDA_TRY(m->b, cudaEventElapsedTime(&ms, m->begin, m->end));
        if (ms > 0 && ms / 1e3 < *best) *best = ms / 1e3;
    }
    return STATUS_OK;
}

static status measure(measuring *m, dtype type, backend_rates *rates) {
    double products, copies, host;
    double side = (double)m->side;
    CUDA_TRY(m->b, cudaEventCreate(&m->begin));
    CUDA_TRY(m->b, cudaEventCreate(&m->end));
    CUDA_TRY(m->b, cudaHostAlloc((void **)&m->host, HOST_BYTES, cudaHostAllocDefault));
    CUDA_TRY(m->b, cudaMalloc((void **)&m->at, (size_t)(2 * m->bytes + CUDA_GEMM_SPACE)));
    TRY(fill_random(m, type));
    TRY(best_of(m, type, product, &products));
    TRY(best_of(m, type, copy, &copies));
    TRY(best_of(m, type, copy_in, &host));
    rates->gemm_flops = 2 * side * side * side / products;
    rates->copy_bytes = 2.0 * (double)m->bytes / copies; /* read and written */
    rates->host_bytes = HOST_BYTES / host;
    return STATUS_OK;
}

status cuda_measure(backend *b, dtype compute, backend_rates *rates) {
    measuring m = {};
    m.b = b;
    m.side = side_of(cuda_of(b), compute);
    int64_t matrices = 3 * m.side * m.side * dtype_bytes(compute);
    m.bytes = cuda_of(b)->processors < SMALL ? (int64_t)HOST_BYTES : (int64_t)COPY_BYTES;
    m.bytes = max_i64(m.bytes, round_up_i64(matrices / 2, CUDA_ALIGN));
    status s = measure(&m, compute, rates);
    if (m.begin) cudaEventDestroy(m.begin);
    if (m.end) cudaEventDestroy(m.end);
    if (m.host) cudaFreeHost(m.host);
    if (m.at) cudaFree(m.at);
    return s;
}
