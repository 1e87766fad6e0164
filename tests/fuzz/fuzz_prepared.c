/* fuzz_prepared.c: one byte of options, then a file of prepared rows. Bit 0 makes its checksum
 * right again, so that only what the reader checks stands before the program. Rows that are
 * accepted lie inside their arrays. */
#include "data/prepared.h"
#include "fuzz.h"

enum { REPAIR = 1, HASH_AT = 16, HASHED_FROM = 32 }; /* places in the file: prepared.c */
static const hash128 key = {1, 2};

static const char *name(void) {
    return "rows/00000000000000020000000000000001.rows";
}

/* Three rows as they are written, as seeds into the first folder of the command line. */
static void write_seeds(int argc, char **argv) {
    static const int32_t ids[] = {1, 2, 3, 4, 5, 6};
    row_set rows = {0};
    dataset_report report = {.files = 1, .read = 3, .kept = 3};
    for (int64_t n = 1; n <= 3; n++)
        fuzz_require(row_set_append(&rows, ids, NULL, n) == STATUS_OK);
    fuzz_require(prepared_write(fuzz_path("rows"), key, &rows, &report) == STATUS_OK);
    row_set_free(&rows);
    for (int i = argc - 1; i > 0; i--) {
        if (!file_is_directory(argv[i])) continue;
        char *text, path[600], byte = REPAIR;
        size_t bytes;
        fuzz_require(file_read_all(fuzz_path(name()), 1 << 20, &text, &bytes) == STATUS_OK);
        snprintf(path, sizeof path, "%s/rows", argv[i]);
        FILE *f = fopen(path, "wb");
        fuzz_require(f && fwrite(&byte, 1, 1, f) == 1 && fwrite(text, 1, bytes, f) == bytes &&
                     !fclose(f));
        mem_free(text);
    }
}

static void check(const row_set *rows, const dataset_report *report) {
    int64_t sum = 0;
    for (int64_t r = 0; r < rows->count; r++) {
        for (int64_t i = rows->offsets[r]; i < rows->offsets[r + 1]; i++)
            sum += rows->ids[i] >= 0 && rows->labels[i] != LABEL_IGNORED;
        fuzz_require(row_set_length(rows, r) >= 1 && row_set_targets(rows, r) >= 0);
    }
    fuzz_require(sum >= 0 && strlen(report->first_bad) < sizeof report->first_bad);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    fuzz_setup();
    write_seeds(*argc, *argv);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t file[1 << 20];
    if (size < 1 || size > sizeof file) return 0;
    fuzz_blocks before = fuzz_begin();
    size_t bytes = size - 1;
    memcpy(file, data + 1, bytes);
    if (data[0] & REPAIR && bytes > HASHED_FROM) {
        hash128 sum = hash_bytes(file + HASHED_FROM, bytes - HASHED_FROM);
        memcpy(file + HASH_AT, &sum.low, 8);
        memcpy(file + HASH_AT + 8, &sum.high, 8);
    }
    fuzz_write(name(), file, bytes);
    row_set rows = {0};
    dataset_report report;
    bool found;
    if (fuzz_succeeds(prepared_read(fuzz_path("rows"), key, &rows, &report, &found),
                      MAY_FAIL(STATUS_DATA))) {
        fuzz_require(found);
        check(&rows, &report);
        row_set_free(&rows);
    }
    fuzz_end(before);
    return 0;
}
