/* steps.c: whole training steps, and loading. One session per placement of the base, all open
 * at once and stepped in turn, on the same random tokens. */
#include "common/alloc.h"
#include "common/philox.h"
#include "trainer/bench/bench.h"
#include "trainer/run/plan_text.h"
#include "trainer/run/step.h"

#include <string.h>

enum { PIECE = 8 << 20 /* bytes of one read */ };

/* One micro-batch of full documents in which every token but the last predicts. */
typedef struct tokens {
    int32_t *ids, *targets, *positions, *starts;
    micro_batch micro;
    batch_group group;
} tokens;

static void tokens_close(tokens *t) {
    mem_free(t->ids);
    mem_free(t->targets);
    mem_free(t->positions);
    mem_free(t->starts);
}

static status tokens_open(tokens *t, const bench_shape *z) {
    int64_t n = z->documents * z->length;
    memset(t, 0, sizeof *t);
    t->ids = mem_alloc_array((size_t)n, sizeof *t->ids, "a batch");
    t->targets = mem_alloc_array((size_t)n, sizeof *t->targets, "a batch");
    t->positions = mem_alloc_array((size_t)n, sizeof *t->positions, "a batch");
    t->starts = mem_alloc_array((size_t)z->documents + 1, sizeof *t->starts, "a batch");
    if (!t->ids || !t->targets || !t->positions || !t->starts) return STATUS_MEMORY;
    philox_stream random = philox_open(5, PHILOX_SAMPLE, 0, 0, 0);
    for (int64_t i = 0; i < n; i++) {
        t->ids[i] = (int32_t)(philox_word(&random, (uint64_t)i) % (uint32_t)z->vocab);
        t->positions[i] = (int32_t)(i % z->length);
        t->targets[i] = -1;
        if (i % z->length) t->targets[i - 1] = t->ids[i];
    }
    for (int64_t d = 0; d <= z->documents; d++) t->starts[d] = (int32_t)(d * z->length);
    t->micro = (micro_batch){.tokens = n,
                             .documents = z->documents,
                             .target_count = n - z->documents,
                             .ids = t->ids,
                             .targets = t->targets,
                             .positions = t->positions,
                             .starts = t->starts};
    t->group = (batch_group){
        .tokens = n, .targets = n - z->documents, .micro_count = 1, .micro = &t->micro};
    return STATUS_OK;
}

/* ---- one placement ---- */

typedef struct placement {
    session s;
    stepper stepper;
    optimizer_state state;
} placement;

static status placement_open(placement *p, const char *folder, const config *c,
                             const device_request *device, const tokens *t) {
    session_request q = {.model_folder = folder,
                         .train = true,
                         .device = *device,
                         .programs =
                             1u << PROGRAM_TRAIN | 1u << PROGRAM_NORM | 1u << PROGRAM_UPDATE,
                         .train_capacity = t->micro.tokens,
                         .expected_rows = t->micro.tokens,
                         .expected = step_load(&t->micro)};
    lr_schedule lr = {.kind = SCHEDULER_CONSTANT, .peak = 1e-4, .total = 1 << 20};
    p->state.loss_scale = 1;
    TRY(session_open(&p->s, c, &q));
    TRY(session_plan(&p->s));
    TRY(session_load(&p->s));
    return stepper_open(&p->stepper, &p->s, &lr);
}

static status one_step(placement *p, const tokens *t, double *seconds) {
    step_result result;
    double start = bench_now();
    TRY(stepper_run(&p->stepper, &t->group, &p->state, NULL, &result));
    *seconds = bench_now() - start;
    return STATUS_OK;
}

/* Seconds of the update's program since the session was loaded. */
static double update_seconds(const placement *p) {
    return engine_profile_of(p->s.e, p->s.index[PROGRAM_UPDATE])->seconds;
}

