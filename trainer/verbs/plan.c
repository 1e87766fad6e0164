/* plan.c: `train plan`: what goes where, how much and how fast, before anything is loaded. The
 * same code as a run up to the point where memory is reserved, so what it prints is exact. */
#include "common/alloc.h"
#include "common/checked.h"
#include "common/log.h"
#include "trainer/run/gemm_table.h"
#include "trainer/run/loop.h"
#include "trainer/run/plan_text.h"
#include "trainer/run/train.h"
#include "trainer/verbs/verbs.h"

#include <stdio.h>
#include <string.h>

/* Plans the open run again for micro-batches of `tokens` rows; fails only where the planning
 * does. */
static status fits(run *r, int64_t tokens, bool *yes) {
    session *s = &r->s;
    session_unplan(s);
    s->request.train_capacity = round_up_i64(tokens, 64);
    if (s->request.evaluate_capacity) s->request.evaluate_capacity = s->request.train_capacity;
    uint64_t failures = mem_failures();
    status planned = session_plan(s);
    *yes = planned == STATUS_OK;
    return mem_failures() == failures ? STATUS_OK : planned;
}

/* The largest sequence_len (a multiple of 64) whose plan fits, by doubling and halving. */
static status largest_sequence(run *r, int64_t *out) {
    int64_t per = r->c->micro_batch_size, low = 0, high = 64, most = 1 << 20;
    for (bool yes = true; high <= most;) {
        TRY(fits(r, high * per, &yes));
        if (!yes) break;
        low = high, high *= 2;
    }
    if (high > most) high = low + 64; /* longer than anyone asks for */
    while (high - low > 64) {
        int64_t middle = round_up_i64((low + high) / 2, 64);
        if (middle >= high) break;
        bool yes;
        TRY(fits(r, middle * per, &yes));
        *(yes ? &low : &high) = middle;
    }
    *out = low;
    return STATUS_OK;
}

static json_t *table_json(const gemm_table_report *t) {
    return json_pack("{s:s, s:I, s:I, s:f}", "path", t->path, "products",
                     (json_int_t)t->shapes, "faster", (json_int_t)t->faster, "best", t->best);
}

static status print_json(run *r, const gemm_table_report *table, int64_t longest) {
    int accumulation = (int)r->c->gradient_accumulation_steps;
    json_t *o = plan_json(&r->s, accumulation);
    double seconds = plan_step_cost(&r->s, accumulation).seconds;
    json_put(&o, "steps", json_integer(r->total_steps));
    json_put(&o, "run_seconds", json_real(seconds * (double)r->total_steps));
    json_put(&o, "largest_sequence_len", json_integer(longest));
    if (table) json_put(&o, "gemm_table", table_json(table));
    char *text = o ? json_write_text(o, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(o);
    if (!text) return status_fail(STATUS_MEMORY, "out of memory for the plan");
    puts(text);
    mem_free(text);
    return STATUS_OK;
}

static status print_text(run *r, const gemm_table_report *table, int64_t longest) {
    int accumulation = (int)r->c->gradient_accumulation_steps;
    char *text = plan_text(&r->s, accumulation);
    double seconds = plan_step_cost(&r->s, accumulation).seconds;
    if (!text) return STATUS_MEMORY;
    printf("%s\n  %lld steps, at most %.0f s for the run\n  largest sequence_len that "
           "fits: %lld%s\n",
           text, (long long)r->total_steps, seconds * (double)r->total_steps,
           (long long)longest, longest >= 1 << 20 ? " or more" : "");
    mem_free(text);
    if (!table) return STATUS_OK;
    printf("  %lld of %lld matrix products have a faster algorithm than the library's first",
           (long long)table->faster, (long long)table->shapes);
    if (table->faster) printf(", one takes %.0f %% of its time", 100 * table->best);
    printf(": %s\n", table->path);
    return STATUS_OK;
}

/* The largest sequence is found by planning anew; then the run's own plan is made again. */
static status print_plan(run *r, const command *c, const gemm_table_report *table) {
    int64_t longest, capacity = r->s.request.train_capacity,
                     evaluate = r->s.request.evaluate_capacity;
    TRY(largest_sequence(r, &longest));
    r->s.request.train_capacity = capacity;
    r->s.request.evaluate_capacity = evaluate;
    session_unplan(&r->s);
    TRY(session_plan(&r->s));
    log_progress_end();
    return c->format == FORMAT_JSON ? print_json(r, table, longest)
                                    : print_text(r, table, longest);
}

status verb_plan(const command *c) {
    config conf;
    char *model;
    TRY(verb_load_config(c, true, &conf, &model));
    train_request q = {.model_folder = model, .device = verb_device(c)};
    run r = {0};
    gemm_table_report table;
    status s = train_open(&r, &conf, &q);
    if (s == STATUS_OK && c->measure) s = gemm_table_measure(&r, &table);
    if (s == STATUS_OK) s = print_plan(&r, c, c->measure ? &table : NULL);
    train_close(&r);
    mem_free(model);
    config_free(&conf);
    return s;
}
