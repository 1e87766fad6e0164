/* row_batch.c: see row_batch.h. */
#include "data/row_batch.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "data/split.h"

#include <stdio.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

enum {
    BATCH_ROWS = 512,
    BATCH_BYTES = 8 << 20,
    JOBS = BATCH_ROWS + SPLIT_PARTS, /* overlapping slices give a row more than once */
};

struct row_job {      /* a row on its way */
    size_t at, bytes; /* its text in the batch */
    data_record place;
    id_list ids, labels;
    status result;
    char *message; /* of a failure */
};

/* ---- batches ---- */

static void swap_lists(id_list *a, id_list *b) {
    id_list swap = *a;
    *a = *b;
    *b = swap;
}

static void run_job(const row_maker *m, const char *path, const char *text, row_job *j,
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

static void run_jobs(row_batch *b, const char *path) {
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 8) num_threads(b->encoder_count) if (b->count > 16)
#endif
    for (int i = 0; i < b->count; i++)
        run_job(b->maker, path, b->text.data, &b->jobs[i], &b->encoders[thread_number()]);
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

static status take_row(sink *k, const row_job *j) {
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

static status take_job(sink *k, const char *path, row_job *j) {
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

status row_batch_finish(row_batch *b, const char *path, row_set *out, dataset_report *report) {
    sink k = {.options = b->maker->options,
              .cut = b->maker->kind == KIND_COMPLETION,
              .out = out,
              .report = report};
    run_jobs(b, path);
    status s = STATUS_OK;
    for (int i = 0; i < b->count; i++) {
        if (s == STATUS_OK) s = take_job(&k, path, &b->jobs[i]);
        mem_free(b->jobs[i].message);
        b->jobs[i].message = NULL;
    }
    b->count = 0;
    b->text.bytes = 0;
    return s;
}

/* ---- filling ---- */

status row_batch_open(row_batch *b, const row_maker *maker) {
    b->maker = maker;
    b->encoder_count = thread_count();
    b->encoders = mem_alloc_array((size_t)b->encoder_count, sizeof *b->encoders, "encoders");
    b->jobs = mem_alloc_array(JOBS, sizeof *b->jobs, "a batch of rows");
    if (!b->encoders || !b->jobs) return STATUS_MEMORY;
    for (int i = 0; i < b->encoder_count; i++) b->encoders[i].spans.names = maker->names;
    return STATUS_OK;
}

void row_batch_close(row_batch *b) {
    for (int i = 0; b->encoders && i < b->encoder_count; i++)
        row_encoder_free(&b->encoders[i]);
    for (int i = 0; b->jobs && i < JOBS; i++) {
        mem_free(b->jobs[i].ids.items);
        mem_free(b->jobs[i].labels.items);
    }
    mem_free(b->encoders);
    mem_free(b->jobs);
    mem_free(b->text.data);
}

bool row_batch_is_full(const row_batch *b) {
    return b->count >= BATCH_ROWS || b->text.bytes > BATCH_BYTES;
}

status row_batch_give(row_batch *b, const data_record *row) {
    row_job *j = &b->jobs[b->count];
    j->at = b->text.bytes;
    j->bytes = row->bytes;
    j->place = *row;
    TRY(text_append(&b->text, row->text, row->bytes));
    b->count++;
    return STATUS_OK;
}
