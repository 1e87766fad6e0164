/* source.c: see source.h. Rows go in batches: read one after the other, made into tokens in
 * parallel (each thread with an encoder of its own), appended in order. */
#include "data/source.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/log.h"
#include "data/files.h"
#include "data/records.h"
#include "data/row_maker.h"
#include "data/selection.h"

#include <stdio.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

enum {
    BATCH_ROWS = 512,
    BATCH_BYTES = 8 << 20,
};

typedef struct job {  /* a row on its way */
    size_t at, bytes; /* its text in the batch */
    data_record place;
    id_list ids, labels;
    status result;
    char *message; /* of a failure */
} job;

typedef struct batch {
    text_buffer text;
    job *jobs; /* [BATCH_ROWS] */
    int count;
} batch;

/* ---- batches ---- */

static void swap_lists(id_list *a, id_list *b) {
    id_list swap = *a;
    *a = *b;
    *b = swap;
}

static void run_job(const row_maker *m, const char *path, const char *text, job *j,
                    row_encoder *e) {
    data_record r = j->place;
    r.text = text + j->at;
    r.bytes = j->bytes;
    j->result = row_maker_make(m, path, &r, e);
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

static void run_jobs(const row_maker *m, const char *path, batch *b, row_encoder *encoders) {
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

static status finish_batch(const row_maker *m, const char *path, batch *b,
                           row_encoder *encoders, sink *k) {
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

static status count_rows(const file_names *files, record_format format, int64_t *out) {
    *out = 0;
    for (size_t f = 0; f < files->count; f++) {
        record_reader *r;
        int64_t rows;
        TRY(records_open(&r, files->items[f], format));
        status s = records_count(r, &rows);
        records_close(r);
        TRY(s);
        *out += rows;
    }
    return STATUS_OK;
}

static status select_rows(const dataset_source *source, const file_names *files,
                          record_format format, row_selection *out) {
    *out =
        (row_selection){.rows = INT64_MAX, .shards = source->shards, .shard = source->shard};
    TRY(split_parse(&out->split, source->split));
    if (split_needs_count(&out->split)) TRY(count_rows(files, format, &out->rows));
    selection_finish(out);
    return STATUS_OK;
}

static status give_row(batch *b, const data_record *row) {
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
    row_selection selection;
    batch batch;
    row_encoder *encoders;
    int encoder_count;
    sink sink;
    int64_t row; /* number over all files */
} source_reader;

/* To the next row that is wanted; *there is false when the file ends before it. */
static status pass_unwanted(source_reader *r, record_reader *file, bool *there) {
    int64_t next = selection_next(&r->selection, r->row), passed = 0;
    *there = next < r->selection.end;
    if (!*there) r->row = next;
    if (!*there || next == r->row) return STATUS_OK;
    TRY(records_skip(file, next - r->row, &passed));
    r->row += passed;
    *there = r->row == next;
    return STATUS_OK;
}

static status read_rows(source_reader *r, record_reader *file, const char *path) {
    data_record row;
    for (;; r->row++) {
        bool there;
        TRY(pass_unwanted(r, file, &there));
        if (there) TRY(records_next(file, &row));
        if (!there || !row.text) break;
        for (int times = selection_times(&r->selection, r->row); times > 0; times--) {
            if (r->batch.count == BATCH_ROWS || r->batch.text.bytes > BATCH_BYTES) {
                TRY(finish_batch(&r->maker, path, &r->batch, r->encoders, &r->sink));
                if (r->sink.options->go_on) TRY(r->sink.options->go_on());
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

/* `path: json` names a format as ds_type does. */
static const char *format_name(const dataset_source *source) {
    bool named = !source->ds_type && files_is_format(source->path);
    return named ? source->path : source->ds_type;
}

static status reader_open(source_reader *r, const dataset_source *source,
                          const dataset_options *o) {
    TRY(row_maker_open(&r->maker, source, o));
    TRY(source_format(format_name(source), &r->format));
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
    for (int i = 0; r->encoders && i < r->encoder_count; i++)
        row_encoder_free(&r->encoders[i]);
    for (int i = 0; r->batch.jobs && i < BATCH_ROWS; i++) {
        mem_free(r->batch.jobs[i].ids.items);
        mem_free(r->batch.jobs[i].labels.items);
    }
    mem_free(r->encoders);
    mem_free(r->batch.jobs);
    mem_free(r->batch.text.data);
    files_free(&r->files);
    row_maker_close(&r->maker);
}

static status read_all(source_reader *r, const dataset_source *source,
                       const dataset_options *o) {
    TRY(reader_open(r, source, o));
    r->sink.options = o;
    r->sink.cut = r->maker.kind == KIND_COMPLETION;
    if (!r->sink.report->template_name[0]) r->sink.report->template_end = -1;
    if (r->maker.template) {
        const char *date = chat_template_date(r->maker.template);
        dataset_report *p = r->sink.report;
        snprintf(p->template_name, sizeof p->template_name, "%s",
                 chat_template_name(r->maker.template));
        snprintf(p->template_date, sizeof p->template_date, "%s", date ? date : "");
        p->template_end = chat_template_end(r->maker.template);
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
    take(h, "detail", c->detail);
    take(h, "thinking_name", c->thinking_name);
    for (size_t i = 0; i < c->property_count; i++) {
        take(h, "property", c->properties[i].name);
        take(h, "key", c->properties[i].key);
    }
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

/* A file's name from its first dot on: what says its format, as in rows.csv.gz. */
static const char *endings_of(const char *path) {
    const char *slash = strrchr(path, '/'), *dot = strchr(slash ? slash : path, '.');
    return dot ? dot : "";
}

status source_identify(const dataset_source *s, const dataset_options *o, hash_stream *h) {
    row_maker m;
    TRY(row_maker_open(&m, s, o));
    status t = m.template ? chat_template_identify(m.template, h) : STATUS_OK;
    take(h, "date", m.template ? chat_template_date(m.template) : NULL);
    take_number(h, "ends", m.chat.ends);
    row_maker_close(&m);
    TRY(t);
    take(h, "type", s->type);
    take_number(h, "custom_prompt", s->custom_prompt);
    take_prompt(h, &s->prompt);
    take(h, "split", s->split);
    take(h, "ds_type", format_name(s));
    take(h, "field", s->field);
    take_chat(h, &s->chat);
    take_number(h, "shards", s->shards);
    take_number(h, "shard", s->shard);
    file_names files = {0};
    status e = files_find(&files, s->path, s->name, s->files, s->file_count, s->split);
    for (size_t f = 0; e == STATUS_OK && f < files.count; f++) {
        take(h, "endings", endings_of(files.items[f]));
        e = files_hash(files.items[f], h);
    }
    files_free(&files);
    return e;
}
