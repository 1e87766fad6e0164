/* rows.c: the rows of data files as this program reads them, for files.py.
 *
 *     interop_rows print FILE           a row a line
 *     interop_rows count FILE           how many there are
 *     interop_rows slice FILE FROM TO   the rows FROM to TO - 1, a row a line
 *     interop_rows dataset PATH SPLIT NAME [FILE ...]  the files' rows; NAME may be ""
 *     interop_rows time FILE            seconds: rows as text, then as jansson's objects too
 *
 * Exit status: the status; its message goes to standard error. */
#include "common/json.h"
#include "data/files.h"
#include "data/records.h"
#include "data/selection.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static status print(const char *path, record_reader *r, int64_t rows) {
    data_record row;
    for (; rows > 0; rows--) {
        json_t *value;
        TRY(records_next(r, &row));
        if (!row.text) break;
        TRY(record_parse(path, &row, &value));
        json_decref(value);
        fwrite(row.text, 1, row.bytes, stdout);
        putchar('\n');
    }
    return STATUS_OK;
}

static status count(record_reader *r) {
    int64_t rows;
    TRY(records_count(r, &rows));
    printf("%lld\n", (long long)rows);
    return STATUS_OK;
}

static status slice(const char *path, record_reader *r, int64_t from, int64_t to) {
    int64_t passed;
    TRY(records_skip(r, from, &passed));
    return print(path, r, to - from);
}

static status read_all(const char *path, bool parse, double *seconds) {
    record_reader *r;
    data_record row;
    double start = now();
    TRY(records_open(&r, path, RECORD_AUTO));
    status s;
    while ((s = records_next(r, &row)) == STATUS_OK && row.text) {
        json_t *value = NULL;
        if (parse) s = record_parse(path, &row, &value);
        if (s != STATUS_OK) break;
        json_decref(value);
    }
    records_close(r);
    *seconds = now() - start;
    return s;
}

static status measure(const char *path) {
    double text, objects;
    TRY(read_all(path, false, &text));
    TRY(read_all(path, true, &objects));
    printf("%.6f %.6f\n", text, objects);
    return STATUS_OK;
}

/* Slices are counted as source.c does. */
static status print_dataset(int argc, char **argv) {
    file_names files;
    row_selection wanted = {.rows = 0};
    TRY(split_parse(&wanted.split, argv[3]));
    status s = files_find(&files, argv[2], *argv[4] ? argv[4] : NULL,
                          (const char *const *)argv + 5, (size_t)argc - 5, argv[3]);
    for (int pass = 0; pass < 2 && s == STATUS_OK; pass++) {
        int64_t row = 0, rows;
        for (size_t i = 0; i < files.count && s == STATUS_OK; i++) {
            record_reader *r;
            if ((s = records_open(&r, files.items[i], RECORD_AUTO)) != STATUS_OK) break;
            s = records_count(r, &rows);
            records_close(r);
            for (int64_t k = 0; pass && k < rows && s == STATUS_OK; k++)
                if (selection_times(&wanted, row + k) &&
                    (s = records_open(&r, files.items[i], RECORD_AUTO)) == STATUS_OK) {
                    s = slice(files.items[i], r, k, k + 1);
                    records_close(r);
                }
            row += rows;
        }
        wanted.rows = row;
        selection_finish(&wanted);
    }
    files_free(&files);
    return s;
}

static status run(int argc, char **argv) {
    record_reader *r;
    if (!strcmp(argv[1], "time")) return measure(argv[2]);
    if (!strcmp(argv[1], "dataset") && argc > 4) return print_dataset(argc, argv);
    TRY(records_open(&r, argv[2], RECORD_AUTO));
    status s = STATUS_USAGE;
    if (!strcmp(argv[1], "print")) s = print(argv[2], r, INT64_MAX);
    if (!strcmp(argv[1], "count")) s = count(r);
    if (!strcmp(argv[1], "slice") && argc > 4)
        s = slice(argv[2], r, atoll(argv[3]), atoll(argv[4]));
    records_close(r);
    return s;
}

int main(int argc, char **argv) {
    json_setup();
    if (argc < 3) return STATUS_USAGE;
    status s = run(argc, argv);
    if (s != STATUS_OK) fprintf(stderr, "%s\n", status_message());
    return (int)s;
}
