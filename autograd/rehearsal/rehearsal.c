/* rehearsal.c: a back end that computes nothing. It has the memory addresses, queues and
 * events of a real one, so that the executor and the pager take the same decisions and their
 * counters tell the page traffic of a run that never happened. Scratch sizes come from the
 * back end it stands for. */
#include "autograd/backend.h"
#include "common/alloc.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

typedef struct rehearsal {
    backend base;
    backend_table table; /* a copy, to carry the real one's types and alignment */
    const backend *like;
} rehearsal;

static void close_(backend *b) {
    mem_free(b);
}

static void describe(backend *b, char *text, size_t bytes) {
    snprintf(text, bytes, "rehearsal");
}

/* Addresses only: touching them would be a fault, and a bug. */
static status reserve(backend *b, bool host, int64_t bytes, void **base) {
    *base = mmap(NULL, (size_t)bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                 -1, 0);
    if (*base == MAP_FAILED)
        return status_fail(STATUS_MEMORY, "cannot reserve %lld bytes of addresses: %s",
                           (long long)bytes, strerror(errno));
    return STATUS_OK;
}
static void release(backend *b, bool host, void *base, int64_t bytes) {
    munmap(base, (size_t)bytes);
}

static int64_t scratch(backend *b, const op_shape *shape) {
    const backend *like = ((rehearsal *)b)->like;
    return like->table->scratch((backend *)like, shape);
}
static status prepare(backend *b, const op_shape *shape) {
    return STATUS_OK;
}
static event copy(backend *b, queue q, void *to, const void *from, int64_t n, event after) {
    return (event){q, 0};
}
static event read_(backend *b, queue q, const file *f, int64_t offset, void *to, int64_t n,
                   event after) {
    return (event){q, 0};
}
static event mark(backend *b) {
    return (event){QUEUE_COMPUTE, 0};
}
static double await(backend *b, event e) {
    return 0;
}
static status sync_(backend *b) {
    return STATUS_OK;
}
static status fill(backend *b, void *at, int byte, int64_t n) {
    return STATUS_OK;
}
static status upload(backend *b, void *to, const void *from, int64_t n) {
    return STATUS_OK;
}
static status download(backend *b, void *to, const void *from, int64_t n) {
    memset(to, 0, (size_t)n);
    return STATUS_OK;
}
static status nothing(backend *b, const op_call *call) {
    return STATUS_OK;
}

status backend_rehearsal_open(backend **out, const backend *like) {
    rehearsal *r = mem_alloc(sizeof *r, "the rehearsal");
    if (!r) return STATUS_MEMORY;
    r->like = like;
    r->table = (backend_table){.name = "rehearsal",
                               .close = close_,
                               .describe = describe,
                               .types = like->table->types,
                               .native_types = like->table->native_types,
                               .alignment = like->table->alignment,
                               .reserve = reserve,
                               .release = release,
                               .scratch = scratch,
                               .prepare = prepare,
                               .copy = copy,
                               .read = read_,
                               .mark = mark,
                               .await = await,
                               .sync = sync_,
                               .fill = fill,
                               .upload = upload,
                               .download = download};
    for (int i = 0; i < OP_COUNT; i++) {
        if (like->table->forward[i]) r->table.forward[i] = nothing;
        if (like->table->backward[i]) r->table.backward[i] = nothing;
    }
    r->base.table = &r->table;
    r->base.threads = like->threads;
    *out = &r->base;
    return STATUS_OK;
}
