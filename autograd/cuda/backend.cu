/* backend.cu: an NVIDIA card as a back end: opening, memory, streams and events, and the table.
 *
 * Three streams are the three queues; an event of queue.h is a ticket whose cudaEvent lies in a
 * ring. A ring's entry that was recorded anew stands for a later point of the same stream: who
 * waits for it waits longer, never for something that was issued after it.
 *
 * Order of opening: context, library, streams and one product of each kind (the library loads its
 * code then), and only then is free memory measured. What a plan may take is that less RESERVE,
 * for code that the driver loads when a kernel first runs. After that there is one allocation
 * for the device's arena and one for the pinned host's. */
#include "autograd/cuda/cuda.h"

extern "C" {
#include "common/alloc.h"
#include "common/checked.h"
}

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    LEAST_CAPABILITY = 80,
    RESERVE = 192 << 20,
    TRIAL = 256, /* side of the products that make the library load its code */
};

/* ---- errors ---- */

status cuda_check(backend *b, cudaError_t error, const char *what) {
    cuda_backend *c = cuda_of(b);
    if (c->failed != STATUS_OK) return status_set(c->failed, c->message);
    if (error == cudaSuccess) return STATUS_OK;
    c->failed = STATUS_DEVICE;
    int name = (int)strcspn(what, "("); /* of a call: without its arguments */
    snprintf(c->message, sizeof c->message,
             "%s: %.*s: %s (%s); the last checkpoint stays, --resume goes on from it", c->name,
             name, what, cudaGetErrorString(error), cudaGetErrorName(error));
    return status_set(c->failed, c->message);
}

/* ---- queues ---- */

void cuda_order(backend *b, queue q, event after) {
    cuda_backend *c = cuda_of(b);
    if (!after.ticket || after.on == q) return; /* a queue is in order */
    cudaEvent_t e = c->event[after.on][after.ticket % CUDA_EVENTS];
    cuda_check(b, cudaStreamWaitEvent(c->stream[q], e, 0), "ordering two queues");
}

event cuda_point(backend *b, queue q) {
    cuda_backend *c = cuda_of(b);
    uint64_t ticket = ++c->given[q];
    cuda_check(b, cudaEventRecord(c->event[q][ticket % CUDA_EVENTS], c->stream[q]),
               "marking a queue");
    return (event){q, ticket};
}

static event cuda_copy(backend *b, queue q, void *to, const void *from, int64_t bytes,
                       event after) {
    cudaMemcpyKind kind = q == QUEUE_IN ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost;
    cuda_order(b, q, after);
    if (bytes > 0)
        cuda_check(b, cudaMemcpyAsync(to, from, (size_t)bytes, kind, cuda_of(b)->stream[q]),
                   "copying a page");
    return cuda_point(b, q);
}

static event cuda_mark(backend *b) {
    return cuda_point(b, QUEUE_COMPUTE);
}

/* The card waits, the caller does not. */
static double cuda_await(backend *b, event e) {
    cuda_order(b, QUEUE_COMPUTE, e);
    return 0;
}

static status cuda_sync(backend *b) {
    cuda_backend *c = cuda_of(b);
    for (int q = 0; q < QUEUE_COUNT; q++) CUDA_TRY(b, cudaStreamSynchronize(c->stream[q]));
    return cuda_staging_failure(c);
}

static status cuda_fill(backend *b, void *at, int byte, int64_t bytes) {
    if (bytes <= 0) return STATUS_OK;
    CUDA_TRY(b, cudaMemsetAsync(at, byte, (size_t)bytes, cuda_stream(b)));
    return STATUS_OK;
}

/* ---- memory ---- */

static status no_memory(bool host, int64_t bytes, cudaError_t e) {
    cudaGetLastError(); /* a refused allocation breaks nothing */
    return status_fail(STATUS_MEMORY,
                       "cannot reserve %" PRId64 " bytes of %s memory for the %s arena (%s): "
                       "lower memory.%s_budget or sequence_len",
                       bytes, host ? "pinned" : "the card's", host ? "host" : "device",
                       cudaGetErrorString(e), host ? "host" : "device");
}

