/* loop.c: see loop.h. */
#include "trainer/run/loop.h"
#include "common/alloc.h"
#include "common/log.h"
#include "trainer/run/sample.h"
#include "trainer/run/signals.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SAVE_RETRY_STEPS = 5 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Resident memory of the process, bytes. */
static int64_t resident_bytes(void) {
    long long pages = 0, skip = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f) return 0;
    if (fscanf(f, "%lld %lld", &skip, &pages) != 2) pages = 0;
    fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

/* ---- reporting ---- */

static void report_step(run *r, const batch_group *g, const step_result *q, double seconds) {
    const optimizer_state *o = &r->state.optimizer;
    double rate = (double)q->tokens / seconds;
    json_t *line = json_pack("{s:I, s:o, s:o, s:o, s:o, s:I, s:I, s:o, s:o, s:I}", "step",
                             (json_int_t)o->step, "epoch", metrics_real(g->epoch), "loss",
                             metrics_real(q->loss), "lr", metrics_real(q->lr), "grad_norm",
                             metrics_real(q->grad_norm), "tokens", (json_int_t)q->tokens,
                             "targets", (json_int_t)q->targets, "tokens_per_second",
                             metrics_real(rate), "step_seconds", metrics_real(seconds),
                             "memory", (json_int_t)resident_bytes());
    if (r->s.compute == DTYPE_F16) json_put(&line, "loss_scale", metrics_real(o->loss_scale));
    if (o->skipped || r->s.compute == DTYPE_F16)
        json_put(&line, "skipped_steps", json_integer(o->skipped));
    metrics_write(&r->metrics, line, "train");

    double left = (r->seconds / (double)r->steps_here) * (double)(r->total_steps - o->step);
    char text[256];
    snprintf(text, sizeof text,
             "step %lld/%lld  loss %.4f  lr %.2e  grad %.3f  %.0f tok/s  %.2f GiB  epoch %.2f "
             " left %d:%02d%s",
             (long long)o->step, (long long)r->total_steps, q->loss, q->lr, q->grad_norm,
             (double)r->tokens_here / r->seconds, (double)resident_bytes() / 0x1p30, g->epoch,
             (int)left / 60, (int)left % 60, q->skipped ? "  SKIPPED: not finite" : "");
    int64_t every = r->c->logging_steps == CONFIG_NOT_SET ? 1 : r->c->logging_steps;
    bool line_due =
        every > 0 && (o->step % every == 0 || o->step == r->total_steps || r->steps_here == 1);
    if (line_due)
        log_info("%s", text);
    else
        log_progress("%s", text);
}

/* ---- evaluating ---- */

status loop_evaluate(run *r, evaluation *out) {
    const row_set *rows = corpus_held_out(&r->rows);
    memset(out, 0, sizeof *out);
    if (!rows) return STATUS_OK;
    loader_options options = corpus_eval_options(r->c);
    TRY(evaluate_rows(&r->s, rows, &options, signals_stop_wanted, NULL, NULL, out));
    int64_t at = r->state.optimizer.step;
    log_info("step %lld  held-out loss %.4f  perplexity %.2f  (%lld targets, %.1f s)",
             (long long)at, out->loss, perplexity_of(out->loss), (long long)out->targets,
             out->seconds);
    if (at == r->resumed_from) return STATUS_OK; /* the line stands there from before */
    metrics_write(&r->metrics,
                  json_pack("{s:I, s:o, s:I, s:o}", "step", (json_int_t)at, "eval_loss",
                            metrics_real(out->loss), "eval_targets", (json_int_t)out->targets,
                            "eval_seconds", metrics_real(out->seconds)),
                  "eval");
    return STATUS_OK;
}

/* Evaluates, and decides whether to stop for lack of progress. */
static status evaluate_now(run *r, bool *stop) {
    run_state *st = &r->state;
    TRY(loop_evaluate(r, &r->after));
    r->evaluated_at = st->optimizer.step;
    if (!r->after.targets) return STATUS_OK;
    if (r->after.loss < st->best_eval) {
        st->best_eval = r->after.loss;
        st->best_eval_step = st->optimizer.step;
        st->evals_without_gain = 0;
        return STATUS_OK;
    }
    st->evals_without_gain++;
    int64_t patience = r->c->early_stopping_patience;
    if (patience != CONFIG_NOT_SET && patience > 0 && st->evals_without_gain >= patience) {
        log_info("early stopping: %lld evaluations without a better held-out loss than %.4f "
                 "at step %lld",
                 (long long)st->evals_without_gain, st->best_eval,
                 (long long)st->best_eval_step);
        *stop = r->stopped_early = true;
    }
    return STATUS_OK;
}

/* ---- saving ---- */

/* A save that fails is a warning and is tried again, and the run goes on; but not with a state
 * that is not finite. */
