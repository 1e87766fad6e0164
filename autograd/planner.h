/* planner.h: decides, before anything is loaded, where every buffer lives.
 *
 * Pure and deterministic: (programs, parameters, back end, policy) -> an immutable plan with
 * every address, every page movement and every peak, or a refusal with the missing bytes. What
 * `train plan` prints and what a run uses is this one structure.
 *
 * Device arena:  [ resident pages by class | streaming slots | transient: the widest program ]
 * Host arena:    [ host pages | offloaded activations: the widest program ]
 * Transient buffers get their offsets by first fit over their lifetimes in the schedule. */
#ifndef NIBBLE_AUTOGRAD_PLANNER_H
#define NIBBLE_AUTOGRAD_PLANNER_H

#include "autograd/backend.h"
#include "autograd/schedule.h"

typedef enum tier { TIER_DEVICE, TIER_HOST, TIER_DISK } tier;
typedef enum base_place { BASE_AUTO, BASE_RESIDENT, BASE_HOST, BASE_DISK } base_place;

typedef struct plan_policy {
    int64_t device_budget, host_budget; /* bytes; 0 = no limit */
    int64_t total_budget; /* of both together, where they are the same memory; 0 = no limit */
    activation_mode activations; /* or ACTIVATIONS_AUTO */
    base_place base;
    int slots; /* of every streamed class, >= 1; 0 = 2 */
    bool page_optimizer;
    bool disk_possible; /* a cache file with the pages is or will be there */
} plan_policy;

typedef struct page_place {
    tier tier;
    int64_t offset; /* in the device or the host arena; on disk: set by plan_set_disk */
    bool mapped;    /* on the host, and operations read it there */
} page_place;

typedef struct program_plan {
    const program *program;
    schedule schedule;
    int64_t transient_bytes;     /* device */
    int64_t offload_bytes;       /* host */
    double flops, bytes;         /* of one run at capacity; see plan_cost_of */
    int64_t pages_in, pages_out; /* page bytes of a run that follows one like it; disk_read of
                                    them from disk */
    int64_t first_in;            /* page bytes of the first run */
    int64_t moved_in, moved_out, disk_read; /* with offloaded activations, at capacity */
} program_plan;

typedef struct plan {
    const parameter_table *table;
    backend *backend;
    plan_policy policy; /* resolved: no AUTO left */
    backend_rates rates;
    int kept_layers;   /* of a recomputing plan: this many last layers keep; -1 none */
    page_place *pages; /* [table->page_count] */
    int slots[MEM_CLASS_COUNT];           /* 0: the class is resident */
    int64_t slot_bytes[MEM_CLASS_COUNT];  /* one slot */
    int64_t slot_offset[MEM_CLASS_COUNT]; /* the first, in the device arena */
    program_plan *programs;
    int program_count;
    int64_t transient_offset;         /* in the device arena */
    int64_t offload_offset;           /* in the host arena */
    int64_t device_bytes, host_bytes; /* arenas */
    int64_t class_device[MEM_CLASS_COUNT], class_host[MEM_CLASS_COUNT],
        class_disk[MEM_CLASS_COUNT];
} plan;

/* STATUS_MEMORY when it does not fit; the message says what is missing and which settings,
 * each planned again here, would fit. `rates` may be NULL. */
status plan_make(plan **out, backend *b, const parameter_table *table,
                 const program *const *programs, int count, const plan_policy *policy,
                 const backend_rates *rates);
void plan_free(plan *p);
/* In the message when no placement at all fits: the programs are too large. */
#define PLAN_NO_PLACEMENT "no placement of it fits"

/* plan_make's arguments, for remedies.c. */
typedef struct plan_request {
    backend *b;
    const parameter_table *table;
    const program *const *programs;
    int count;
    const plan_policy *policy;
    const backend_rates *rates;
} plan_request;
/* The same without a message: *out NULL when it does not fit, *missing bytes then. */
status plan_try(plan **out, int64_t *missing, const plan_request *q);
/* Up to three settings that would fit, each planned, the fastest first: "A B; or C". Empty: none.
 */
status plan_remedies(const plan_request *q, char *text, size_t bytes);

/* One run of program `program` with `rows` rows that hold `load`. */
typedef struct plan_cost {
    double flops, bytes;
    double seconds; /* predicted; 0 without rates */
} plan_cost;
plan_cost plan_cost_of(const plan *p, int program, int64_t rows, op_load load);
/* Where page `page` starts in the cache file. */
void plan_set_disk(plan *p, int32_t page, int64_t file_offset);
/* Bytes that the process may use: the smallest of RLIMIT_DATA, RLIMIT_AS, the cgroup's limit
 * and the memory available, less `outside`. */
int64_t plan_host_limit(int64_t outside);

#endif
