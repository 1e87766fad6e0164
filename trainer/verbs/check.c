/* check.c: `train check`: configuration (2), model folder (4), data (3), in this order; then
 * what the rows are like, and with --show N the first examples as tokens with what is learned
 * of them. */
#include "common/alloc.h"
#include "common/json.h"
#include "common/log.h"
#include "trainer/run/corpus.h"
#include "trainer/verbs/hub.h"
#include "trainer/verbs/load.h"
#include "trainer/verbs/verbs.h"

#include <stdio.h>
#include <string.h>

/* ---- examples ---- */

static status show_json(const row_set *rows, int64_t row) {
    int64_t first = rows->offsets[row], n = rows->offsets[row + 1] - first;
    json_t *ids = json_array(), *labels = json_array();
    for (int64_t i = 0; i < n; i++) {
        json_push(&ids, json_integer(rows->ids[first + i]));
        json_push(&labels, json_integer(rows->labels[first + i]));
    }
    json_t *o = json_pack("{s:o, s:o}", "ids", ids, "labels", labels);
    char *text = o ? json_write_text(o, 0) : NULL;
    json_decref(o);
    if (!text) return status_fail(STATUS_MEMORY, "out of memory for an example");
    printf("%s\n", text);
    mem_free(text);
    return STATUS_OK;
}

/* Line ends stay visible and still end the line. */
static void put_token(const char *text) {
    for (const char *p = text; *p; p++) {
        if (*p == '\n')
            fputs("\\n\n", stdout);
        else
            putchar(*p);
    }
}

/* Learned tokens green, the others grey; without colour learned runs stand in [[ ]]. */
static status show_text(const session *s, const row_set *rows, int64_t row) {
    int64_t first = rows->offsets[row], n = rows->offsets[row + 1] - first;
    bool colour = log_stdout_colour(), learned = false;
    char **texts;
    TRY(dataset_texts(s->tok, rows->ids + first, n, &texts));
    printf("row %lld: %lld tokens, %lld learned\n", (long long)row, (long long)n,
           (long long)row_set_targets(rows, row));
    for (int64_t i = 0; i < n; i++) {
        bool now = rows->labels[first + i] != LABEL_IGNORED;
        if (colour)
            fputs(now ? "\033[32m" : "\033[90m", stdout);
        else if (now != learned)
            fputs(now ? "[[" : "]]", stdout);
        learned = now;
        put_token(texts[i]);
    }
    puts(colour ? "\033[0m" : learned ? "]]" : "");
    dataset_free_texts(texts, n);
    return STATUS_OK;
}

/* ---- the report ---- */

static json_t *report_json(const dataset_report *r, const loader *l) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}",
                     "files", (json_int_t)r->files, "read", (json_int_t)r->read, "bad",
                     (json_int_t)r->bad, "dropped_long", (json_int_t)r->dropped_long,
                     "dropped_untargeted", (json_int_t)r->dropped_untargeted,
                     "dropped_duplicate", (json_int_t)r->dropped_duplicate, "truncated",
                     (json_int_t)r->truncated, "kept", (json_int_t)r->kept, "tokens",
                     (json_int_t)r->tokens, "targets", (json_int_t)r->targets, "longest",
                     (json_int_t)r->longest, "steps", (json_int_t)loader_steps(l),
                     "steps_per_epoch", (json_int_t)loader_steps_per_epoch(l), "fill",
                     loader_fill(l));
}

static status report(const command *c, const config *conf, const session *s,
                     const corpus *rows) {
    loader_options options = corpus_train_options(conf);
    loader *l;
    TRY(loader_open(&l, &rows->train.train, &options));
    status r = STATUS_OK;
    bool json = c->format == FORMAT_JSON;
    int64_t n = c->show > rows->train.train.count ? rows->train.train.count : c->show;
    if (json && c->show <= 0) {
        json_t *o = report_json(&rows->train.report, l);
        char *text = o ? json_write_text(o, JSON_INDENT(1)) : NULL;
        if (text)
            printf("%s\n", text);
        else
            r = status_fail(STATUS_MEMORY, "out of memory for the report");
        mem_free(text);
        json_decref(o);
    } else if (!json) {
        char *text = dataset_describe(&rows->train, &rows->options);
        if (text)
            printf("%s\n", text);
        else
            r = status_fail(STATUS_MEMORY, "out of memory for the report");
        mem_free(text);
        if (r == STATUS_OK)
            printf("%lld optimizer steps, %lld an epoch; micro-batches %.1f %% full\n",
                   (long long)loader_steps(l), (long long)loader_steps_per_epoch(l),
                   100 * loader_fill(l));
    }
    for (int64_t i = 0; i < n && r == STATUS_OK; i++)
        r = json ? show_json(&rows->train.train, i) : show_text(s, &rows->train.train, i);
    if (r == STATUS_OK && !json) puts("ok");
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
