/* train.c: see train.h. Opening and ending; the steps are loop.c's. */
#include "trainer/run/train.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/log.h"
#include "trainer/run/finish.h"
#include "trainer/run/loop.h"
#include "trainer/run/output.h"
#include "trainer/run/sample.h"
#include "trainer/run/signals.h"

#include <stdio.h>
#include <string.h>

/* ---- opening ---- */

static status check_phase(const char *phase) {
    return signals_check(phase);
}

static status open_rows(run *r, const train_request *q) {
    const config *c = r->c;
    const char *today = NULL; /* a template may state the date: that of the run's beginning */
    if (r->from.path)
        TRY(json_get_text(r->from.content, "template_date", &today, r->from.path,
                          STATUS_MODEL));
    if (today && !*today) today = NULL;
    TRY(corpus_open(&r->rows, c, r->s.tok, q->model_folder, (int32_t)r->s.model.vocab, today));
    snprintf(r->identity.template_date, sizeof r->identity.template_date, "%s",
             r->rows.train.report.template_date);
    corpus_warn_of_length(&r->rows, r->s.model.positions);
    if (r->s.tok) {
        char *text = dataset_describe(&r->rows.train, &r->rows.options);
        if (!text) return STATUS_MEMORY;
        if (*text) log_info("%s", text);
        mem_free(text);
    }
    TRY(corpus_open_feed(&r->rows, c, &r->feed));
    r->total_steps = feed_steps(r->feed);
    r->steps_per_epoch = feed_steps_per_epoch(r->feed);
    r->save_every = config_save_interval(c, r->total_steps, r->steps_per_epoch);
    r->eval_every = config_eval_interval(c, r->total_steps, r->steps_per_epoch);
    if (c->sample_packing)
        log_info("packing: %.1f %% full", 100 * loader_fill(feed_sample(r->feed)));
    TRY(corpus_identity(&r->rows, r->identity.data));
    return check_phase("preparing the data");
}

/* Programs hold at most what the longest micro-batch of these rows has, not micro_batch_size x
 * sequence_len: rows are known before the plan is made. */
static status plan_capacities(run *r) {
    session_request *q = &r->s.request;
    const row_set *held_out = corpus_held_out(&r->rows);
    q->train_capacity = round_up_i64(feed_longest_batch(r->feed), 64);
    loader_load mean = loader_mean_batch(feed_sample(r->feed));
    q->expected_rows = round_up_i64((int64_t)mean.tokens, 64);
    q->expected = (op_load){mean.pairs, (int64_t)mean.targets};
    if (held_out) {
        loader_options options = corpus_eval_options(r->c);
        loader *l;
        TRY(loader_open(&l, held_out, &options));
        q->evaluate_capacity = round_up_i64(loader_longest_batch(l), 64);
        loader_close(l);
        q->programs |= 1u << PROGRAM_EVALUATE;
    }
    return sample_plan(r);
}

/* After "no placement fits": the largest part of the micro-batch that does, with as many times
 * the accumulation, so that the result is the same. *words: the settings; empty: none. */
static status smaller_batch(run *r, char *words, size_t bytes) {
    static const char fits[] = "what would fit: ";
    session_request *q = &r->s.request;
    int64_t whole = r->c->micro_batch_size, capacity = q->train_capacity;
    uint64_t failures = mem_failures();
    *words = 0;
    for (int64_t m = whole - 1; m > 0 && !*words; m--) {
        if (whole % m) continue;
        session_unplan(&r->s);
        q->train_capacity = min_i64(capacity, round_up_i64(m * r->c->sequence_len, 64));
        status s = session_plan(&r->s);
        if (s != STATUS_OK && (s != STATUS_MEMORY || mem_failures() != failures)) return s;
        const char *more = s == STATUS_OK ? "" : strstr(status_message(), fits);
        if (!more) continue;
        more += *more ? sizeof fits - 1 : 0;
        snprintf(words, bytes, "micro_batch_size=%lld gradient_accumulation_steps=%lld%s%.*s",
                 (long long)m, (long long)(r->c->gradient_accumulation_steps * (whole / m)),
                 *more ? " " : "", (int)strcspn(more, ";"), more);
    }
    return STATUS_OK;
}

static status plan_run(run *r) {
    uint64_t failures = mem_failures();
    status s = session_plan(&r->s);
    if (s != STATUS_MEMORY || mem_failures() != failures) return s;
    const char *none = strstr(status_message(), ", and " PLAN_NO_PLACEMENT);
    if (!none) return s;
    char message[512], missing[256], words[256];
    snprintf(message, sizeof message, "%s", status_message());
    snprintf(missing, sizeof missing, "%.*s", (int)(none - status_message()),
             status_message());
    TRY(smaller_batch(r, words, sizeof words));
    if (!*words) return status_fail(STATUS_MEMORY, "%s", message);
    return status_fail(STATUS_MEMORY, "%s; what would fit: %s", missing, words);
}

status train_open(run *r, const config *c, const train_request *q) {
    r->c = c;
    r->resumed_from = r->save_retry_at = -1;
    session_request request = {.model_folder = q->model_folder,
                               .train = true,
                               .device = q->device,
                               .pattern = q->pattern,
                               .programs = 1u << PROGRAM_TRAIN | 1u << PROGRAM_NORM |
                                           1u << PROGRAM_UPDATE};
    TRY(session_open(&r->s, c, &request));
    TRY(model_config_check_length(&r->s.model, c->sequence_len));
    TRY(session_open_tokenizer(&r->s));
    TRY(check_phase("reading the model's headers"));
    TRY(open_rows(r, q));
    TRY(plan_capacities(r));
    TRY(plan_run(r));
    session_fingerprint(&r->s, r->identity.fingerprint, sizeof r->identity.fingerprint);
    r->identity.config = c->resolved;
    return STATUS_OK;
}