static status cuda_reserve(backend *b, bool host, int64_t bytes, void **base) {
    *base = NULL;
    if (bytes <= 0) return STATUS_OK;
    cudaError_t e = host ? cudaHostAlloc(base, (size_t)bytes, cudaHostAllocDefault)
                         : cudaMalloc(base, (size_t)bytes);
    if (e != cudaSuccess) {
        *base = NULL;
        return no_memory(host, bytes, e);
    }
    if (host) {
        memset(*base, 0, (size_t)bytes);
        return STATUS_OK;
    }
    return cuda_fill(b, *base, 0, bytes);
}

static void cuda_release(backend *b, bool host, void *base, int64_t bytes) {
    if (!base) return;
    if (host)
        cudaFreeHost(base);
    else
        cudaFree(base);
}

/* ---- what differs by operation ---- */

static status cuda_prepare(backend *b, const op_shape *s) {
    switch (s->op) {
    case OP_LINEAR:
        return cuda_linear_prepare(b, s);
    case OP_ATTENTION:
        return cuda_attention_prepare(b, s);
    case OP_HEAD_CROSS_ENTROPY:
        return cuda_head_cross_entropy_prepare(b, s);
    case OP_LOGITS:
        return cuda_logits_prepare(b, s);
    default:
        return STATUS_OK;
    }
}

static status cuda_tune(backend *b, status (*go_on)(int64_t, int64_t), json_t **table) {
    cuda_backend *c = cuda_of(b);
    return cuda_gemm_tune(c->gemm, cuda_stream(b), c->name, go_on, table);
}

static status cuda_use_table(backend *b, const json_t *table, bool *fits) {
    cuda_backend *c = cuda_of(b);
    return cuda_gemm_use_table(c->gemm, c->name, table, fits);
}

/* ---- opening ---- */

static void cuda_describe(backend *b, char *text, size_t bytes) {
    const cuda_backend *c = cuda_of(b);
    char products[80];
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cuda_gemm_describe(c->gemm, products, sizeof products);
    snprintf(text, bytes,
             "cuda: %s, sm_%d, %d processors\ndriver: CUDA %d.%d, runtime %d.%d\n"
             "products: %s\n",
             c->name, c->capability, c->processors, driver / 1000, driver / 10 % 100,
             runtime / 1000, runtime / 10 % 100, products);
}

static void cuda_close(backend *b) {
    if (!b) return;
    cuda_backend *c = cuda_of(b);
    for (int q = 0; q < QUEUE_COUNT; q++)
        if (c->stream[q]) cudaStreamSynchronize(c->stream[q]);
    cuda_staging_close(c);
    cuda_gemm_close(c->gemm);
    for (int q = 0; q < QUEUE_COUNT; q++) {
        for (int i = 0; i < CUDA_EVENTS; i++)
            if (c->event[q][i]) cudaEventDestroy(c->event[q][i]);
        if (c->stream[q]) cudaStreamDestroy(c->stream[q]);
    }
    mem_free(c);
}

/* Why there is no card to use; cudaErrorInsufficientDriver is also a missing driver. */
static status no_card(cudaError_t e) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (e == cudaErrorInsufficientDriver && driver == 0)
        return status_fail(STATUS_DEVICE, "no NVIDIA driver is installed; --device cpu runs "
                                          "everywhere");
    if (e == cudaErrorInsufficientDriver)
        return status_fail(STATUS_DEVICE,
                           "the NVIDIA driver supports CUDA %d.%d and this build needs %d.%d: "
                           "update the driver, or --device cpu",
                           driver / 1000, driver / 10 % 100, runtime / 1000,
                           runtime / 10 % 100);
    return status_fail(STATUS_DEVICE,
                       "no NVIDIA card can be used here: %s; --device cpu runs "
                       "everywhere",
                       e == cudaSuccess ? "the driver shows none" : cudaGetErrorString(e));
}