static status save_now(run *r, bool *saved) {
    double began = now();
    status s = state_save(&r->s, &r->state, &r->identity, r->c->output_dir,
                          (int)r->c->save_total_limit);
    if (s == STATUS_OK) {
        r->save_retry_at = -1;
        log_info("saved step %lld in %.2f s", (long long)r->state.optimizer.step,
                 now() - began);
        *saved = true;
        return STATUS_OK;
    }
    if (s == STATUS_DIVERGED || s == STATUS_DEVICE) return s;
    log_warn("saving step %lld failed: %s; the run goes on and tries again in %d steps",
             (long long)r->state.optimizer.step, status_message(), SAVE_RETRY_STEPS);
    r->save_retry_at = r->state.optimizer.step + SAVE_RETRY_STEPS;
    return STATUS_OK;
}

static status save_and_leave(run *r) {
    const char *name = signals_name();
    long long step = (long long)r->state.optimizer.step;
    if (step == 0 && r->resumed_from < 0)
        return status_fail(STATUS_INTERRUPTED,
                           "interrupted by %s before the first step: the same command with "
                           "--resume starts again",
                           name);
    bool saved = step == r->resumed_from;
    if (!saved) TRY(save_now(r, &saved));
    if (!saved)
        return status_fail(STATUS_INTERRUPTED,
                           "interrupted by %s at step %lld, which could not be saved: %s; "
                           "--resume goes on from the checkpoint before",
                           name, step, status_message());
    return status_fail(STATUS_INTERRUPTED,
                       "interrupted by %s: step %lld is saved; --resume goes on from it", name,
                       step);
}

/* ---- watching ---- */

static status watch(run *r, const step_result *q) {
    double threshold = r->c->loss_watchdog_threshold;
    if (isnan(threshold) || q->skipped) return STATUS_OK;
    if (q->loss <= threshold) {
        r->state.watchdog_in_row = 0;
        return STATUS_OK;
    }
    int64_t patience = r->c->loss_watchdog_patience > 0 ? r->c->loss_watchdog_patience : 3;
    if (++r->state.watchdog_in_row < patience) return STATUS_OK;
    return status_fail(
        STATUS_DIVERGED,
        "step %lld: loss %.4f has been above loss_watchdog_threshold %.4f for %lld "
        "steps; the last checkpoint is from before",
        (long long)r->state.optimizer.step, q->loss, threshold, (long long)patience);
}

/* The rows of a batch that broke the run, to look at. Whether they could be written. */
static bool write_bad_batch(run *r, const batch_group *g) {
    json_t *rows = json_array();
    for (int a = 0; a < g->micro_count; a++)
        for (int64_t d = 0; d < g->micro[a].documents; d++)
            json_push(&rows, json_integer(g->micro[a].row_index[d]));
    json_t *o = json_pack("{s:I, s:I, s:o}", "step", (json_int_t)r->state.optimizer.step,
                          "group", (json_int_t)g->index, "rows", rows);
    char *text = o ? json_write_text(o, 0) : NULL,
         *path = file_join(r->c->output_dir, "bad_batch.json");
    bool written = text && path && file_write_all(path, text, strlen(text)) == STATUS_OK;
    mem_free(text);
    mem_free(path);
    json_decref(o);
    return written;
}

/* ---- the loop ---- */

static status one_step(run *r, const batch_group *g, const feed_place *place) {
    step_result q;
    double began = now();
    status s = stepper_run(&r->stepper, g, &r->state.optimizer, signals_stop_wanted, &q);
    if (s == STATUS_DIVERGED) {
        char message[1024];
        snprintf(message, sizeof message, "%s", status_message());
        if (!write_bad_batch(r, g)) return status_fail(s, "%s", message);
        return status_fail(s, "%s (rows of the last batch: %s/bad_batch.json)", message,
                           r->c->output_dir);
    }
    TRY(s);
    double seconds = now() - began;
    r->state.cursor = g->index + 1;
    r->state.place = *place;
    r->state.tokens += q.tokens;
    r->state.targets += q.targets;
    r->state.seconds += seconds;
    r->seconds += seconds;
    r->steps_here++;
    r->tokens_here += q.tokens;
    r->last_loss = q.loss;
    report_step(r, g, &q, seconds);
    return watch(r, &q);
}

static bool due(int64_t step, int64_t every) {
    return every > 0 && step % every == 0;
}

status loop_run(run *r) {
    bool stop = false, saved = false;
    while (!stop) {
        if (signals_stop_wanted()) return save_and_leave(r);
        const batch_group *g;
        feed_place place;
        TRY(feed_next(r->feed, &g, &place));
        if (!g) break;
        status s = one_step(r, g, &place);
        if (s == STATUS_INTERRUPTED) return save_and_leave(r);
        TRY(s);
        int64_t step = r->state.optimizer.step;
        bool last = step == r->total_steps;
        if (due(step, r->eval_every) || (last && corpus_held_out(&r->rows))) {
            s = evaluate_now(r, &stop);
            if (s == STATUS_INTERRUPTED) return save_and_leave(r);
            TRY(s);
        }
        if (r->c->generate_samples && !last &&
            (due(step, r->c->sample_steps) ||
             (r->c->sample_steps == CONFIG_NOT_SET && due(step, r->eval_every))))
            TRY(sample_show(r, step));
        if (last || stop || due(step, r->save_every) || step == r->save_retry_at)
            TRY(save_now(r, &saved));
    }
    return STATUS_OK;
}
