/* backend.h: what executes: memory, an in-order compute queue, copy queues, events, and one
 * function per operation and direction.
 *
 * Three back ends run the same programs: cpu, cuda, and rehearsal, which only counts.
 * Operations enqueue (the CPU's simply run); errors stick and surface at sync with the
 * operation's name. Nothing is allocated after `prepare`. One thread issues everything. A
 * missing operation is NULL in the table and a planning error that names it, never a silent
 * fallback.
 *
 * Two copy queues, QUEUE_IN (towards the device) and QUEUE_OUT (from it), each in order; the
 * CPU's are worker threads, so overlap is real without a GPU. An event is a point in a queue.
 */
#ifndef NIBBLE_AUTOGRAD_BACKEND_H
#define NIBBLE_AUTOGRAD_BACKEND_H

#include "autograd/operation.h"
#include "common/file.h"
#include "common/json.h"

typedef enum queue { QUEUE_COMPUTE, QUEUE_IN, QUEUE_OUT, QUEUE_COUNT } queue;

typedef struct event {
    queue on;
    uint64_t ticket; /* 0: already passed */
} event;

typedef struct backend backend;
typedef status (*op_function)(backend *b, const op_call *call);

typedef struct backend_rates {
    double gemm_flops; /* per second, in the compute type */
    double copy_bytes; /* device memory, read + write, per second */
    double host_bytes; /* host to device and back, per second */
    double disk_bytes; /* per second; 0 = not measured */
} backend_rates;

typedef struct backend_table {
    const char *name; /* "cpu" */
    void (*close)(backend *b);

    /* One line each for the fingerprint: device, libraries, instruction set, threads. */
    void (*describe)(backend *b, char *text, size_t bytes);
    /* Which compute types run at all, and which run natively (fast). Bit per dtype. */
    uint32_t types, native_types;
    int64_t alignment; /* of every planned address, bytes */

    /* Zero-filled device and host (pinned) memory; only the arena calls these. */
    status (*reserve)(backend *b, bool host, int64_t bytes, void **base);
    void (*release)(backend *b, bool host, void *base, int64_t bytes);

    /* bytes of scratch that a call of this shape needs; 0 for most */
    int64_t (*scratch)(backend *b, const op_shape *shape);
    /* Makes whatever the library caches for this shape at these rows (primitives, heuristics).
     */
    status (*prepare)(backend *b, const op_shape *shape);

    /* Matrix products by measurement; NULL where a product has one algorithm. `tune` times what
     * the library offers for each that was prepared so far, on memory of its own, and gives
     * those that beat its first choice; `use_table` takes that back before anything is
     * prepared; *fits: false when it is another card's or another library's. STATUS_MODEL: it
     * is no such table. */
    status (*tune)(backend *b, status (*go_on)(int64_t done, int64_t total), json_t **table);
    status (*use_table)(backend *b, const json_t *table, bool *fits);

    /* Measures the rates once, in at most half a second. */
    status (*measure)(backend *b, dtype compute, backend_rates *rates);

    /* Enqueues on `q` (IN or OUT) after `after`; the event passes when the bytes are there. */
    event (*copy)(backend *b, queue q, void *to, const void *from, int64_t bytes, event after);
    event (*read)(backend *b, queue q, const file *f, int64_t offset, void *to, int64_t bytes,
                  event after);
    /* `after` of compute: everything enqueued so far. */
    event (*mark)(backend *b);
    /* Compute enqueued from now on waits for the event; returns seconds that the caller was
     * held up. */
    double (*await)(backend *b, event e);
    status (*sync)(backend *b); /* the host waits for all queues; returns the sticky error */
    status (*fill)(backend *b, void *at, int byte, int64_t bytes); /* in compute order */
    status (*upload)(
        backend *b, void *to, const void *from,
        int64_t n); /* host memory, in compute order; `from` may be reused at once */
    status (*download)(backend *b, void *to, const void *from,
                       int64_t n); /* waits for compute */

    op_function forward[OP_COUNT], backward[OP_COUNT];
} backend_table;

/* Every back end's struct begins with this. */
struct backend {
    const backend_table *table;
    int threads;
    bool host_visible; /* the CPU may read and write device memory */
    int64_t memory;    /* bytes of device memory that arenas may take; 0: it is the host's */
    int64_t context;   /* bytes of it that they may not: context, kernels, libraries */
    bool timed;        /* every operation is waited for, so that its seconds are its own */
    bool pattern;      /* arenas are filled with a pattern, to observe the high-water mark */
};

/* threads 0: as many as there are cores. */
status backend_cpu_open(backend **out, int threads);
/* The first NVIDIA card that the system shows. STATUS_DEVICE, in one line: no driver or too old a
 * one, no card, one without bf16 products (compute capability below 8.0), or a build without
 * CUDA. Memory is measured when everything that the driver and the libraries load is loaded. */
status backend_cuda_open(backend **out);
/* Whether there is a driver and a card at all, whatever they are. */
bool backend_cuda_present(void);

/* What --device and --threads ask for. auto: the card where there is one that can be used, else
 * the CPU, with a line in the log when a card is left out. */
typedef enum device_choice { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA } device_choice;
typedef struct device_request {
    device_choice choice;
    int threads;             /* of the CPU; 0: as many as there are cores */
    const struct card *card; /* card.h: one that is only planned for; NULL: none */
} device_request;
status backend_open(backend **out, const device_request *q);
status backend_rehearsal_open(backend **out, const backend *like);
/* The table's, zeroed first. */
status backend_measure(backend *b, dtype compute, backend_rates *rates);

#endif
