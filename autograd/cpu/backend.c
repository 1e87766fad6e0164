/* backend.c: the CPU as a back end: memory, two copy queues that are threads, and the table.
 *
 * Compute runs on the caller, so an event of it has always passed. A queue is a worker; each
 * of its transfers lies in a ring as long as the worker's, so nothing is allocated after open.
 * A transfer that waits for the other queue waits on that worker's ticket inside its own
 * thread; since it was given later, the two cannot wait for each other. */
#include "autograd/cpu/cpu.h"

#include "common/alloc.h"
#include "common/checked.h"
#include "quant/simd.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#if SIMD_X86
#include <cpuid.h>
#endif

struct cpu_transfer {
    cpu_backend *owner;
    const file *file; /* NULL: a copy from `from` */
    const void *from;
    void *to;
    int64_t offset, bytes;
    event after;
};

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- queues ---- */

static status transfer_run(void *context) {
    const cpu_transfer *t = context;
    if (t->after.ticket && t->after.on != QUEUE_COMPUTE)
        TRY(worker_wait(t->owner->queue[t->after.on], t->after.ticket));
    if (t->file) return file_read_at(t->file, t->to, (size_t)t->bytes, t->offset);
    if (t->bytes) memcpy(t->to, t->from, (size_t)t->bytes); /* none: only waits */
    return STATUS_OK;
}

static event give(backend *b, queue q, cpu_transfer t) {
    cpu_backend *c = cpu_of(b);
    uint64_t ticket = c->given[q] + 1;
    /* the ring's entry is free once the transfer that last used it ran */
    if (ticket > CPU_QUEUE_DEPTH) worker_wait(c->queue[q], ticket - CPU_QUEUE_DEPTH);
    if (t.after.on == q) t.after.ticket = 0; /* a queue is in order */
    t.owner = c;
    cpu_transfer *kept = &c->transfer[q][ticket % CPU_QUEUE_DEPTH];
    *kept = t;
    c->given[q] = worker_give(c->queue[q], transfer_run, kept);
    return (event){q, c->given[q]};
}

static event cpu_copy(backend *b, queue q, void *to, const void *from, int64_t bytes,
                      event after) {
    return give(b, q, (cpu_transfer){.from = from, .to = to, .bytes = bytes, .after = after});
}

static event cpu_read(backend *b, queue q, const file *f, int64_t offset, void *to,
                      int64_t bytes, event after) {
    return give(
        b, q,
        (cpu_transfer){.file = f, .to = to, .offset = offset, .bytes = bytes, .after = after});
}

static event cpu_mark(backend *b) {
    return (event){QUEUE_COMPUTE, 0};
}

/* A failure stays with the queue and is returned by sync. */
static double cpu_await(backend *b, event e) {
    if (!e.ticket || e.on == QUEUE_COMPUTE) return 0;
    worker *w = cpu_of(b)->queue[e.on];
    if (worker_done(w, e.ticket)) return 0;
    double start = seconds_now();
    worker_wait(w, e.ticket);
    return seconds_now() - start;
}

static status cpu_sync(backend *b) {
    cpu_backend *c = cpu_of(b);
    status in = worker_wait(c->queue[QUEUE_IN], c->given[QUEUE_IN]);
    status out = worker_wait(c->queue[QUEUE_OUT], c->given[QUEUE_OUT]);
    if (in == STATUS_OK) return out;
    return worker_wait(c->queue[QUEUE_IN], c->given[QUEUE_IN]); /* again, for its message */
}

static status cpu_fill(backend *b, void *at, int byte, int64_t bytes) {
    memset(at, byte, (size_t)bytes);
    return STATUS_OK;
}

static status cpu_upload(backend *b, void *to, const void *from, int64_t n) {
    memcpy(to, from, (size_t)n);
    return STATUS_OK;
}

/* ---- memory ---- */

static status cpu_reserve(backend *b, bool host, int64_t bytes, void **base) {
    *base = NULL;
    if (bytes <= 0) return STATUS_OK;
    void *at =
        mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return status_fail(STATUS_MEMORY,
                           "cannot reserve %" PRId64 " bytes of memory for the %s arena: "
                           "lower memory.device_budget or sequence_len",
                           bytes, host ? "host" : "device");
    madvise(at, (size_t)bytes, MADV_HUGEPAGE); /* advice only */
    *base = at;
    return STATUS_OK;
}

static void cpu_release(backend *b, bool host, void *base, int64_t bytes) {
    if (base) munmap(base, (size_t)bytes);
}

/* ---- what differs by operation ---- */

typedef struct needs {
    int64_t (*scratch)(backend *b, const op_shape *s);
    status (*prepare)(backend *b, const op_shape *s);
} needs;

static const needs needs_of[OP_COUNT] = {
    [OP_RMSNORM] = {.scratch = cpu_rmsnorm_scratch},
    [OP_LINEAR] = {cpu_linear_scratch, cpu_linear_prepare},
    [OP_ROPE] = {.scratch = cpu_rope_scratch},
    [OP_ATTENTION] = {.scratch = cpu_attention_scratch},
    [OP_HEAD_CROSS_ENTROPY] = {cpu_head_cross_entropy_scratch, cpu_head_cross_entropy_prepare},
    [OP_LOGITS] = {cpu_logits_scratch, cpu_logits_prepare},
    [OP_FAKE_QUANT] = {.scratch = cpu_fake_quant_scratch},
};