void train_close(run *r) {
    checkpoint_close(&r->from);
    stepper_close(&r->stepper);
    metrics_close(&r->metrics);
    json_decref(r->state.samples_before);
    json_decref(r->samples_after);
    feed_close(r->feed);
    corpus_close(&r->rows);
    session_close(&r->s);
    memset(r, 0, sizeof *r);
}

/* ---- resuming ---- */

/* Finds what to go on from, before anything slow begins. */
static status find_checkpoint(run *r) {
    const char *path = r->c->resume_from_checkpoint;
    if (path) return checkpoint_open(path, &r->from);
    bool found;
    TRY(checkpoint_find(r->c->output_dir, &r->from, &found));
    if (!found)
        log_info("--resume: no checkpoint in %s yet, so the run starts from the beginning",
                 r->c->output_dir);
    return STATUS_OK;
}

static status same_config(const run *r, const train_request *q) {
    const char *before = "";
    char differences[2048] = "";
    TRY(json_get_text(r->from.content, "config", &before, r->from.path, STATUS_MODEL));
    if (q->compare_configs)
        TRY(q->compare_configs(before, r->c->resolved, differences, sizeof differences));
    if (!*differences) return STATUS_OK;
    return status_fail(
        STATUS_USAGE,
        "%s was made with another configuration: %s; undo that, or start anew with "
        "--overwrite",
        r->from.path, differences);
}

static status resume(run *r) {
    TRY(state_load(&r->s, &r->state, &r->identity, &r->from));
    r->resumed_from = r->from.step;
    log_info("resumed from step %lld (%s)", (long long)r->from.step, r->from.path);
    return feed_seek(r->feed, &r->state.place, r->state.cursor);
}

static status begin(run *r) {
    run_state_init(&r->state, &r->s);
    lr_schedule lr = {.kind = r->c->lr_scheduler,
                      .peak = r->c->learning_rate,
                      .min_ratio =
                          isnan(r->c->cosine_min_lr_ratio) ? 0 : r->c->cosine_min_lr_ratio,
                      .warmup = config_warmup_steps(r->c, r->total_steps),
                      .total = r->total_steps};
    TRY(stepper_open(&r->stepper, &r->s, &lr));
    r->identity.base = r->s.base_identity;
    if (r->from.path) TRY(resume(r));
    TRY(output_begin(r->c->output_dir, r->c->resolved));
    TRY(metrics_open(&r->metrics, r->c->output_dir,
                     r->resumed_from >= 0 ? r->resumed_from : 0));
    if (r->resumed_from >= 0) {
        int64_t at = r->resumed_from;
        r->before =
            (evaluation){.loss = r->state.before_loss, .targets = r->state.before_targets};
        metrics_write(
            &r->metrics,
            json_pack("{s:I, s:I}", "step", (json_int_t)at, "resumed_from", (json_int_t)at),
            "run");
        return STATUS_OK;
    }
    status s = loop_evaluate(r, &r->before);
    r->state.before_loss = r->before.loss;
    r->state.before_targets = r->before.targets;
    if (s == STATUS_OK) s = sample_collect(r, &r->state.samples_before);
    if (s == STATUS_INTERRUPTED)
        return status_fail(s,
                           "interrupted by %s before the first step: nothing to save yet; the "
                           "same command with "
                           "--resume starts again",
                           signals_name());
    return s;
}

static status train_in(run *r, const train_request *q, bool resuming) {
    if (resuming || r->c->resume_from_checkpoint) TRY(find_checkpoint(r));
    if (r->from.path) TRY(same_config(r, q));
    log_info("%s", r->c->resolved);
    TRY(train_open(r, r->c, q));
    r->s.b->timed = q->profile;
    finish_print_plan(r);
    TRY(session_load(&r->s));
    TRY(begin(r));
    TRY(loop_run(r));
    if (r->evaluated_at != r->state.optimizer.step) TRY(loop_evaluate(r, &r->after));
    TRY(sample_collect(r, &r->samples_after));
    return finish_run(r, q->profile);
}

status train_run(const config *c, const train_request *q) {
    output_lock lock = {0};
    output_kind kind;
    TRY(output_take(&lock, c->output_dir, &kind));
    status s = STATUS_OK;
    bool resuming = q->resume || c->auto_resume_from_checkpoints;
    if (q->overwrite && kind != OUTPUT_FRESH) {
        s = output_clear(c->output_dir);
        kind = OUTPUT_FRESH;
    }
    if (s == STATUS_OK && kind == OUTPUT_FINISHED) {
        s = finish_show_summary(c->output_dir);
    } else if (s == STATUS_OK && kind == OUTPUT_UNFINISHED && !resuming &&
               !c->resume_from_checkpoint) {
        s = status_fail(STATUS_USAGE,
                        "%s holds an unfinished run: go on with --resume, or start anew with "
                        "--overwrite",
                        c->output_dir);
    } else if (s == STATUS_OK) {
        run r = {.c = c};
        s = train_in(&r, q, resuming);
        train_close(&r);
    }
    output_lock_release(&lock);
    return s;
}
