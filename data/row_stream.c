/* row_stream.c: see row_stream.h. */
#include "data/row_stream.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/file.h"
#include "common/log.h"
#include "data/files.h"
#include "data/records.h"
#include "data/row_batch.h"
#include "data/row_maker.h"
#include "data/selection.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

struct row_stream {
    const dataset_options *options;
    row_maker maker;
    file_names files;
    record_format format;
    row_selection selection;
    row_batch batch;
    record_reader *file; /* NULL: between files */
    size_t next_file;
    int64_t row;  /* number over all files of the next row */
    int64_t from; /* no row before is wanted: where a seek led to */
    atomic_bool stopped;
};

/* ---- which rows ---- */

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

static status select_rows(row_stream *s, const dataset_source *source) {
    row_selection *out = &s->selection;
    *out =
        (row_selection){.rows = INT64_MAX, .shards = source->shards, .shard = source->shard};
    TRY(split_parse(&out->split, source->split));
    if (split_needs_count(&out->split)) TRY(count_rows(&s->files, s->format, &out->rows));
    selection_finish(out);
    return STATUS_OK;
}

/* ---- one file ---- */

static const char *path_of(const row_stream *s) {
    return s->files.items[s->next_file - 1];
}

static status open_file(row_stream *s, dataset_report *report) {
    s->next_file++;
    TRY(records_open(&s->file, path_of(s), s->format));
    s->maker.text_rows = records_are_text(s->file);
    report->files++;
    if (!s->maker.text_rows || s->maker.kind == KIND_COMPLETION) return STATUS_OK;
    return status_fail(
        STATUS_DATA, "%s: plain text can only be learned with `type: completion`", path_of(s));
}

static void close_file(row_stream *s) {
    records_close(s->file);
    s->file = NULL;
}

/* To the next row that is wanted; *there is false when the file ends before it. */
static status pass_unwanted(row_stream *s, bool *there) {
    int64_t next = selection_next(&s->selection, max_i64(s->row, s->from)), passed = 0;
    *there = next < s->selection.end;
    if (!*there) s->row = next;
    if (!*there || next == s->row) return STATUS_OK;
    TRY(records_skip(s->file, next - s->row, &passed));
    s->row += passed;
    *there = s->row == next;
    return STATUS_OK;
}

/* Rows into the batch until it is full, or the file ends. */
static status fill_batch(row_stream *s, bool *ended) {
    data_record row;
    *ended = false;
    while (!row_batch_is_full(&s->batch)) {
        bool there;
        TRY(pass_unwanted(s, &there));
        if (there) TRY(records_next(s->file, &row));
        *ended = !there || !row.text;
        if (*ended) break;
        int times = selection_times(&s->selection, s->row++);
        for (; times > 0; times--) TRY(row_batch_give(&s->batch, &row));
    }
    return STATUS_OK;
}

/* A batch of the present file. */
static status read_batch(row_stream *s, bool quiet, row_set *out, dataset_report *report) {
    bool ended;
    TRY(fill_batch(s, &ended));
    TRY(row_batch_finish(&s->batch, path_of(s), out, report));
    if (ended) close_file(s);
    if (quiet || ended) return STATUS_OK;
    log_progress("%s: %lld rows", path_of(s), (long long)report->read);
    return s->options->go_on ? s->options->go_on() : STATUS_OK;
}

/* ---- the stream ---- */

static void report_template(const row_maker *m, dataset_report *report) {
    if (!report->template_name[0]) report->template_end = -1;
    if (!m->template) return;
    const char *date = chat_template_date(m->template);
    snprintf(report->template_name, sizeof report->template_name, "%s",
             chat_template_name(m->template));
    snprintf(report->template_date, sizeof report->template_date, "%s", date ? date : "");
    report->template_end = chat_template_end(m->template);
}

status row_stream_read(row_stream *s, int64_t want, bool quiet, row_set *out,
                       dataset_report *report, bool *ended) {
    int64_t before = out->count;
    report_template(&s->maker, report);
    *ended = false;
    while (out->count - before < want) {
        bool more = s->next_file < s->files.count && s->row < s->selection.end;
        *ended = !s->file && !more;
        if (*ended) break;
        if (atomic_load(&s->stopped))
            return status_fail(STATUS_INTERRUPTED, "reading was stopped");
        if (!s->file) TRY(open_file(s, report));
        TRY(read_batch(s, quiet, out, report));
    }
    return STATUS_OK;
}

void row_stream_stop(row_stream *s) {
    atomic_store(&s->stopped, true);
}

int64_t row_stream_row(const row_stream *s) {
    return max_i64(s->row, s->from);
}

void row_stream_seek(row_stream *s, int64_t row) {
    close_file(s);
    s->next_file = 0;
    s->row = 0;
    s->from = row;
}

status row_stream_bytes(const row_stream *s, int64_t *bytes) {
    *bytes = 0;
    for (size_t i = 0; i < s->files.count; i++) {
        file f;
        TRY(file_open(&f, s->files.items[i]));
        *bytes += f.size;
        file_close(&f);
    }
    return STATUS_OK;
}

static status open_parts(row_stream *s, const dataset_source *source) {
    TRY(row_maker_open(&s->maker, source, s->options));
    TRY(source_format(source_format_name(source), &s->format));
    TRY(files_find(&s->files, source->path, source->name, source->files, source->file_count,
                   source->split));
    TRY(select_rows(s, source));
    return row_batch_open(&s->batch, &s->maker);
}

status row_stream_open(row_stream **out, const dataset_source *source,
                       const dataset_options *options) {
    *out = NULL;
    row_stream *s = mem_alloc(sizeof *s, "a dataset");
    if (!s) return STATUS_MEMORY;
    s->options = options;
    status e = open_parts(s, source);
    if (e != STATUS_OK)
        row_stream_close(s);
    else
        *out = s;
    return e;
}

void row_stream_close(row_stream *s) {
    if (!s) return;
    close_file(s);
    row_batch_close(&s->batch);
    files_free(&s->files);
    row_maker_close(&s->maker);
    mem_free(s);
}