/* Places take turns in being first, as the machine's other work comes and goes. */
static status one_round(bench_report *r, placement *p, const tokens *t, int round) {
    backend_rates rates;
    double seconds[BENCH_PLACES];
    plan_cost cost = plan_step_cost(&p->s, 1);
    TRY(backend_measure(p->s.b, p->s.compute, &rates));
    double update = update_seconds(&p[BENCH_HOST]);
    for (int i = 0; i < BENCH_PLACES; i++) {
        int place = (round + i) % BENCH_PLACES;
        TRY(one_step(&p[place], t, &seconds[place]));
    }
    update = update_seconds(&p[BENCH_HOST]) - update;
    double resident = seconds[BENCH_RESIDENT];
    bench_add(r, "step.rate", "tokens/s", "", (double)t->micro.tokens / resident);
    bench_add(r, "step", "of", "matrix products", cost.flops / rates.gemm_flops / resident);
    bench_add(r, "step.predicted", "of", "the measured time", cost.seconds / resident);
    bench_add(r, "step.host", "x", "the resident step's time", seconds[BENCH_HOST] / resident);
    bench_add(r, "step.disk", "x", "the resident step's time", seconds[BENCH_DISK] / resident);
    bench_add(r, "paged_adamw", "of", "the step", update / seconds[BENCH_HOST]);
    return STATUS_OK;
}

/* ---- loading ---- */

static void forget(const weights *w) {
    for (size_t i = 0; i < w->files.shard_count; i++) file_forget(&w->files.shards[i].file);
}

static status read_everything(const weights *w, char *piece) {
    for (size_t i = 0; i < w->files.shard_count; i++) {
        const file *f = &w->files.shards[i].file;
        for (int64_t at = 0; at < f->size; at += PIECE) {
            int64_t n = f->size - at < PIECE ? f->size - at : PIECE;
            TRY(file_read_at(f, piece, (size_t)n, at));
        }
    }
    return STATUS_OK;
}

/* Loading and quantizing from a cold cache over only reading the same files, cold and warm. */
static status measure_loading(bench_report *r, placement *p) {
    char *piece = mem_alloc(PIECE, "reading");
    if (!piece) return STATUS_MEMORY;
    double start = bench_now(), cold, warm, load, again;
    forget(&p->s.w);
    status s = read_everything(&p->s.w, piece);
    cold = bench_now() - start;
    start = bench_now();
    if (s == STATUS_OK) s = read_everything(&p->s.w, piece);
    warm = bench_now() - start;
    mem_free(piece);
    TRY(s);
    start = bench_now();
    TRY(weights_load_base(&p->s.w, p->s.d, p->s.e, NULL));
    again = bench_now() - start;
    forget(&p->s.w);
    start = bench_now();
    TRY(weights_load_base(&p->s.w, p->s.d, p->s.e, NULL));
    load = bench_now() - start;
    bench_add(r, "load.cold", "x", "the time of reading, cold", load / cold);
    bench_add(r, "load.warm", "x", "the time of reading, cached", again / warm);
    return STATUS_OK;
}

status bench_steps(bench_report *r, const char *folder, const config configs[BENCH_PLACES],
                   const device_request *device, const bench_shape *z) {
    placement *p = mem_alloc_array(BENCH_PLACES, sizeof *p, "the benchmark");
    tokens t;
    double warm_up;
    status s = tokens_open(&t, z);
    if (!p) s = STATUS_MEMORY;
    for (int i = 0; i < BENCH_PLACES && s == STATUS_OK; i++)
        s = placement_open(&p[i], folder, &configs[i], device, &t);
    for (int i = 0; i < z->step_rounds && s == STATUS_OK; i++)
        s = measure_loading(r, &p[BENCH_RESIDENT]);
    for (int i = 0; i < BENCH_PLACES && s == STATUS_OK; i++)
        s = one_step(&p[i], &t, &warm_up); /* touches its arena's memory first */
    for (int i = 0; i < z->step_rounds && s == STATUS_OK; i++) s = one_round(r, p, &t, i);
    for (int i = 0; p && i < BENCH_PLACES; i++) {
        stepper_close(&p[i].stepper);
        session_close(&p[i].s);
    }
    mem_free(p);
    tokens_close(&t);
    return s;
}
