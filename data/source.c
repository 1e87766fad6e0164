/* source.c: see source.h. Rows go in batches: read one after the other, made into tokens in
 * parallel (each thread with an encoder of its own), appended in order. */
#include "data/source.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/log.h"
#include "data/files.h"
#include "data/records.h"
#include "data/split.h"

#include <stdio.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

enum {
    BATCH_ROWS = 512,
    BATCH_BYTES = 8 << 20,
};

typedef enum source_kind {
    KIND_TOKENIZED,
    KIND_COMPLETION,
    KIND_PROMPT,
    KIND_CHAT,
    KIND_SEGMENTS,
} source_kind;

/* How rows are made; shared by the threads, immutable. */
typedef struct row_maker {
    source_kind kind;
    const dataset_source *source;
    const dataset_options *options;
    token_names names;
    prompt *prompt;
    chat_template *template;
    chat_fields chat;
    bool text_rows; /* the file is plain text, a row is its text */
} row_maker;

typedef struct encoder {
    span_builder spans;
    conversation messages;
} encoder;

typedef struct job {  /* a row on its way */
    size_t at, bytes; /* its text in the batch */
    record place;
    id_list ids, labels;
    status result;
    char *message; /* of a failure */
} job;

typedef struct batch {
    text_buffer text;
    job *jobs; /* [BATCH_ROWS] */
    int count;
} batch;

/* ---- what kind of dataset ---- */

status dataset_token_names(const dataset_options *o, token_names *out) {
    *out = (token_names){o->tokenizer, -1, -1};
    if (!o->tokenizer) return STATUS_OK;
    out->bos =
        o->bos_token ? tokenizer_id(o->tokenizer, o->bos_token) : tokenizer_bos(o->tokenizer);
    out->eos =
        o->eos_token ? tokenizer_id(o->tokenizer, o->eos_token) : tokenizer_eos(o->tokenizer);
    if (o->bos_token && out->bos < 0)
        return status_fail(STATUS_USAGE,
                           "special_tokens: bos_token `%s` is no token of this model",
                           o->bos_token);
    if (o->eos_token && out->eos < 0)
        return status_fail(STATUS_USAGE,
                           "special_tokens: eos_token `%s` is no token of this model",
                           o->eos_token);
    return STATUS_OK;
}

static status choose_kind(const dataset_source *s, source_kind *out) {
    static const struct {
        const char *type;
        source_kind kind;
    } kinds[] = {{"", KIND_TOKENIZED},         {"completion", KIND_COMPLETION},
                 {"text", KIND_COMPLETION},    {"pretrain", KIND_COMPLETION},
                 {"chat_template", KIND_CHAT}, {"sharegpt", KIND_CHAT},
                 {"chat", KIND_CHAT},          {"input_output", KIND_SEGMENTS}};
    const char *type = s->type ? s->type : "";
    *out = KIND_PROMPT;
    if (s->custom_prompt || prompt_is_type(type)) return STATUS_OK;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].type, type)) {
            *out = kinds[i].kind;
            return STATUS_OK;
        }
    return status_fail(
        STATUS_USAGE,
        "datasets: the type `%s` is not supported; there are chat_template, alpaca, "
        "completion, input_output, an empty type for rows with input_ids, and "
        "formats of one's own (type: with field_instruction, format ...)",
        type);
}

static status open_chat(row_maker *m) {
    const dataset_source *s = m->source;
    const dataset_options *o = m->options;
    TRY(chat_template_open(&m->template,
                           s->chat_template ? s->chat_template : o->chat_template,
                           tokenizer_chat_template(o->tokenizer), o->today, &m->names));
    m->chat = s->chat;
    m->chat.train_on_inputs = o->train_on_inputs;
    int32_t end = chat_template_end(m->template);
    m->chat.ends = end < 0 || end == m->names.eos ? s->train_on_eos : s->train_on_eot;
    return STATUS_OK;
}

