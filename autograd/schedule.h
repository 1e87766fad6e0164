/* schedule.h: a program unrolled: every step of one run in order, every buffer with its
 * lifetime, every movement at its step. Made once; the planner gives the buffers their offsets
 * and the executor only walks it.
 *
 * A training program unrolls to: all sections forward; then, in reverse, per layer: recompute
 * what the backward reads and was not stored, then the backward records. What is stored is
 * decided per layer by an activation mode: keep       outputs of matrix products and
 * attention; cheap ones (norms, GLU) are recomputed recompute  only the layer's carry offload
 * as keep, and the stored ones wait in host memory 8B bf16, per token: keep 3.02 MB, recompute
 * 0.26 MB. */
#ifndef NIBBLE_AUTOGRAD_SCHEDULE_H
#define NIBBLE_AUTOGRAD_SCHEDULE_H

#include "autograd/backend.h"
#include "autograd/program.h"

typedef enum activation_mode {
    ACTIVATIONS_AUTO,
    ACTIVATIONS_KEEP,
    ACTIVATIONS_RECOMPUTE,
    ACTIVATIONS_OFFLOAD,
} activation_mode;

typedef int32_t buffer_id; /* >= 0 a buffer; < 0: REF_NONE or a parameter, see below */
enum { REF_NONE = INT32_MIN };
static inline buffer_id ref_parameter(parameter_id id) {
    return -1 - id;
}
static inline bool ref_is_parameter(buffer_id r) {
    return r < 0 && r != REF_NONE;
}
static inline parameter_id ref_parameter_id(buffer_id r) {
    return -1 - r;
}

typedef struct buffer {
    mem_class class;
    tensor_format format; /* rows at capacity */
    bool follows_batch;   /* rows are call->rows at run time */
    int64_t bytes;
    int32_t first, last; /* steps between which its device memory is taken, inclusive */
    int64_t offset;      /* in the transient region; set by the planner */
    int64_t host_offset; /* offloaded: in the host arena's offload region; -1 */
} buffer;

typedef enum phase { PHASE_FORWARD, PHASE_RECOMPUTE, PHASE_BACKWARD } phase;

typedef struct step {
    operation op;
    phase phase;
    int16_t section;
    int32_t binding, record, layer;
    const op_attr *attr;
    buffer_id in[OP_INPUTS], out[OP_OUTPUTS], gout[OP_OUTPUTS], gin[OP_INPUTS];
    uint32_t add;
    uint32_t zero;     /* bit i: gin[i]'s buffer is zeroed first (a gradient of fixed rows) */
    buffer_id scratch; /* REF_NONE: none */
} step;

/* Offloading: the copy out is given before step `at`, the memory is free from step `until` on;
 * bringing back: given before `at`, waited for before `until`. */
typedef struct move {
    int32_t at, until;
    buffer_id from,
        to; /* out: device buffer, same; in: the stored one, its new device buffer */
    bool out;
} move;

/* Which streamed page is used from which step to which; in order of `first`. Filled for every
 * page, resident ones too (the planner ignores them). */
typedef struct page_use {
    int32_t page;
    int32_t first, last;
    bool written;
} page_use;

typedef struct schedule {
    step *steps;
    size_t step_count, step_capacity;
    buffer *buffers;
    size_t buffer_count, buffer_capacity;
    move *moves; /* sorted by at */
    size_t move_count, move_capacity;
    page_use *uses;
    size_t use_count, use_capacity;
    buffer_id *inputs;  /* [program inputs] */
    buffer_id *outputs; /* [outputs] with names */
    char (*output_names)[24];
    size_t output_count, output_capacity;
} schedule;

/* modes[l] for the l-th layer counted over all sections' bindings in order; NULL: all KEEP. */
status schedule_make(schedule *out, const program *p, backend *b,
                     const activation_mode *modes);
void schedule_free(schedule *s);
/* Offsets by first fit; returns the region's bytes, observed as the highest end. */
int64_t schedule_place(schedule *s, int64_t alignment);
/* Bindings in all sections. */
int program_layers(const program *p);
/* The shape of a step at `rows`, for back ends' scratch, prepare, FLOPs. */
void step_shape(const schedule *s, const program *p, size_t step_index, int64_t rows,
                op_shape *out);

#endif
