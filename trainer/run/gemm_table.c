/* gemm_table.c: see gemm_table.h. */
#include "trainer/run/gemm_table.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/log.h"
#include "trainer/run/loop.h"
#include "trainer/run/output.h"
#include "trainer/run/signals.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { TABLE_LIMIT = 64 << 20 };

/* ---- using one ---- */

static status take_table(session *s, const char *path) {
    char *text;
    size_t bytes;
    json_t *table;
    bool fits = false;
    TRY(file_read_all(path, TABLE_LIMIT, &text, &bytes));
    status e = json_read_text(text, bytes, path, STATUS_MODEL, &table);
    hash128 sum = hash_bytes(text, bytes);
    mem_free(text);
    TRY(e);
    e = s->b->table->use_table(s->b, table, &fits);
    json_decref(table);
    if (e != STATUS_OK)
        return status_prefix(e, "%s (remove it; `train plan --measure` makes another)", path);
    if (fits)
        snprintf(s->gemm_table, sizeof s->gemm_table, "%016" PRIx64, sum.high);
    else
        log_warn("%s was measured on another card or with another cuBLASLt and is not used",
                 path);
    return STATUS_OK;
}

status gemm_table_use(session *s) {
    snprintf(s->gemm_table, sizeof s->gemm_table, "none");
    if (!s->request.train || !s->b->table->use_table) return STATUS_OK;
    char *path = file_join(s->c->output_dir, GEMM_TABLE_NAME);
    if (!path) return STATUS_MEMORY;
    status e = file_exists(path) ? take_table(s, path) : STATUS_OK;
    mem_free(path);
    return e;
}

/* ---- measuring ---- */

static status go_on(int64_t done, int64_t total) {
    log_progress("measuring products: %lld of %lld", (long long)done, (long long)total);
    return signals_check("measuring products");
}

/* Every size of micro-batch that the run will have. */
static status prepare_buckets(run *r) {
    session *s = &r->s;
    int train = s->index[PROGRAM_TRAIN], evaluate = s->index[PROGRAM_EVALUATE];
    for (int64_t rows = LOADER_BUCKET; rows <= s->request.train_capacity;
         rows += LOADER_BUCKET)
        if (feed_has_bucket(r->feed, rows)) TRY(engine_prepare(s->b, s->plan, train, rows));
    return evaluate < 0
               ? STATUS_OK
               : engine_prepare(s->b, s->plan, evaluate, s->request.evaluate_capacity);
}

static void count(const json_t *table, gemm_table_report *report) {
    const json_t *products = json_object_get(table, "products");
    report->shapes = json_integer_value(json_object_get(table, "measured"));
    report->faster = (int64_t)json_array_size(products);
    report->best = 1;
    for (size_t i = 0; i < json_array_size(products); i++) {
        const json_t *p = json_array_get(products, i);
        double now = json_real_value(json_object_get(p, "seconds"));
        double first = json_real_value(json_object_get(p, "first_choice_seconds"));
        if (first > 0 && now / first < report->best) report->best = now / first;
    }
}

static status write_table(const json_t *table, const char *folder, gemm_table_report *report) {
    count(table, report);
    snprintf(report->path, sizeof report->path, "%s/%s", folder, GEMM_TABLE_NAME);
    char *text = json_write_text(table, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    if (!text) return status_fail(STATUS_MEMORY, "out of memory for the table of products");
    status s = file_write_all(report->path, text, strlen(text));
    mem_free(text);
    return s;
}

static status measure_into(run *r, const char *folder, gemm_table_report *report) {
    json_t *table;
    TRY(prepare_buckets(r));
    TRY(r->s.b->table->tune(r->s.b, go_on, &table));
    status s = write_table(table, folder, report);
    json_decref(table);
    return s;
}

status gemm_table_measure(run *r, gemm_table_report *report) {
    const char *folder = r->c->output_dir;
    output_lock lock = {0};
    output_kind kind;
    *report = (gemm_table_report){0};
    if (!r->s.b->table->tune)
        return status_fail(STATUS_USAGE,
                           "--measure is for a card: products on %s have one algorithm",
                           r->s.b->table->name);
    TRY(output_take(&lock, folder, &kind));
    status s = kind == OUTPUT_FRESH
                   ? measure_into(r, folder, report)
                   : status_fail(STATUS_USAGE,
                                 "a run began in %s and keeps the products that it began "
                                 "with: measure for another folder (output_dir=...)",
                                 folder);
    output_lock_release(&lock);
    return s;
}
