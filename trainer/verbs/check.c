/* check.c: `train check`: configuration (2), model folder (4), data (3), in this order; then
 * what the rows are like, and with --show N the first examples as tokens with what is learned
 * of them. */
#include "common/alloc.h"
#include "common/checked.h"
#include "common/json.h"
#include "common/log.h"
#include "trainer/run/corpus.h"
#include "trainer/verbs/examples.h"
#include "trainer/verbs/hub.h"
#include "trainer/verbs/load.h"
#include "trainer/verbs/verbs.h"

#include <stdio.h>
#include <string.h>

/* ---- the report ---- */

static double rows_per_bin(const row_set *rows, const loader *l, const config *conf) {
    double tokens_per_bin = loader_fill(l) * (double)conf->sequence_len;
    return tokens_per_bin * (double)rows->count /
           (double)max_i64(rows->offsets[rows->count], 1);
}

static json_t *report_json(const corpus *rows, const loader *l, const config *conf) {
    const dataset_report *r = &rows->train.report;
    json_t *o = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "files",
        (json_int_t)r->files, "read", (json_int_t)r->read, "bad", (json_int_t)r->bad,
        "dropped_long", (json_int_t)r->dropped_long, "dropped_untargeted",
        (json_int_t)r->dropped_untargeted, "dropped_duplicate",
        (json_int_t)r->dropped_duplicate, "truncated", (json_int_t)r->truncated, "kept",
        (json_int_t)r->kept, "tokens", (json_int_t)r->tokens, "targets",
        (json_int_t)r->targets, "longest", (json_int_t)r->longest, "steps",
        (json_int_t)loader_steps(l), "steps_per_epoch", (json_int_t)loader_steps_per_epoch(l),
        "fill", loader_fill(l), "rows_per_bin", rows_per_bin(&rows->train.train, l, conf));
    json_put(&o, "lengths", lengths_json(&rows->train.train));
    return o;
}

static status print_report_json(const corpus *rows, const loader *l, const config *conf) {
    json_t *o = report_json(rows, l, conf);
    char *text = o ? json_write_text(o, JSON_INDENT(1)) : NULL;
    json_decref(o);
    if (!text) return status_fail(STATUS_MEMORY, "out of memory for the report");
    puts(text);
    mem_free(text);
    return STATUS_OK;
}

static status print_report_text(const corpus *rows, const loader *l, const config *conf) {
    char *text = dataset_describe(&rows->train, &rows->options);
    if (!text) return status_fail(STATUS_MEMORY, "out of memory for the report");
    puts(text);
    mem_free(text);
    lengths_text(&rows->train.train);
    if (conf->sample_packing)
        printf("packed: %.1f rows in a bin of %lld tokens\n",
               rows_per_bin(&rows->train.train, l, conf), (long long)conf->sequence_len);
    printf("%lld optimizer steps, %lld an epoch; micro-batches %.1f %% full\n",
           (long long)loader_steps(l), (long long)loader_steps_per_epoch(l),
           100 * loader_fill(l));
    return STATUS_OK;
}

static status print_all(const command *c, const config *conf, const session *s,
                        const corpus *rows, const loader *l) {
    const row_set *set = &rows->train.train;
    bool json = c->format == FORMAT_JSON;
    log_progress_end();
    int64_t n = c->show > set->count ? set->count : c->show;
    if (!json) TRY(print_report_text(rows, l, conf));
    if (json && n <= 0) TRY(print_report_json(rows, l, conf));
    for (int64_t i = 0; i < n; i++)
        TRY(json ? example_json(set, i) : example_text(s->tok, set, i));
    if (!json) puts("ok");
    return STATUS_OK;
}

static status report(const command *c, const config *conf, const session *s,
                     const corpus *rows) {
    loader_options options = corpus_train_options(conf);
    loader *l;
    TRY(loader_open(&l, &rows->train.train, &options));
    status r = print_all(c, conf, s, rows, l);
    loader_close(l);
    return r;
}

static status check_all(const command *c, const config *conf, const char *model, session *s,
                        corpus *rows) {
    session_request q = {.model_folder = model, .train = true};
    TRY(session_open(s, conf, &q));
    TRY(model_config_check_length(&s->model, conf->sequence_len));
    TRY(session_open_tokenizer(s));
    TRY(verb_resolve_datasets((config *)conf));
    TRY(corpus_open(rows, conf, s->tok, model, (int32_t)s->model.vocab, NULL));
    corpus_warn_of_length(rows, s->model.positions);
    return report(c, conf, s, rows);
}

status verb_check(const command *c) {
    config conf;
    char *model;
    TRY(verb_load_config(c, false, &conf, &model)); /* data comes after the model */
    session s = {0};
    corpus rows = {0};
    status r = check_all(c, &conf, model, &s, &rows);
    corpus_close(&rows);
    session_close(&s);
    mem_free(model);
    config_free(&conf);
    return r;
}
