/* job.c: the run that somebody has in mind, timed before it is begun: the same plan, weights and
 * steps as `train`, no output folder. With a synthetic base nothing has to be there at all. */
#include "trainer/bench/bench.h"
#include "common/log.h"
#include "trainer/run/finish.h"
#include "trainer/run/plan_text.h"
#include "trainer/run/profile.h"
#include "trainer/run/signals.h"
#include "trainer/run/train.h"

enum { STEPS = 4 /* unless max_steps says otherwise; the first does not count */ };

static status one_step(run *x, double *seconds, step_result *out) {
    const batch_group *g;
    feed_place place;
    TRY(signals_check("measuring"));
    TRY(feed_next(x->feed, &g, &place));
    if (!g)
        return status_fail(STATUS_DATA,
                           "the rows are not enough for the steps: bench needs two "
                           "or more, %d unless max_steps says how many",
                           STEPS);
    double start = bench_now();
    TRY(stepper_run(&x->stepper, g, &x->state.optimizer, NULL, out));
    *seconds = bench_now() - start;
    return STATUS_OK;
}

/* Where operations are only enqueued, one more step that waits for each: the profile's, slower
 * than those that were measured. */
static status time_operations(run *x, double *seconds) {
    step_result result;
    engine_profile_clear(x->s.e);
    x->s.b->timed = true;
    status s = one_step(x, seconds, &result);
    x->s.b->timed = false;
    return s;
}

static status measure(bench_report *r, run *x, bool table) {
    lr_schedule lr = {
        .kind = SCHEDULER_CONSTANT, .peak = x->c->learning_rate, .total = 1 << 20};
    int64_t steps = x->c->max_steps == CONFIG_NOT_SET ? STEPS : x->c->max_steps;
    double seconds = 0, all = 0;
    step_result result;
    if (steps < 2) return status_fail(STATUS_USAGE, "bench needs max_steps of 2 or more");
    finish_print_plan(x);
    TRY(session_load(&x->s));
    TRY(stepper_open(&x->stepper, &x->s, &lr));
    run_state_init(&x->state, &x->s);
    TRY(one_step(x, &seconds, &result)); /* touches the arena's memory first */
    engine_profile_clear(x->s.e);
    plan_cost cost = plan_step_cost(&x->s, (int)x->c->gradient_accumulation_steps);
    for (int64_t i = 1; i < steps && i <= BENCH_ROUNDS; i++) {
        TRY(one_step(x, &seconds, &result));
        all += seconds;
        log_progress("bench: step %lld of %lld, %.1f tokens/s", (long long)i + 1,
                     (long long)steps, (double)result.tokens / seconds);
        bench_add(r, "step.rate", "tokens/s", "", (double)result.tokens / seconds);
        bench_add(r, "step", "of", "matrix products",
                  cost.flops / x->s.rates.gemm_flops / seconds);
        bench_add(r, "step.predicted", "of", "the measured time", cost.seconds / seconds);
    }
    if (!x->s.b->host_visible) TRY(time_operations(x, &all));
    if (table) profile_print(&x->s, all);
    r->profile = profile_json(&x->s);
    return r->profile ? STATUS_OK : STATUS_MEMORY;
}

status bench_job(bench_report *r, const config *c, const char *model_folder,
                 const device_request *device, bool table) {
    run x = {0};
    train_request q = {.model_folder = model_folder, .device = *device};
    status s = train_open(&x, c, &q);
    if (s == STATUS_OK) s = measure(r, &x, table);
    if (s == STATUS_OK) x.s.b->table->describe(x.s.b, r->device, sizeof r->device);
    train_close(&x);
    return s;
}