static int64_t cpu_scratch(backend *b, const op_shape *s) {
    const needs *n = &needs_of[s->op];
    return n->scratch ? n->scratch(b, s) : 0;
}

static status cpu_prepare(backend *b, const op_shape *s) {
    const needs *n = &needs_of[s->op];
    return n->prepare ? n->prepare(b, s) : STATUS_OK;
}

/* ---- opening ---- */

/* The processor's own name, "" where it cannot be asked. */
static void processor_name(char text[49]) {
    memset(text, 0, 49);
#if SIMD_X86
    unsigned word[12], top, unused[3];
    if (!__get_cpuid(0x80000000, &top, &unused[0], &unused[1], &unused[2]) || top < 0x80000004)
        return;
    for (unsigned i = 0; i < 3; i++)
        __get_cpuid(0x80000002 + i, &word[4 * i], &word[4 * i + 1], &word[4 * i + 2],
                    &word[4 * i + 3]);
    memcpy(text, word, sizeof word);
#endif
}

static void cpu_describe(backend *b, char *text, size_t bytes) {
    static const char *const levels[] = {"baseline", "AVX2", "AVX512"};
    char name[49], products[160];
    processor_name(name);
    gemm_describe(cpu_of(b)->gemm, products, sizeof products);
    snprintf(text, bytes, "cpu: %s\nthreads: %d\nloops: %s\nproducts: %s\n", name, b->threads,
             levels[simd_get()], products);
}

static void cpu_close(backend *b) {
    if (!b) return;
    cpu_backend *c = cpu_of(b);
    for (int q = 0; q < QUEUE_COUNT; q++) {
        worker_close(c->queue[q]);
        mem_free(c->transfer[q]);
    }
    gemm_close(c->gemm);
    mem_free(c);
}

static const backend_table cpu_table = {
    .name = "cpu",
    .close = cpu_close,
    .describe = cpu_describe,
    .types = 1u << DTYPE_F32 | 1u << DTYPE_BF16 | 1u << DTYPE_F16,
    .native_types =
        1u << DTYPE_F32, /* and bf16 where the processor has it: backend_cpu_open */
    .alignment = TENSOR_ALIGN,
    .reserve = cpu_reserve,
    .release = cpu_release,
    .scratch = cpu_scratch,
    .prepare = cpu_prepare,
    .measure = cpu_measure,
    .copy = cpu_copy,
    .read = cpu_read,
    .mark = cpu_mark,
    .await = cpu_await,
    .sync = cpu_sync,
    .fill = cpu_fill,
    .upload = cpu_upload,
    .download = cpu_upload,
    .forward =
        {
            [OP_EMBEDDING] = cpu_embedding_forward,
            [OP_RMSNORM] = cpu_rmsnorm_forward,
            [OP_LINEAR] = cpu_linear_forward,
            [OP_ROPE] = cpu_rope_forward,
            [OP_ATTENTION] = cpu_attention_forward,
            [OP_GLU] = cpu_glu_forward,
            [OP_ADD] = cpu_add_forward,
            [OP_HEAD_CROSS_ENTROPY] = cpu_head_cross_entropy_forward,
            [OP_LOGITS] = cpu_logits_forward,
            [OP_FAKE_QUANT] = cpu_fake_quant_forward,
            [OP_LOSS_SUM] = cpu_loss_sum_forward,
            [OP_SQUARE_SUM] = cpu_square_sum_forward,
            [OP_ADAMW] = cpu_adamw_forward,
        },
    .backward =
        {
            [OP_EMBEDDING] = cpu_embedding_backward,
            [OP_RMSNORM] = cpu_rmsnorm_backward,
            [OP_LINEAR] = cpu_linear_backward,
            [OP_ROPE] = cpu_rope_backward,
            [OP_ATTENTION] = cpu_attention_backward,
            [OP_GLU] = cpu_glu_backward,
            [OP_ADD] = cpu_add_backward,
            [OP_HEAD_CROSS_ENTROPY] = cpu_head_cross_entropy_backward,
            [OP_FAKE_QUANT] = cpu_fake_quant_backward,
        },
};

static int threads_of(int asked) {
#ifdef _OPENMP
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (asked > 0) return asked;
    return cores > 0 ? (int)min_i64(cores, omp_get_num_procs()) : 1;
#else
    return 1;
#endif
}

static status open_queue(cpu_backend *c, queue q, const char *name) {
    c->transfer[q] = mem_alloc_array(CPU_QUEUE_DEPTH, sizeof *c->transfer[q], name);
    if (!c->transfer[q]) return STATUS_MEMORY;
    return worker_open(&c->queue[q], name, CPU_QUEUE_DEPTH);
}

status backend_cpu_open(backend **out, int threads) {
    *out = NULL;
    cpu_backend *c = mem_alloc(sizeof *c, "CPU back end");
    if (!c) return STATUS_MEMORY;
    c->table = cpu_table;
    c->base =
        (backend){.table = &c->table, .threads = threads_of(threads), .host_visible = true};
    status s = gemm_open(&c->gemm, c->base.threads);
    if (s == STATUS_OK) s = open_queue(c, QUEUE_IN, "copies in");
    if (s == STATUS_OK) s = open_queue(c, QUEUE_OUT, "copies out");
    if (s != STATUS_OK) {
        cpu_close(&c->base);
        return s;
    }
    if (gemm_native(c->gemm, DTYPE_BF16)) c->table.native_types |= 1u << DTYPE_BF16;
    *out = &c->base;
    return STATUS_OK;
}
