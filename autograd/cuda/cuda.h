/* cuda.h: what the files of the CUDA back end share: its struct and the functions of its table.
 *
 * Operations enqueue kernels on one compute stream and return; they allocate nothing and wait for
 * nothing. What they need beside their operands is planned as scratch (sizes.h; at
 * call->scratch). Copies run on two streams of their own, ordered by events. Every call of the
 * runtime is checked: CUDA_TRY; the first failure sticks, is returned by everything after it
 * and by sync, and ends the run with STATUS_DEVICE.
 *
 * Files here are C in the subset that C++ takes; templates only over element type and head size.
 * This header has C's linkage, kernels.h and the kernels do not. */
#ifndef NIBBLE_AUTOGRAD_CUDA_CUDA_H
#define NIBBLE_AUTOGRAD_CUDA_CUDA_H

#ifdef __cplusplus
extern "C" {
#endif

#include "autograd/backend.h"
#include "autograd/cuda/gemm.h"
#include "autograd/cuda/sizes.h"
#include "common/checked.h"
#include "common/worker.h"

#include <cuda_runtime.h>

enum {
    CUDA_EVENTS = 256, /* per queue: marks that may be waited for at a time */
};

typedef struct cuda_staging cuda_staging; /* transfer.cu */

typedef struct cuda_backend {
    backend base;
    backend_table table;
    int device, processors; /* streaming multiprocessors */
    int capability;         /* 10 * major + minor: 80, 86, 89, 90, ... */
    int64_t shared_most;    /* bytes of shared memory that a block may have */
    char name[64];
    cudaStream_t stream[QUEUE_COUNT];
    cudaEvent_t event[QUEUE_COUNT][CUDA_EVENTS]; /* rings, by ticket */
    uint64_t given[QUEUE_COUNT];                 /* the last ticket */
    cuda_gemm *gemm;
    cuda_staging *staging; /* pinned pieces that uploads, downloads and files pass through */
    status failed;         /* sticks */
    char message[256];
} cuda_backend;

static inline cuda_backend *cuda_of(backend *b) {
    return (cuda_backend *)b;
}

/* Keeps the first failure and returns STATUS_DEVICE with `what` (a call or an operation) and
 * the runtime's name for the error; STATUS_OK for cudaSuccess. */
status cuda_check(backend *b, cudaError_t error, const char *what);
#define CUDA_TRY(b, call) TRY(cuda_check(b, call, #call))
/* After launches: was one refused? */
#define CUDA_LAUNCHED(b, operation) cuda_check(b, cudaGetLastError(), operation)

/* Element [row, col] of a tensor that is not 4-bit, as an address on the device. */
static inline void *cuda_at(const tensor *t, int64_t row, int64_t col) {
    return (char *)t->data + (row * t->stride + col) * dtype_bytes(t->type);
}

static inline cudaStream_t cuda_stream(backend *b) {
    return cuda_of(b)->stream[QUEUE_COMPUTE];
}

/* ---- transfer.cu: what passes through pinned memory; see backend_table ---- */
status cuda_staging_open(cuda_backend *c);
void cuda_staging_close(cuda_backend *c);
status cuda_upload(backend *b, void *to, const void *from, int64_t n);
status cuda_download(backend *b, void *to, const void *from, int64_t n);
event cuda_read(backend *b, queue q, const file *f, int64_t offset, void *to, int64_t bytes,
                event after);
/* The first failure of a file's reading so far, with its message. */
status cuda_staging_failure(cuda_backend *c);

/* linear.cu: t to `to`, `ld` elements from row to row. */
status cuda_rows_copy(backend *b, const tensor *t, void *to, int64_t ld);

/* measure.cu */
status cuda_measure(backend *b, dtype compute, backend_rates *rates);

/* Queues, backend.cu: q's next work comes after `after`; a point in q now. */
void cuda_order(backend *b, queue q, event after);
event cuda_point(backend *b, queue q);

/* ---- the table's functions; shapes and meaning stand in operation.h ---- */
#define CUDA_OPERATION(name)                                                                  \
    status cuda_##name##_forward(backend *b, const op_call *call);                            \
    status cuda_##name##_backward(backend *b, const op_call *call)

CUDA_OPERATION(embedding);
CUDA_OPERATION(rmsnorm);
CUDA_OPERATION(linear);
CUDA_OPERATION(rope);
CUDA_OPERATION(attention);
CUDA_OPERATION(glu);
CUDA_OPERATION(add);
CUDA_OPERATION(head_cross_entropy);
CUDA_OPERATION(fake_quant);
status cuda_logits_forward(backend *b, const op_call *call);
status cuda_loss_sum_forward(backend *b, const op_call *call);
status cuda_square_sum_forward(backend *b, const op_call *call);
status cuda_adamw_forward(backend *b, const op_call *call);

/* Lets the library choose (heuristics) and loads kernels for these shapes. */
status cuda_linear_prepare(backend *b, const op_shape *shape);
status cuda_head_cross_entropy_prepare(backend *b, const op_shape *shape);
status cuda_logits_prepare(backend *b, const op_shape *shape);
status cuda_attention_prepare(backend *b, const op_shape *shape);

#ifdef __cplusplus
}
#endif
#endif
