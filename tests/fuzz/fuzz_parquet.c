/* fuzz_parquet.c: one byte for what is done, then a data file: Parquet, gzip, zstd or CSV, as
 * its bytes say. Rows that come out are JSON within the limits, their numbers rise, as many
 * are counted as are read, and what is skipped is what reading passes. */
#include "data/records.h"
#include "fuzz.h"

enum { MOST = 400 }; /* rows read; a file may claim billions */

static const char *const names[] = {"a.parquet", "a.csv", "a.tsv", "a.jsonl", "a.txt"};

static status read_rows(const char *path, int64_t skip, int64_t *rows) {
    record_reader *r;
    data_record row;
    int64_t passed = 0;
    *rows = 0;
    TRY(records_open(&r, path, RECORD_AUTO));
    status s = skip ? records_skip(r, skip, &passed) : STATUS_OK;
    while (s == STATUS_OK && *rows < MOST) {
        s = records_next(r, &row);
        if (s != STATUS_OK || !row.text) break;
        fuzz_require(row.index == passed + *rows && row.line >= 1 && row.column >= 1);
        ++*rows;
        json_t *value;
        if (!records_are_text(r) &&
            fuzz_succeeds(record_parse(path, &row, &value), MAY_FAIL(STATUS_DATA)))
            json_decref(value);
    }
    records_close(r);
    return s;
}

static void count_rows(const char *path, int64_t rows, bool whole) {
    record_reader *r;
    int64_t count;
    if (records_open(&r, path, RECORD_AUTO) != STATUS_OK) return;
    if (fuzz_succeeds(records_count(r, &count), MAY_FAIL(STATUS_DATA)))
        fuzz_require(!whole || count == rows || rows == MOST);
    records_close(r);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    fuzz_setup();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    fuzz_blocks before = fuzz_begin();
    const char *path =
        fuzz_write(names[data[0] % (sizeof names / sizeof *names)], data + 1, size - 1);
    char *kept = mem_strdup(path);
    int64_t rows, behind, skip = data[0] / 8;
    bool whole = fuzz_succeeds(read_rows(kept, 0, &rows), MAY_FAIL(STATUS_DATA));
    if (rows < MOST) count_rows(kept, rows, whole);
    bool also = fuzz_succeeds(read_rows(kept, skip, &behind), MAY_FAIL(STATUS_DATA));
    if (whole && also && rows < MOST) fuzz_require(behind == (rows > skip ? rows - skip : 0));
    mem_free(kept);
    fuzz_end(before);
    return 0;
}
