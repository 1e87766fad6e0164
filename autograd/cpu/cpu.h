/* cpu.h: what the files of the CPU back end share: its struct and the functions of its table.
 *
 * Compute is synchronous: an operation has run when its function returns. Operations allocate
 * nothing; what they need beside their operands is planned as scratch (cpu_X_scratch bytes at
 * call->scratch) or lies on the stack. Results do not depend on the number of threads unless a
 * matrix product of the library stands in between: every reduction of ours has a fixed order.
 */
#ifndef NIBBLE_AUTOGRAD_CPU_CPU_H
#define NIBBLE_AUTOGRAD_CPU_CPU_H

#include "autograd/backend.h"
#include "autograd/cpu/gemm.h"
#include "autograd/cpu/parallel.h"
#include "common/worker.h"
#include "quant/convert.h"

#include <assert.h>

typedef struct cpu_transfer cpu_transfer; /* one entry of a copy queue, backend.c */

typedef struct cpu_backend {
    backend base;
    backend_table table; /* a copy, because native types depend on the processor */
    gemm *gemm;
    worker *queue[QUEUE_COUNT];          /* IN and OUT; compute is the caller */
    cpu_transfer *transfer[QUEUE_COUNT]; /* [CPU_QUEUE_DEPTH] rings, by ticket */
    uint64_t given[QUEUE_COUNT];         /* the last ticket */
} cpu_backend;

enum { CPU_QUEUE_DEPTH = 256 /* transfers that may wait in one queue */ };

static inline cpu_backend *cpu_of(backend *b) {
    return (cpu_backend *)b;
}

/* dtype's first three values are quant/convert.h's numbering. */
static_assert((int)DTYPE_F32 == QUANT_SRC_F32 && (int)DTYPE_BF16 == QUANT_SRC_BF16 &&
                  (int)DTYPE_F16 == QUANT_SRC_F16,
              "dtype and quant_source number alike");

/* Element [row, col] of a tensor that is not 4-bit. */
static inline void *cpu_at(const tensor *t, int64_t row, int64_t col) {
    return (char *)t->data + (row * t->stride + col) * dtype_bytes(t->type);
}
/* n elements from [row, col] on as f32, and back with one rounding to the tensor's type. */
static inline void cpu_load(const tensor *t, int64_t row, int64_t col, int64_t n, float *out) {
    convert_array(cpu_at(t, row, col), (int)t->type, out, QUANT_SRC_F32, n);
}
static inline void cpu_store(const tensor *t, int64_t row, int64_t col, int64_t n,
                             const float *in) {
    convert_array(in, QUANT_SRC_F32, cpu_at(t, row, col), (int)t->type, n);
}
/* The same without copying where the tensor is f32: n elements from [row, col] on lie in their
 * place, else in `space`. cpu_view has them loaded, cpu_place is where to write them, and
 * cpu_settle stores what does not lie in its place yet. */
static inline float *cpu_place(const tensor *t, int64_t row, int64_t col, float *space) {
    return t->type == DTYPE_F32 ? cpu_at(t, row, col) : space;
}
static inline float *cpu_view(const tensor *t, int64_t row, int64_t col, int64_t n,
                              float *space) {
    if (t->type != DTYPE_F32) cpu_load(t, row, col, n, space);
    return cpu_place(t, row, col, space);
}
static inline void cpu_settle(const tensor *t, int64_t row, int64_t col, int64_t n,
                              const float *x) {
    if (x != cpu_at(t, row, col)) cpu_store(t, row, col, n, x);
}
/* Rounds n f32 values to `type` and back. */
static inline void cpu_round(dtype type, float *x, int64_t n) {
    uint16_t piece[256];
    if (type == DTYPE_F32) return;
    for (int64_t i = 0; i < n; i += 256) {
        int64_t m = n - i < 256 ? n - i : 256;
        convert_array(x + i, QUANT_SRC_F32, piece, (int)type, m);
        convert_array(piece, (int)type, x + i, QUANT_SRC_F32, m);
    }
}

/* The table's functions; shapes and meaning stand in operation.h. */
#define CPU_OPERATION(name)                                                                   \
    status cpu_##name##_forward(backend *b, const op_call *call);                             \
    status cpu_##name##_backward(backend *b, const op_call *call)

CPU_OPERATION(embedding);
CPU_OPERATION(rmsnorm);
CPU_OPERATION(linear);
CPU_OPERATION(rope);
CPU_OPERATION(attention);
CPU_OPERATION(glu);
CPU_OPERATION(add);
CPU_OPERATION(head_cross_entropy);
CPU_OPERATION(fake_quant);
status cpu_logits_forward(backend *b, const op_call *call);
status cpu_loss_sum_forward(backend *b, const op_call *call);
status cpu_square_sum_forward(backend *b, const op_call *call);
status cpu_adamw_forward(backend *b, const op_call *call);

/* measure.c */
status cpu_measure(backend *b, dtype compute, backend_rates *rates);

/* Bytes of scratch per call; operations that are not named here need none. */
int64_t cpu_linear_scratch(backend *b, const op_shape *shape);
int64_t cpu_attention_scratch(backend *b, const op_shape *shape);
int64_t cpu_rmsnorm_scratch(backend *b, const op_shape *shape);
int64_t cpu_rope_scratch(backend *b, const op_shape *shape);
int64_t cpu_head_cross_entropy_scratch(backend *b, const op_shape *shape);
int64_t cpu_logits_scratch(backend *b, const op_shape *shape);
int64_t cpu_fake_quant_scratch(backend *b, const op_shape *shape);

/* Makes the matrix products' primitives for these rows. */
status cpu_linear_prepare(backend *b, const op_shape *shape);
status cpu_head_cross_entropy_prepare(backend *b, const op_shape *shape);
status cpu_logits_prepare(backend *b, const op_shape *shape);

#endif
