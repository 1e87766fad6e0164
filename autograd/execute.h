/* execute.h: the engine as its users see it: programs and parameters in, a plan, then runs.
 *
 *   engine_open: plans all programs over one arena, reserves it; nothing is allocated later.
 *   engine_load / engine_store: the host writes and reads parameters, wherever the plan put
 * them. engine_run: one pass over a program's schedule.
 *
 * One thread calls it. Errors of operations surface at engine_sync or at the next read. */
#ifndef NIBBLE_AUTOGRAD_EXECUTE_H
#define NIBBLE_AUTOGRAD_EXECUTE_H

#include "autograd/backend.h"
#include "autograd/planner.h"
#include "autograd/program.h"

typedef struct engine engine;

/* `plan` (made by plan_make from the same programs and table) is taken as it is and must
 * outlive the engine. `disk` is the file of the base's pages when the plan puts them on disk
 * (page offsets in the plan), else NULL. */
status engine_open(engine **out, backend *b, const plan *p, const file *disk);
void engine_close(engine *e);

/* Lets the back end make what it keeps per shape for program i of the plan with `rows` rows.
 * engine_open does that at capacity; STATUS_INTERNAL for an operation that it does not have. */
status engine_prepare(backend *b, const plan *p, int i, int64_t rows);

/* Bytes of one parameter, n from `offset`, to and from wherever its page lives (not disk). */
status engine_load(engine *e, parameter_id id, const void *from, int64_t offset,
                   int64_t bytes);
status engine_store(engine *e, parameter_id id, void *to, int64_t offset, int64_t bytes);
/* Host-addressable tensor of a parameter whose page is on the host or, on the CPU back end,
 * resident; NULL data otherwise. Loading quantizes straight into it. */
tensor engine_host_view(engine *e, parameter_id id);
status engine_zero_class(engine *e, mem_class c);
/* The contiguous resident range of a class (gradients): address on the device and bytes. */
void engine_class_range(engine *e, mem_class c, void **at, int64_t *bytes);

typedef struct run_input {
    const void *data; /* host */
    int64_t rows;     /* given; the rest up to the bucket is filled with the byte `pad` */
    uint8_t pad;      /* 0xff makes -1 of an I32 */
} run_input;

typedef struct run_args {
    int64_t rows; /* real rows of the batch; bucketed inside */
    int64_t documents, selected;
    op_load load; /* what the batch holds; if its targets are counted, then exactly */
    uint64_t seed, micro;
    const run_input *inputs; /* in the order of program_input */
    const struct adamw_scalars *adam;
} run_args;

/* Runs program number `program` of the plan. */
status engine_run(engine *e, int program, const run_args *args);
/* Reads the first `bytes` of an output slot (name of program_output) of the last run. */
status engine_output(engine *e, int program, const char *name, void *to, int64_t bytes);
status engine_sync(engine *e);

typedef struct engine_traffic {
    int64_t in_bytes, out_bytes, disk_bytes; /* moved since open */
    double stall_seconds;                    /* compute waited for them */
    int64_t fetches, hits;
} engine_traffic;
engine_traffic engine_traffic_of(const engine *e, mem_class c);

/* What a program's runs have cost since open, by operation and direction (forward, backward);
 * FLOPs and bytes are operation.h's, for the rows that ran. `seconds` of the whole runs has
 * inputs and page movements too. */
typedef struct engine_cost {
    int64_t calls;
    double seconds, flops, bytes;
} engine_cost;
typedef struct engine_profile {
    engine_cost of[OP_COUNT][2];
    double seconds;
    int64_t runs;
} engine_profile;
const engine_profile *engine_profile_of(const engine *e, int program);
/* Forgets what was counted so far. */
void engine_profile_clear(engine *e);

/* Highest byte ever written in the pattern-filled arena; the plan's totals must equal it. */
void engine_high_water(const engine *e, int64_t *device, int64_t *host);

#endif
