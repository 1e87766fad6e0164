/* evaluate.c: see evaluate.h. */
#include "trainer/run/evaluate.h"
#include "common/alloc.h"
#include "common/log.h"
#include "trainer/run/step.h"

#include <math.h>
#include <string.h>
#include <time.h>

double perplexity_of(double loss) {
    return exp(loss);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static status run_batch(session *s, const micro_batch *m, float *logp) {
    run_input in[TRAIN_INPUTS];
    step_inputs(in, m, NULL);
    run_args args = {
        .rows = m->tokens, .documents = m->documents, .micro = UINT64_MAX, .inputs = in};
    TRY(engine_run(s->e, s->index[PROGRAM_EVALUATE], &args));
    return engine_output(s->e, s->index[PROGRAM_EVALUATE], "logp", logp,
                         m->tokens * (int64_t)sizeof *logp);
}

static status walk(session *s, loader *l, float *logp, bool (*stop)(void),
                   evaluate_visitor visitor, void *context, evaluation *out) {
    double sum = 0;
    for (const batch_group *g;;) {
        TRY(loader_next(l, &g));
        if (!g) break;
        for (int a = 0; a < g->micro_count; a++) {
            const micro_batch *m = &g->micro[a];
            if (stop && stop())
                return status_fail(STATUS_INTERRUPTED, "interrupted while evaluating");
            TRY(run_batch(s, m, logp));
            for (int64_t i = 0; i < m->tokens; i++)
                if (m->targets[i] >= 0) sum -= (double)logp[i];
            out->targets += m->target_count;
            out->tokens += m->tokens;
            if (visitor) TRY(visitor(context, m, logp));
        }
        log_progress("evaluating: %lld of %lld batches", (long long)g->index + 1,
                     (long long)loader_steps(l));
    }
    if (!out->targets)
        return status_fail(STATUS_DATA, "evaluation: no row has a token to predict");
    out->loss = sum / (double)out->targets;
    return STATUS_OK;
}

status evaluate_rows(session *s, const row_set *rows, const loader_options *options,
                     bool (*stop)(void), evaluate_visitor visitor, void *context,
                     evaluation *out) {
    memset(out, 0, sizeof *out);
    double began = now();
    loader *l;
    TRY(loader_open(&l, rows, options));
    float *logp = mem_alloc_array((size_t)s->request.evaluate_capacity + 1, sizeof *logp,
                                  "log-probabilities");
    status r = logp ? walk(s, l, logp, stop, visitor, context, out) : STATUS_MEMORY;
    mem_free(logp);
    loader_close(l);
    out->seconds = now() - began;
    return r;
}