bool backend_cuda_present(void) {
    int count = 0;
    cudaError_t e = cudaGetDeviceCount(&count);
    cudaGetLastError();
    /* a driver that is too old hides its cards and says so */
    int driver = 0;
    if (e == cudaErrorInsufficientDriver) cudaDriverGetVersion(&driver);
    return driver > 0 || (e == cudaSuccess && count > 0);
}

static status look_at_card(cuda_backend *c) {
    int count = 0, major = 0, minor = 0, shared = 0;
    cudaError_t e = cudaGetDeviceCount(&count);
    if (e != cudaSuccess || count < 1) return no_card(e);
    cudaDeviceProp *p = (cudaDeviceProp *)mem_alloc(sizeof *p, "a card's properties");
    if (!p) return STATUS_MEMORY;
    e = cudaGetDeviceProperties(p, c->device);
    if (e == cudaSuccess) snprintf(c->name, sizeof c->name, "%.63s", p->name);
    mem_free(p);
    if (e != cudaSuccess) return no_card(e);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, c->device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, c->device);
    cudaDeviceGetAttribute(&c->processors, cudaDevAttrMultiProcessorCount, c->device);
    cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->device);
    c->shared_most = shared;
    c->capability = 10 * major + minor;
    if (c->capability >= LEAST_CAPABILITY) return STATUS_OK;
    return status_fail(
        STATUS_DEVICE,
        "%s has compute capability %d.%d; 8.0 (Ampere) or newer is needed, whose "
        "matrix units know bf16; --device cpu runs everywhere",
        c->name, major, minor);
}

static status open_queues(backend *b) {
    cuda_backend *c = cuda_of(b);
    for (int q = 0; q < QUEUE_COUNT; q++) {
        CUDA_TRY(b, cudaStreamCreateWithFlags(&c->stream[q], cudaStreamNonBlocking));
        for (int i = 0; i < CUDA_EVENTS; i++)
            CUDA_TRY(b, cudaEventCreateWithFlags(&c->event[q][i], cudaEventDisableTiming));
    }
    return STATUS_OK;
}

static status try_product(cuda_backend *c, dtype in, dtype out, bool ta, bool tb, char *at) {
    cuda_gemm_shape s = {ta, tb, false, in, out, TRIAL, TRIAL, TRIAL, TRIAL, TRIAL, TRIAL, 1};
    return cuda_gemm_run(c->gemm, c->stream[QUEUE_COMPUTE], &s, at + CUDA_GEMM_SPACE,
                         at + CUDA_GEMM_SPACE, at + CUDA_GEMM_SPACE + 4 * TRIAL * TRIAL, at);
}

/* One product of each kind, so that the library has loaded what it keeps. */
static status load_library(backend *b) {
    static const struct {
        dtype in, out;
        bool ta, tb;
    } kinds[] = {
        {DTYPE_BF16, DTYPE_BF16, false, true}, {DTYPE_BF16, DTYPE_BF16, false, false},
        {DTYPE_BF16, DTYPE_F32, false, true},  {DTYPE_BF16, DTYPE_F32, true, false},
        {DTYPE_F32, DTYPE_F32, false, true},
    };
    char *at;
    CUDA_TRY(b, cudaMalloc((void **)&at, CUDA_GEMM_SPACE + 8 * TRIAL * TRIAL));
    status s = cuda_fill(b, at, 0, CUDA_GEMM_SPACE + 8 * TRIAL * TRIAL);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && s == STATUS_OK; i++)
        s = try_product(cuda_of(b), kinds[i].in, kinds[i].out, kinds[i].ta, kinds[i].tb, at);
    if (s == STATUS_OK) s = cuda_sync(b);
    cudaFree(at);
    return s;
}

