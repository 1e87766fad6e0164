/* eval.c: `train eval`: loss and perplexity on rows, with --logprobs each token's
 * log-probability. */
#include "common/alloc.h"
#include "common/checked.h"
#include "common/log.h"
#include "trainer/run/corpus.h"
#include "trainer/run/evaluate.h"
#include "trainer/run/metrics.h"
#include "trainer/run/signals.h"
#include "trainer/verbs/verbs.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- --logprobs: one object per row: {"row", "ids": [...], "logprobs": [null, x1, x2 ...]}:
 * element i is log p of id i given those before it; the first token is given. ---- */

typedef struct writer {
    file out;
    const row_set *rows;
} writer;

static status write_row(writer *w, int64_t row, const float *logp) {
    int64_t first = w->rows->offsets[row], n = w->rows->offsets[row + 1] - first;
    json_t *ids = json_array(), *values = json_array(), *labels = json_array();
    for (int64_t i = 0; i < n; i++) {
        json_push(&ids, json_integer(w->rows->ids[first + i]));
        json_push(&labels, json_integer(w->rows->labels[first + i]));
        bool known = i > 0 && w->rows->labels[first + i] != LABEL_IGNORED;
        json_push(&values, known ? metrics_real((double)logp[i - 1]) : json_null());
    }
    json_t *o = json_pack("{s:I, s:o, s:o, s:o}", "row", (json_int_t)row, "ids", ids, "labels",
                          labels, "logprobs", values);
    char *text = o ? json_write_text(o, JSON_REAL_PRECISION(9)) : NULL;
    json_decref(o);
    char *line = text ? mem_printf("%s\n", text) : NULL;
    status s = line ? file_write(&w->out, line, strlen(line)) : STATUS_MEMORY;
    mem_free(text);
    mem_free(line);
    return s;
}

static status visit(void *context, const micro_batch *m, const float *logp) {
    writer *w = context;
    for (int64_t d = 0; d < m->documents; d++)
        TRY(write_row(w, m->row_index[d], logp + m->starts[d]));
    return STATUS_OK;
}

/* ---- the rows ---- */

static status open_data(const command *c, const config *conf, session *s, const char *model,
                        corpus *out) {
    memset(out, 0, sizeof *out);
    if (!c->data) return corpus_open(out, conf, s->tok, model, (int32_t)s->model.vocab, NULL);
    dataset_source source = {.path = c->data};
    TRY(corpus_guess_type(c->data, &source.type));
    dataset_options o = {.tokenizer = s->tok,
                         .tokenizer_folder = model,
                         .vocabulary = (int32_t)s->model.vocab,
                         .chat_template = conf->chat_template,
                         .train_on_inputs = conf->train_on_inputs,
                         .sequence_len = conf->sequence_len,
                         .long_rows = LONG_TRUNCATE,
                         .seed = (uint64_t)conf->seed};
    out->options = o;
    TRY(dataset_open(&out->test, &source, 1, &o));
    out->has_test = true;
    return STATUS_OK;
}

/* ---- the verb ---- */

static status report(const command *c, const evaluation *e, const char *what) {
    log_progress_end();
    if (c->format == FORMAT_JSON) {
        json_t *o =
            json_pack("{s:o, s:o, s:I, s:I, s:o}", "loss", metrics_real(e->loss), "perplexity",
                      metrics_real(perplexity_of(e->loss)), "targets", (json_int_t)e->targets,
                      "tokens", (json_int_t)e->tokens, "seconds", metrics_real(e->seconds));
        char *text = o ? json_write_text(o, JSON_REAL_PRECISION(9)) : NULL;
        json_decref(o);
        if (!text) return STATUS_MEMORY;
        puts(text);
        mem_free(text);
        return STATUS_OK;
    }
    printf("%s: loss %.6f, perplexity %.4f, %lld targets of %lld tokens, %.1f s\n", what,
           e->loss, perplexity_of(e->loss), (long long)e->targets, (long long)e->tokens,
           e->seconds);
    return STATUS_OK;
}

static status evaluate_open(const command *c, const config *conf, session *s,
                            const row_set *rows) {
    loader_options options = corpus_eval_options(conf);
    loader *l;
    TRY(loader_open(&l, rows, &options));
    s->request.evaluate_capacity = round_up_i64(loader_longest_batch(l), 64);
    loader_close(l);
    TRY(session_plan(s));
    TRY(session_load(s));
    writer w = {.rows = rows};
    if (c->logprobs) TRY(file_create(&w.out, c->logprobs, false));
    evaluation e;
    status r = evaluate_rows(s, rows, &options, signals_stop_wanted,
                             c->logprobs ? visit : NULL, &w, &e);
    if (c->logprobs) {
        status closed = file_close(&w.out);
        if (r == STATUS_OK) r = closed;
        if (r != STATUS_OK) file_unlink(c->logprobs);
    }
    TRY(r);
    return report(c, &e, c->data ? c->data : "held-out rows");
}

static status evaluate(const command *c, config *conf, const char *model, const char *adapter,
                       session *s, corpus *rows) {
    session_request q = {.model_folder = model,
                         .adapter_folder = adapter,
                         .device = verb_device(c),
                         .programs = 1u << PROGRAM_EVALUATE};
    TRY(session_open(s, conf, &q));
    TRY(session_open_tokenizer(s));
    if (!c->data) TRY(verb_resolve_datasets(conf));
    TRY(open_data(c, conf, s, model, rows));
    const row_set *held_out = corpus_held_out(rows);
    if (!held_out)
        return status_fail(
            STATUS_USAGE,
            "nothing to evaluate on: give --data FILE, or val_set_size or test_datasets "
            "in the configuration");
    return evaluate_open(c, conf, s, held_out);
}

status verb_eval(const command *c) {
    config conf;
    char *model;
    TRY(verb_model_config(c, &conf, &model));
    session s = {0};
    corpus rows = {0};
    char *adapter;
    status r = verb_adapter(c, &conf, &adapter);
    if (r == STATUS_OK) r = evaluate(c, &conf, model, adapter, &s, &rows);
    mem_free(adapter);
    corpus_close(&rows);
    session_close(&s);
    mem_free(model);
    config_free(&conf);
    return r;
}