static void maker_close(row_maker *m) {
    prompt_close(m->prompt);
    chat_template_close(m->template);
}

static status maker_open_parts(row_maker *m) {
    const char *type = m->source->custom_prompt ? NULL : m->source->type;
    TRY(choose_kind(m->source, &m->kind));
    if (m->kind != KIND_TOKENIZED && !m->options->tokenizer)
        return status_fail(STATUS_INTERNAL, "a dataset of text needs a tokenizer");
    TRY(dataset_token_names(m->options, &m->names));
    if (m->kind == KIND_PROMPT)
        return prompt_open(&m->prompt, type, &m->source->prompt, &m->names);
    return m->kind == KIND_CHAT ? open_chat(m) : STATUS_OK;
}

static status maker_open(row_maker *m, const dataset_source *source,
                         const dataset_options *o) {
    *m = (row_maker){.source = source, .options = o};
    status s = maker_open_parts(m);
    if (s != STATUS_OK) {
        maker_close(m);
        status_prefix(s, "%s", source->path);
    }
    return s;
}

static status choose_format(const dataset_source *s, record_format *out) {
    static const struct {
        const char *name;
        record_format format;
    } names[] = {{"json", RECORD_JSON},
                 {"text", RECORD_LINES},
                 {"paragraphs", RECORD_PARAGRAPHS},
                 {"document", RECORD_WHOLE}};
    *out = RECORD_AUTO;
    if (!s->ds_type) return STATUS_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i].name, s->ds_type)) {
            *out = names[i].format;
            return STATUS_OK;
        }
    return status_fail(STATUS_USAGE,
                       "%s: ds_type `%s` is not read here; there are json, text (a row "
                       "a line), paragraphs and document",
                       s->path, s->ds_type);
}

/* ---- one row ---- */

static status read_ids(const json_t *list, const char *key, int32_t limit, bool labels,
                       id_list *out) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        json_int_t id = json_integer_value(v);
        bool fits =
            json_is_integer(v) && ((labels && id == LABEL_IGNORED) || (id >= 0 && id < limit));
        if (!fits && json_is_integer(v) && id >= 0 && limit < INT32_MAX)
            return status_fail(STATUS_DATA,
                               "\"%s\"[%zu] is %lld, the model's vocabulary has %d "
                               "tokens: was it made with another tokenizer?",
                               key, i, (long long)id, limit);
        if (!fits) return status_fail(STATUS_DATA, "\"%s\"[%zu] is no token id", key, i);
        int32_t small = (int32_t)id;
        TRY(id_list_append(out, &small, 1));
    }
    return STATUS_OK;
}

static status make_tokenized(const row_maker *m, const json_t *row, span_builder *b) {
    int32_t limit = m->options->vocabulary ? m->options->vocabulary : INT32_MAX;
    const json_t *ids = json_object_get(row, "input_ids"),
                 *labels = json_object_get(row, "labels");
    if (!json_is_array(ids))
        return status_fail(STATUS_DATA,
                           "\"input_ids\" must be a list, it is %s (a dataset without "
                           "`type:` has tokenized rows)",
                           json_type_name(ids));
    if (labels && !json_is_null(labels) && json_array_size(labels) != json_array_size(ids))
        return status_fail(STATUS_DATA,
                           "\"labels\" must be a list of %zu ids as input_ids, it is "
                           "%s of %zu",
                           json_array_size(ids), json_type_name(labels),
                           json_array_size(labels));
    TRY(read_ids(ids, "input_ids", limit, false, &b->ids));
    if (json_is_array(labels)) return read_ids(labels, "labels", limit, true, &b->labels);
    return id_list_append(&b->labels, b->ids.items, b->ids.count);
}