static status measure_memory(backend *b) {
    size_t left = 0, all = 0;
    CUDA_TRY(b, cudaMemGetInfo(&left, &all));
    b->memory = max_i64((int64_t)left - RESERVE, 1);
    b->context = (int64_t)all - b->memory;
    return STATUS_OK;
}

static void make_table(backend_table *t);

status backend_cuda_open(backend **out) {
    *out = NULL;
    cuda_backend *c = (cuda_backend *)mem_alloc(sizeof *c, "CUDA back end");
    if (!c) return STATUS_MEMORY;
    backend *b = &c->base;
    make_table(&c->table);
    b->table = &c->table;
    b->threads = 1;
    status s = look_at_card(c);
    if (s == STATUS_OK) s = cuda_check(b, cudaSetDevice(c->device), "taking the card");
    if (s == STATUS_OK) s = cuda_gemm_open(&c->gemm, c->device);
    if (s == STATUS_OK) s = open_queues(b);
    if (s == STATUS_OK) s = cuda_staging_open(c);
    if (s == STATUS_OK) s = load_library(b);
    if (s == STATUS_OK) s = measure_memory(b);
    if (s != STATUS_OK) {
        cuda_close(b);
        return s;
    }
    *out = b;
    return STATUS_OK;
}

/* ---- the table ---- */

static void make_table(backend_table *t) {
    t->name = "cuda";
    t->close = cuda_close;
    t->describe = cuda_describe;
    t->types = 1u << DTYPE_F32 | 1u << DTYPE_BF16 | 1u << DTYPE_F16;
    t->native_types = t->types;
    t->alignment = CUDA_ALIGN;
    t->reserve = cuda_reserve;
    t->release = cuda_release;
    t->scratch = cuda_scratch_bytes;
    t->prepare = cuda_prepare;
    t->tune = cuda_tune;
    t->use_table = cuda_use_table;
    t->measure = cuda_measure;
    t->copy = cuda_copy;
    t->read = cuda_read;
    t->mark = cuda_mark;
    t->await = cuda_await;
    t->sync = cuda_sync;
    t->fill = cuda_fill;
    t->upload = cuda_upload;
    t->download = cuda_download;
    t->forward[OP_EMBEDDING] = cuda_embedding_forward;
    t->forward[OP_RMSNORM] = cuda_rmsnorm_forward;
    t->forward[OP_LINEAR] = cuda_linear_forward;
    t->forward[OP_ROPE] = cuda_rope_forward;
    t->forward[OP_ATTENTION] = cuda_attention_forward;
    t->forward[OP_GLU] = cuda_glu_forward;
    t->forward[OP_ADD] = cuda_add_forward;
    t->forward[OP_HEAD_CROSS_ENTROPY] = cuda_head_cross_entropy_forward;
    t->forward[OP_LOGITS] = cuda_logits_forward;
    t->forward[OP_FAKE_QUANT] = cuda_fake_quant_forward;
    t->forward[OP_LOSS_SUM] = cuda_loss_sum_forward;
    t->forward[OP_SQUARE_SUM] = cuda_square_sum_forward;
    t->forward[OP_ADAMW] = cuda_adamw_forward;
    t->backward[OP_EMBEDDING] = cuda_embedding_backward;
    t->backward[OP_RMSNORM] = cuda_rmsnorm_backward;
    t->backward[OP_LINEAR] = cuda_linear_backward;
    t->backward[OP_ROPE] = cuda_rope_backward;
    t->backward[OP_ATTENTION] = cuda_attention_backward;
    t->backward[OP_GLU] = cuda_glu_backward;
    t->backward[OP_ADD] = cuda_add_backward;
    t->backward[OP_HEAD_CROSS_ENTROPY] = cuda_head_cross_entropy_backward;
    t->backward[OP_FAKE_QUANT] = cuda_fake_quant_backward;
}
