/* records.c: what a file is, and what is the same for all formats. */
#include "data/records.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/file.h"
#include "data/parquet/parquet.h"
#include "data/record_kinds.h"
#include "data/unicode.h"

#include <string.h>
#include <strings.h>

/* ---- messages ---- */

void record_quote(const char *text, size_t bytes, size_t at, char out[RECORD_QUOTE]) {
    size_t from = at > 30 ? at - 30 : 0, to = at + 30 < bytes ? at + 30 : bytes, n = 0;
    while (from > 0 && from < bytes && ((unsigned char)text[from] & 0xc0) == 0x80) from--;
    for (; from < to; from++) {
        unsigned char c = (unsigned char)text[from];
        out[n++] = c < ' ' || c == 0x7f ? ' ' : (char)c;
    }
    out[n] = 0;
    for (size_t bad; (bad = utf8_valid(out, n)) < n;) out[bad] = '?';
}

/* ---- what a file is ---- */

static const struct {
    const char *magic, *what;
} not_read[] = {
    {"version https://git-lfs",
     "is a Git-LFS pointer, not the data itself: run `git lfs pull` "
     "in its folder, or download it again"},
    {"PK\x03\x04", "is a zip archive: unpack it first"},
    {"BZh", "is packed by bzip2: run bunzip2 on it first"},
    {"\xfd\x37zXZ", "is packed by xz: run unxz on it first"},
    {"\x04\x22\x4d\x18", "is packed by lz4: run unlz4 on it first"},
    {"\x1f\x8b", "is packed twice: run gunzip on it first"},
    {"\x28\xb5\x2f\xfd", "is packed twice: run unzstd on it first"},
    {"PAR1", "is a Parquet file inside of another packing: unpack it first"},
    {"ARROW1", "is an Arrow file: convert it to Parquet or JSON lines first"},
    {"\xff\xff\xff\xff", "is an Arrow stream: convert it to Parquet or JSON lines first"},
    {"\xff\xfe", "is UTF-16: convert it with iconv -f UTF-16 -t UTF-8"},
    {"\xfe\xff", "is UTF-16: convert it with iconv -f UTF-16 -t UTF-8"},
};

static status check_magic(const text_window *w) {
    for (size_t i = 0; i < sizeof not_read / sizeof *not_read; i++) {
        size_t n = strlen(not_read[i].magic);
        if (w->end >= n && !memcmp(w->data, not_read[i].magic, n))
            return status_fail(STATUS_DATA, "%s: %s", byte_stream_path(w->stream),
                               not_read[i].what);
    }
    return STATUS_OK;
}

/* Whether the first `n` bytes of a path end so. */
static bool ends_with(const char *path, size_t n, const char *ending) {
    size_t m = strlen(ending);
    return n >= m && !strncasecmp(path + n - m, ending, m);
}

/* A path's bytes without the ending of a packing. */
static size_t bare_length(const char *path) {
    static const char *const endings[] = {".gz", ".zst", ".zstd"};
    size_t n = strlen(path);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (ends_with(path, n, endings[i])) return n - strlen(endings[i]);
    return n;
}

static record_format format_of(const char *path, size_t n) {
    static const struct {
        const char *ending;
        record_format format;
    } endings[] = {{".txt", RECORD_LINES},
                   {".text", RECORD_LINES},
                   {".csv", RECORD_CSV},
                   {".tsv", RECORD_CSV},
                   {".parquet", RECORD_PARQUET}};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (ends_with(path, n, endings[i].ending)) return endings[i].format;
    return RECORD_JSON;
}

/* ---- opening ---- */

/* The first bytes are there, and they are text. */
static status begin_text(text_window *w) {
    bool more;
    TRY(text_window_refill(w, &more));
    TRY(check_magic(w));
    if (w->end >= 3 && !memcmp(w->data, "\xef\xbb\xbf", 3)) w->at = 3; /* byte order mark */
    return STATUS_OK;
}