static status make_segments(const row_maker *m, const json_t *row, span_builder *b) {
    const json_t *list = json_object_get(row, "segments");
    if (!json_is_array(list))
        return status_fail(STATUS_DATA, "\"segments\" must be a list, it is %s",
                           json_type_name(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *s = json_array_get(list, i), *text = json_object_get(s, "text");
        const json_t *label = json_object_get(s, "label");
        if (!json_is_string(text) || !json_is_boolean(label))
            return status_fail(STATUS_DATA,
                               "segment %zu must have a \"text\" and a \"label\" that is "
                               "true or false",
                               i + 1);
        size_t before = b->ids.count;
        TRY(tokenizer_encode(m->names.tokenizer, json_string_value(text),
                             json_string_length(text), 0, &b->ids));
        bool learn = json_is_true(label) || m->options->train_on_inputs;
        for (; before < b->ids.count; before++) {
            int32_t id = learn ? b->ids.items[before] : LABEL_IGNORED;
            TRY(id_list_append(&b->labels, &id, 1));
        }
    }
    return STATUS_OK;
}

static status make_completion(const row_maker *m, const json_t *row, span_builder *b) {
    const char *field = m->source->field ? m->source->field : "text";
    const json_t *v = json_object_get(row, field);
    if (!json_is_string(v))
        return status_fail(STATUS_DATA, "\"%s\" must be a string, it is %s", field,
                           json_type_name(v));
    return prompt_render_text(json_string_value(v), json_string_length(v), b);
}

static status make_chat(const row_maker *m, const json_t *row, encoder *e) {
    if (conversation_has_tools(row, &m->chat) && chat_template_wants_tools(m->template))
        return status_fail(STATUS_DATA,
                           "the row has tools, which the template %s would show and "
                           "which are not supported yet",
                           chat_template_name(m->template));
    TRY(conversation_read(&e->messages, row, &m->chat));
    TRY(chat_template_render(m->template, e->messages.items, e->messages.count, false,
                             &e->spans));
    return spans_finish(&e->spans);
}

static status make_object(const row_maker *m, const json_t *row, encoder *e) {
    if (!json_is_object(row))
        return status_fail(STATUS_DATA, "a row must be an object, it is %s",
                           json_type_name(row));
    switch (m->kind) {
    case KIND_TOKENIZED:
        return make_tokenized(m, row, &e->spans);
    case KIND_COMPLETION:
        return make_completion(m, row, &e->spans);
    case KIND_PROMPT:
        return prompt_render(m->prompt, row, m->options->train_on_inputs, &e->spans);
    case KIND_CHAT:
        return make_chat(m, row, e);
    case KIND_SEGMENTS:
        return make_segments(m, row, &e->spans);
    }
    return STATUS_INTERNAL;
}

/* A row's text to e->spans' ids and labels; failures name path and line. */
static status make_row(const row_maker *m, const char *path, const record *r, encoder *e) {
    spans_reset(&e->spans);
    status s;
    if (m->text_rows) {
        s = prompt_render_text(r->text, r->bytes, &e->spans);
    } else {
        json_t *row;
        TRY(record_parse(path, r, &row));
        s = make_object(m, row, e);
        json_decref(row);
    }
    return s == STATUS_OK ? s : status_prefix(s, "%s:%lld", path, (long long)r->line);
}

/* ---- batches ---- */

static void swap_lists(id_list *a, id_list *b) {
    id_list swap = *a;
    *a = *b;
    *b = swap;
}

static void run_job(const row_maker *m, const char *path, const char *text, job *j,
                    encoder *e) {
    record r = j->place;
    r.text = text + j->at;
    r.bytes = j->bytes;
    j->result = make_row(m, path, &r, e);
    if (j->result != STATUS_OK) {
        j->message = mem_strdup(status_message());
        if (!j->message) j->result = STATUS_MEMORY;
    }
    swap_lists(&j->ids, &e->spans.ids);
    swap_lists(&j->labels, &e->spans.labels);
}

static int thread_count(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

static int thread_number(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

static void run_jobs(const row_maker *m, const char *path, batch *b, encoder *encoders) {
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 8) if (b->count > 16)
#endif
    for (int i = 0; i < b->count; i++)
        run_job(m, path, b->text.data, &b->jobs[i], &encoders[thread_number()]);
}

/* ---- from ids to rows ---- */

typedef struct sink {
    const dataset_options *options;
    bool cut; /* long texts are cut into pieces */
    row_set *out;
    dataset_report *report;
} sink;

static status keep(sink *k, const int32_t *ids, const int32_t *labels, int64_t n) {
    int64_t targets = 0;
    for (int64_t i = 1; i < n; i++) targets += labels[i] != LABEL_IGNORED;
    if (!n || (!targets && !k->options->keep_untargeted)) {
        k->report->dropped_untargeted++;
        return STATUS_OK;
    }
    return row_set_append(k->out, ids, labels, n);
}

static status take_row(sink *k, const job *j) {
    int64_t n = (int64_t)j->ids.count, limit = k->options->sequence_len;
    dataset_report *r = k->report;
    r->longest_seen = max_i64(r->longest_seen, n);
    if (n > limit && k->cut) {
        r->cut++;
        for (int64_t at = 0; at < n; at += limit)
            TRY(keep(k, j->ids.items + at, j->labels.items + at, min_i64(limit, n - at)));
        return STATUS_OK;
    }
    if (n > limit && k->options->long_rows == LONG_DROP) {
        r->dropped_long++;
        return STATUS_OK;
    }
    if (n > limit && k->options->long_rows == LONG_FAIL)
        return status_fail(STATUS_DATA, "the row has %lld tokens, sequence_len is %lld",
                           (long long)n, (long long)limit);
    if (n > limit) r->truncated++, r->truncated_tokens += n - limit;
    return keep(k, j->ids.items, j->labels.items, min_i64(n, limit));
}

static status take_job(sink *k, const char *path, job *j) {
    status s = j->result;
    k->report->read++;
    if (s == STATUS_OK) {
        s = take_row(k, j);
        return s == STATUS_OK ? s
                              : status_prefix(s, "%s:%lld", path, (long long)j->place.line);
    }
    if (j->message) status_set(s, j->message);
    if (s != STATUS_DATA || !k->options->skip_bad_rows) return s;
    if (!k->report->bad++)
        snprintf(k->report->first_bad, sizeof k->report->first_bad, "%s", status_message());
    return STATUS_OK;
}

static status finish_batch(const row_maker *m, const char *path, batch *b, encoder *encoders,
                           sink *k) {
    run_jobs(m, path, b, encoders);
    status s = STATUS_OK;
    for (int i = 0; i < b->count; i++) {
        if (s == STATUS_OK) s = take_job(k, path, &b->jobs[i]);
        mem_free(b->jobs[i].message);
        b->jobs[i].message = NULL;
    }
    b->count = 0;
    b->text.bytes = 0;
    return s;
}

/* ---- files ---- */

/* Which rows of a source are wanted. */
typedef struct selection {
    row_split split;
    int64_t rows; /* of all files, INT64_MAX while not counted */
    int64_t shards, shard;
    int64_t end; /* no row from here on is wanted */
} selection;

static int wanted(const selection *s, int64_t row) {
    int times = 0; /* overlapping slices take a row more than once */
    if (s->shards > 1 && row % s->shards != s->shard) return 0;
    for (int p = 0; p < s->split.count; p++) {
        int64_t from, to;
        split_range(&s->split, p, s->rows, &from, &to);
        times += row >= from && row < to;
    }
    return times;
}

static status count_rows(const file_names *files, record_format format, int64_t *out) {
    *out = 0;
    for (size_t f = 0; f < files->count; f++) {
        record_reader *r;
        record row;
        TRY(records_open(&r, files->items[f], format));
        status s;
        while ((s = records_next(r, &row)) == STATUS_OK && row.text) ++*out;
        records_close(r);
        TRY(s);
    }
    return STATUS_OK;
}

static status select_rows(const dataset_source *source, const file_names *files,
                          record_format format, selection *out) {
    *out = (selection){.rows = INT64_MAX, .shards = source->shards, .shard = source->shard};
    TRY(split_parse(&out->split, source->split));
    if (split_needs_count(&out->split)) TRY(count_rows(files, format, &out->rows));
    for (int p = 0; p < out->split.count; p++) {
        int64_t from, to;
        split_range(&out->split, p, out->rows, &from, &to);
        out->end = max_i64(out->end, to);
    }
    return STATUS_OK;
}

static status give_row(batch *b, const record *row) {
    job *j = &b->jobs[b->count];
    j->at = b->text.bytes;
    j->bytes = row->bytes;
    j->place = *row;
    TRY(text_append(&b->text, row->text, row->bytes));
    b->count++;
    return STATUS_OK;
}

typedef struct source_reader {
    row_maker maker;
    file_names files;
    record_format format;
    selection selection;
    batch batch;
    encoder *encoders;
    int encoder_count;
    sink sink;
    int64_t row; /* number over all files */
} source_reader;

static status read_rows(source_reader *r, record_reader *file, const char *path) {
    record row;
    for (;; r->row++) {
        TRY(records_next(file, &row));
        if (!row.text || r->row >= r->selection.end) break;
        for (int times = wanted(&r->selection, r->row); times > 0; times--) {
            if (r->batch.count == BATCH_ROWS || r->batch.text.bytes > BATCH_BYTES) {
                TRY(finish_batch(&r->maker, path, &r->batch, r->encoders, &r->sink));
                log_progress("%s: %lld rows", path, (long long)r->sink.report->read);
            }
            TRY(give_row(&r->batch, &row));
        }
    }
    return finish_batch(&r->maker, path, &r->batch, r->encoders, &r->sink);
}

static status read_file(source_reader *r, const char *path) {
    record_reader *file;
    TRY(records_open(&file, path, r->format));
    r->maker.text_rows = records_are_text(file);
    status s = STATUS_OK;
    if (r->maker.text_rows && r->maker.kind != KIND_COMPLETION)
        s = status_fail(STATUS_DATA,
                        "%s: plain text can only be learned with `type: completion`", path);
    if (s == STATUS_OK) s = read_rows(r, file, path);
    records_close(file);
    r->sink.report->files++;
    return s;
}

static status reader_open(source_reader *r, const dataset_source *source,
                          const dataset_options *o) {
    TRY(maker_open(&r->maker, source, o));
    TRY(choose_format(source, &r->format));
    TRY(files_find(&r->files, source->path, source->name, source->files, source->file_count,
                   source->split));
    TRY(select_rows(source, &r->files, r->format, &r->selection));
    r->encoder_count = thread_count();
    r->encoders = mem_alloc_array((size_t)r->encoder_count, sizeof *r->encoders, "encoders");
    r->batch.jobs = mem_alloc_array(BATCH_ROWS, sizeof *r->batch.jobs, "a batch of rows");
    if (!r->encoders || !r->batch.jobs) return STATUS_MEMORY;
    for (int i = 0; i < r->encoder_count; i++) r->encoders[i].spans.names = r->maker.names;
    return STATUS_OK;
}

static void reader_close(source_reader *r) {
    for (int i = 0; r->encoders && i < r->encoder_count; i++) {
        spans_free(&r->encoders[i].spans);
        conversation_free(&r->encoders[i].messages);
    }
    for (int i = 0; r->batch.jobs && i < BATCH_ROWS; i++) {
        mem_free(r->batch.jobs[i].ids.items);
        mem_free(r->batch.jobs[i].labels.items);
    }
    mem_free(r->encoders);
    mem_free(r->batch.jobs);
    mem_free(r->batch.text.data);
    files_free(&r->files);
    maker_close(&r->maker);
}

static status read_all(source_reader *r, const dataset_source *source,
                       const dataset_options *o) {
    TRY(reader_open(r, source, o));
    r->sink.options = o;
    r->sink.cut = r->maker.kind == KIND_COMPLETION;
    if (r->maker.template) {
        const char *date = chat_template_date(r->maker.template);
        dataset_report *p = r->sink.report;
        snprintf(p->template_name, sizeof p->template_name, "%s",
                 chat_template_name(r->maker.template));
        snprintf(p->template_date, sizeof p->template_date, "%s", date ? date : "");
    }
    for (size_t f = 0; f < r->files.count && r->row < r->selection.end; f++)
        TRY(read_file(r, r->files.items[f]));
    return STATUS_OK;
}

status source_read(const dataset_source *source, const dataset_options *options, row_set *out,
                   dataset_report *report) {
    source_reader r = {.sink = {.out = out, .report = report}};
    status s = read_all(&r, source, options);
    reader_close(&r);
    return s;
}

/* ---- identity ---- */

static void take(hash_stream *h, const char *key, const char *value) {
    hash_update(h, key, strlen(key) + 1);
    hash_update(h, value ? value : "\xff", value ? strlen(value) + 1 : 1);
}

static void take_number(hash_stream *h, const char *key, int64_t value) {
    hash_update(h, key, strlen(key) + 1);
    hash_update(h, &value, sizeof value);
}

static void take_chat(hash_stream *h, const chat_fields *c) {
    take(h, "messages", c->messages);
    take(h, "role", c->role);
    take(h, "content", c->content);
    take(h, "thinking", c->thinking);
    take(h, "system", c->system);
    take(h, "tools", c->tools);
    take(h, "training", c->training);
    for (size_t r = 0; r < c->role_count; r++) {
        take(h, "role_name", c->roles[r].role);
        for (size_t i = 0; i < c->roles[r].count; i++) take(h, "means", c->roles[r].names[i]);
    }
    for (size_t i = 0; i < c->train_count; i++) take(h, "train", c->roles_to_train[i]);
    take_number(h, "drop_system_message", c->drop_system_message);
}

static void take_prompt(hash_stream *h, const prompt_format *p) {
    take(h, "field_instruction", p->field_instruction);
    take(h, "field_input", p->field_input);
    take(h, "field_output", p->field_output);
    take(h, "field_system", p->field_system);
    take(h, "format", p->format);
    take(h, "no_input_format", p->no_input_format);
    take(h, "system_format", p->system_format);
    take(h, "system_prompt", p->system_prompt);
    take(h, "system_no_input", p->system_no_input);
}

status source_identify(const dataset_source *s, const dataset_options *o, hash_stream *h) {
    row_maker m;
    TRY(maker_open(&m, s,
                   o)); /* the template's name stands for its rules, and its date counts */
    take(h, "template", m.template ? chat_template_name(m.template) : NULL);
    take(h, "date", m.template ? chat_template_date(m.template) : NULL);
    take_number(h, "ends", m.chat.ends);
    maker_close(&m);
    take(h, "type", s->type);
    take_number(h, "custom_prompt", s->custom_prompt);
    take_prompt(h, &s->prompt);
    take(h, "split", s->split);
    take(h, "ds_type", s->ds_type);
    take(h, "field", s->field);
    take_chat(h, &s->chat);
    take_number(h, "shards", s->shards);
    take_number(h, "shard", s->shard);
    file_names files = {0};
    status e = files_find(&files, s->path, s->name, s->files, s->file_count, s->split);
    for (size_t f = 0; e == STATUS_OK && f < files.count; f++) {
        const char *dot = strrchr(files.items[f], '.');
        take(h, "ending", dot ? dot : "");
        e = files_hash(files.items[f], h);
    }
    files_free(&files);
    return e;
}
