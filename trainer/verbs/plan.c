/* plan.c: `train plan`: what goes where, how much and how fast, before anything is loaded. The
 * same code as a run up to the point where memory is reserved, so what it prints is exact. */
#include "common/alloc.h"
#include "common/checked.h"
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

static status print_plan(run *r, const command *c) {
    int accumulation = (int)r->c->gradient_accumulation_steps;
    char *text = NULL;
    json_t *o = NULL;
    int64_t longest;
    if (c->format == FORMAT_JSON)
        o = plan_json(&r->s, accumulation);
    else
        text = plan_text(&r->s, accumulation);
    if (!text && !o) return STATUS_MEMORY;
    double step_seconds = plan_step_cost(&r->s, accumulation).seconds;
    status s = largest_sequence(r, &longest);
    if (s != STATUS_OK) {
        json_decref(o);
    } else if (o) {
        json_put(&o, "steps", json_integer(r->total_steps));
        json_put(&o, "run_seconds", json_real(step_seconds * (double)r->total_steps));
        json_put(&o, "largest_sequence_len", json_integer(longest));
        text = json_write_text(o, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
        json_decref(o);
        if (text)
            printf("%s\n", text);
        else
            s = status_fail(STATUS_MEMORY, "out of memory for the plan");
    } else {
        printf("%s\n  %lld steps, at most %.0f s for the run\n  largest sequence_len that "
               "fits: %lld%s\n",
               text, (long long)r->total_steps, step_seconds * (double)r->total_steps,
               (long long)longest, longest >= 1 << 20 ? " or more" : "");
    }
    mem_free(text);
    return s;
}

status verb_plan(const command *c) {
    config conf;
    char *model;
    TRY(verb_load_config(c, true, &conf, &model));
    train_request q = {.model_folder = model, .device = verb_device(c)};
    run r = {0};
    status s = train_open(&r, &conf, &q);
    if (s == STATUS_OK) s = print_plan(&r, c);
    train_close(&r);
    mem_free(model);
    config_free(&conf);
    return s;
}