static status open_text(record_reader **out, file *f, record_format format) {
    size_t n = bare_length(f->path);
    if (format == RECORD_AUTO) format = format_of(f->path, n);
    char separator = ends_with(f->path, n, ".tsv") ? '\t' : ',';
    text_window w;
    TRY(text_window_open(&w, f));
    status s = begin_text(&w);
    if (s == STATUS_OK && format == RECORD_PARQUET)
        s = status_fail(STATUS_DATA, "%s: is no Parquet file, though it is called one",
                        byte_stream_path(w.stream));
    if (s != STATUS_OK) {
        text_window_close(&w);
        return s;
    }
    return format == RECORD_CSV ? record_csv_open(out, &w, separator)
                                : record_text_open(out, &w, format);
}

/* Whether it begins as a Parquet file. */
static status sniff(const file *f, bool *parquet) {
    char head[4] = "";
    TRY(file_read_at(f, head, (size_t)min_i64(f->size, sizeof head), 0));
    *parquet = !memcmp(head, "PAR1", 4) || !memcmp(head, "PARE", 4);
    return STATUS_OK;
}

static status open_file(record_reader **out, file *f, record_format format) {
    bool parquet;
    status s = sniff(f, &parquet);
    if (s == STATUS_OK)
        return parquet ? record_parquet_open(out, f) : open_text(out, f, format);
    file_close(f);
    return s;
}

static status missing(status s) {
    return s == STATUS_IO ? STATUS_DATA : s;
}

status records_open(record_reader **out, const char *path, record_format format) {
    *out = NULL;
    file f;
    TRY(missing(file_open(&f, path)));
    return missing(open_file(out, &f, format));
}

void records_close(record_reader *r) {
    if (r) r->kind->close(r);
}

bool records_are_text(const record_reader *r) {
    return r->kind->text;
}

/* ---- rows ---- */

status records_next(record_reader *r, data_record *out) {
    *out = (data_record){0};
    if (r->finished) return STATUS_OK;
    status s = r->kind->next(r, out);
    if (s != STATUS_OK || !out->text) r->finished = true;
    return s;
}

status records_skip(record_reader *r, int64_t rows, int64_t *passed) {
    data_record row;
    *passed = 0;
    if (r->kind->skip) return r->finished ? STATUS_OK : r->kind->skip(r, rows, passed);
    for (; *passed < rows; ++*passed) {
        TRY(records_next(r, &row));
        if (!row.text) break;
    }
    return STATUS_OK;
}

status records_count(record_reader *r, int64_t *rows) {
    data_record row;
    *rows = 0;
    if (r->kind->count) return r->kind->count(r, rows);
    for (;; ++*rows) {
        TRY(records_next(r, &row));
        if (!row.text) return STATUS_OK;
    }
}

static status parse_failed(const char *path, const data_record *row, const json_error_t *e) {
    char quote[RECORD_QUOTE];
    record_quote(row->text, row->bytes, (size_t)max_i64(e->position, 0), quote);
    int64_t column = e->line <= 1 ? row->column + max_i64(e->column, 1) - 1 : e->column;
    bool object = row->line == 1 && row->column == 1 && row->bytes < 3;
    return status_fail(
        STATUS_DATA, "%s:%lld:%lld: %s, at `%s`%s", path,
        (long long)(row->line + max_i64(e->line, 1) - 1), (long long)column, e->text, quote,
        object ? " (a data file is an array of objects, or one object a line)" : "");
}

status record_parse(const char *path, const data_record *row, json_t **out) {
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY;
    json_error_t e;
    *out = NULL;
    if (row->fault)
        return status_fail(STATUS_DATA, "%s:%lld:%lld: %s", path, (long long)row->line,
                           (long long)row->column, row->fault);
    TRY(json_parse(row->text, row->bytes, flags, &e, out));
    /* an integer beyond 64 bits (a hash, as a rule): then all of the row are read as reals */
    if (!*out && json_error_code(&e) == json_error_numeric_overflow)
        TRY(json_parse(row->text, row->bytes, flags | JSON_DECODE_INT_AS_REAL, &e, out));
    return *out ? STATUS_OK : parse_failed(path, row, &e);
}
