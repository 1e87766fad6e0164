/* records.c: a window over the file that slides and grows, and three ways to find a row's end.
 *
 *     data [ ... done ... | at: row being read ... | end )     file beyond
 *
 * A finder looks for the end of the row in [at, end). When it is not there the window is slid
 * (or doubled, when the row fills it) and the finder starts again: doubling keeps that linear.
 */
#include "data/records.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/file.h"
#include "data/unicode.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

enum { CHUNK = 1 << 20 }; /* bytes read at once */

struct record_reader {
    file f;
    record_format format;
    bool array; /* inside [ ... ] */
    char *data;
    size_t capacity, at, end;
    int64_t offset; /* of data[end] in the file */
    int64_t index, line, column;
    bool finished;
};

/* ---- the window ---- */

/* More bytes after `end`; *more is false at the end of the file. */
static status refill(record_reader *r, bool *more) {
    *more = r->offset < r->f.size;
    if (!*more) return STATUS_OK;
    if (r->at > 0) {
        memmove(r->data, r->data + r->at, r->end - r->at);
        r->end -= r->at;
        r->at = 0;
    }
    if (r->end == r->capacity) {
        size_t wanted = r->capacity ? r->capacity * 2 : CHUNK;
        if (r->end >= RECORD_LIMIT)
            return status_fail(
                STATUS_DATA,
                "%s:%lld: a row of more than %d MiB: a line end or a bracket is "
                "missing, or the file is not what its name says",
                r->f.path, (long long)r->line, RECORD_LIMIT >> 20);
        char *data = mem_resize(r->data, wanted, "a data file");
        if (!data) return STATUS_MEMORY;
        r->data = data;
        r->capacity = wanted;
    }
    size_t n = (size_t)min_i64(r->f.size - r->offset, (int64_t)(r->capacity - r->end));
    TRY(file_read_at(&r->f, r->data + r->end, n, r->offset));
    r->offset += (int64_t)n;
    r->end += n;
    return STATUS_OK;
}

/* Moves past n bytes, counting lines and columns. */
static void advance(record_reader *r, size_t n) {
    for (size_t end = r->at + n; r->at < end; r->at++) {
        char c = r->data[r->at];
        if (c == '\n')
            r->line++, r->column = 1;
        else if (((unsigned char)c & 0xc0) != 0x80)
            r->column++;
    }
}

static bool is_line_end(char c) {
    return c == '\n' || c == '\r';
}
static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

enum { END = -1 };

/* The next byte that is no white space, not consumed; END after the last. */
static status next_visible(record_reader *r, int *out) {
    for (;;) {
        size_t n = 0;
        while (r->at + n < r->end && is_space(r->data[r->at + n])) n++;
        advance(r, n);
        *out = r->at < r->end ? (unsigned char)r->data[r->at] : END;
        if (r->at < r->end) return STATUS_OK;
        bool more;
        TRY(refill(r, &more));
        if (!more) return STATUS_OK;
    }
}

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

static status fail_here(const record_reader *r, const char *what) {
    char quote[RECORD_QUOTE];
    size_t n = r->end - r->at;
    record_quote(r->data + r->at, n < 40 ? n : 40, 0, quote);
    return status_fail(STATUS_DATA, "%s:%lld:%lld: %s, at `%s`", r->f.path, (long long)r->line,
                       (long long)r->column, what, quote);
}

static const struct {
    const char *magic, *what;
} not_text[] = {
    {"PAR1",
     "is a Parquet file, which is not read yet: convert it, for example with python3 -c "
     "\"import pandas; pandas.read_parquet('IN.parquet').to_json('OUT.jsonl', "
     "orient='records', lines=True, force_ascii=False)\""},
    {"version https://git-lfs",
     "is a Git-LFS pointer, not the data itself: run `git lfs pull` in "
     "its folder, or download it again"},
    {"\x1f\x8b", "is compressed: run gunzip on it first"},
    {"\x28\xb5\x2f\xfd", "is compressed: run unzstd on it first"},
    {"PK\x03\x04", "is a zip archive: unpack it first"},
    {"ARROW1", "is an Arrow file: convert it to JSON lines first"},
    {"\xff\xff\xff\xff", "is an Arrow stream: convert it to JSON lines first"},
    {"\xff\xfe", "is UTF-16: convert it with iconv -f UTF-16 -t UTF-8"},
    {"\xfe\xff", "is UTF-16: convert it with iconv -f UTF-16 -t UTF-8"},
};

static status check_magic(const record_reader *r) {
    for (size_t i = 0; i < sizeof not_text / sizeof *not_text; i++) {
        size_t n = strlen(not_text[i].magic);
        if (r->end >= n && !memcmp(r->data, not_text[i].magic, n))
            return status_fail(STATUS_DATA, "%s: %s", r->f.path, not_text[i].what);
    }
    return STATUS_OK;
}

/* ---- opening ---- */

static bool ends_with(const char *path, const char *ending) {
    size_t n = strlen(path), m = strlen(ending);
    return n >= m && !strcasecmp(path + n - m, ending);
}

static status begin(record_reader *r) {
    bool more;
    TRY(refill(r, &more));
    TRY(check_magic(r));
    if (ends_with(r->f.path, ".csv") || ends_with(r->f.path, ".tsv"))
        return status_fail(STATUS_DATA, "%s: CSV is not read yet: convert it to JSON lines",
                           r->f.path);
    if (r->end >= 3 && !memcmp(r->data, "\xef\xbb\xbf", 3)) r->at = 3; /* byte order mark */
    if (r->format == RECORD_AUTO)
        r->format = ends_with(r->f.path, ".txt") || ends_with(r->f.path, ".text")
                        ? RECORD_LINES
                        : RECORD_JSON;
    int c = r->at < r->end ? 0 : END;
    if (r->format == RECORD_JSON) TRY(next_visible(r, &c));
    if (r->format == RECORD_JSON && c == '[') {
        r->array = true;
        advance(r, 1);
    }
    if (c == END) return status_fail(STATUS_DATA, "%s: is empty", r->f.path);
    return STATUS_OK;
}

status records_open(record_reader **out, const char *path, record_format format) {
    *out = NULL;
    record_reader *r = mem_alloc(sizeof *r, "a data file");
    if (!r) return STATUS_MEMORY;
    r->f.fd = -1;
    r->format = format;
    r->line = r->column = 1;
    status s = file_open(&r->f, path);
    if (s == STATUS_IO) s = STATUS_DATA;
    if (s == STATUS_OK) s = begin(r);
    if (s != STATUS_OK)
        records_close(r);
    else
        *out = r;
    return s;
}

void records_close(record_reader *r) {
    if (!r) return;
    file_close(&r->f);
    mem_free(r->data);
    mem_free(r);
}

bool records_are_text(const record_reader *r) {
    return r->format != RECORD_JSON;
}

/* ---- finding the end of a row; each returns the row's bytes, or -1 when more are needed ----
 */

static int64_t line_end(const char *text, size_t n) {
    const char *p = memchr(text, '\n', n);
    return p ? p - text : -1;
}

/* The line end before an empty line. */
static int64_t paragraph_end(const char *text, size_t n) {
    for (const char *p = text; (p = memchr(p, '\n', n - (size_t)(p - text))); p++) {
        size_t next = (size_t)(p - text) + 1;
        while (next < n && (text[next] == ' ' || text[next] == '\t' || text[next] == '\r'))
            next++;
        if (next == n) return -1;
        if (text[next] == '\n') return p - text;
    }
    return -1;
}

/* The end of a JSON value: brackets balanced outside of strings, or a scalar up to , ] or
 * space. */
static int64_t value_end(const char *text, size_t n) {
    bool string = false;
    int64_t depth = 0;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                string = false;
        } else if (c == '"')
            string = true;
        else if (c == '{' || c == '[')
            depth++;
        else if (c == '}' || c == ']') {
            if (depth == 0) return (int64_t)i;
            if (--depth == 0) return (int64_t)i + 1;
        } else if (depth == 0 && (c == ',' || is_space(c)))
            return (int64_t)i;
    }
    return -1;
}

static int64_t row_end(const record_reader *r) {
    const char *text = r->data + r->at;
    size_t n = r->end - r->at;
    if (r->array) return value_end(text, n);
    if (r->format == RECORD_WHOLE) return -1;
    if (r->format == RECORD_PARAGRAPHS) return paragraph_end(text, n);
    return line_end(text, n);
}

/* Takes the row that starts at `at`. */
static status take(record_reader *r, data_record *out) {
    int64_t n;
    bool more = true;
    while ((n = row_end(r)) < 0 && more) TRY(refill(r, &more));
    if (n < 0 && r->array) {
        r->finished = true;
        return fail_here(r, "the file ends inside this row of the array");
    }
    if (n < 0) n = (int64_t)(r->end - r->at);
    *out = (data_record){r->data + r->at, (size_t)n, r->index++, r->line, r->column};
    advance(r, (size_t)n); /* leaves the bytes where they are until the next refill */
    return STATUS_OK;
}

static bool is_blank(const data_record *row) {
    for (size_t i = 0; i < row->bytes; i++)
        if (!is_space(row->text[i])) return false;
    return true;
}

/* Lines that hold nothing are no rows, and no part of the paragraph that follows. */
static status skip_empty_lines(record_reader *r) {
    for (;;) {
        size_t n = 0;
        while (r->at + n < r->end && is_line_end(r->data[r->at + n])) n++;
        advance(r, n);
        bool more = r->at == r->end;
        if (more) TRY(refill(r, &more));
        if (!more) return STATUS_OK;
    }
}

/* A row without the line ends behind it, and a paragraph without blank lines before it. */
static void trim_row(const record_reader *r, data_record *row) {
    while (row->bytes && is_line_end(row->text[row->bytes - 1])) row->bytes--;
    if (r->format != RECORD_PARAGRAPHS) return;
    for (size_t n = 0; n < row->bytes && is_space(row->text[n]); n++)
        if (row->text[n] == '\n') {
            row->text += n + 1, row->bytes -= n + 1;
            row->line++, row->column = 1;
            n = (size_t)-1;
        }
}

static status next_line(record_reader *r, data_record *out) {
    for (;;) {
        if (r->format != RECORD_WHOLE) TRY(skip_empty_lines(r));
        *out = (data_record){0};
        if (r->at == r->end) return STATUS_OK;
        TRY(take(r, out));
        if (r->format != RECORD_WHOLE) trim_row(r, out);
        if (!is_blank(out)) return STATUS_OK;
        r->index--;
    }
}

static status end_array(record_reader *r) {
    int c;
    r->finished = true;
    advance(r, 1);
    TRY(next_visible(r, &c));
    return c != END ? fail_here(r, "text after the end of the array") : STATUS_OK;
}

static status next_value(record_reader *r, data_record *out) {
    int c;
    TRY(next_visible(r, &c));
    if (r->index > 0 && c == ',') {
        advance(r, 1);
        TRY(next_visible(r, &c));
        if (c == ']') return fail_here(r, "a comma before the end of the array");
    } else if (r->index > 0 && c != ']' && c != END) {
        r->finished = true;
        return fail_here(r, "a comma or the end of the array is expected here");
    }
    *out = (data_record){0};
    if (c == ']') return end_array(r);
    if (c == END || c == ',' || c == '}') {
        r->finished = true;
        return fail_here(r, c == END ? "the array does not end" : "a row is expected here");
    }
    return take(r, out);
}

status records_next(record_reader *r, data_record *out) {
    *out = (data_record){0};
    if (r->finished) return STATUS_OK;
    status s = r->array ? next_value(r, out) : next_line(r, out);
    if (s != STATUS_OK) r->finished = true;
    return s;
}

status record_parse(const char *path, const data_record *row, json_t **out) {
    json_error_t e;
    TRY(json_parse(row->text, row->bytes,
                   JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &e, out));
    if (*out) return STATUS_OK;
    char quote[RECORD_QUOTE];
    record_quote(row->text, row->bytes, (size_t)max_i64(e.position, 0), quote);
    int64_t column = e.line <= 1 ? row->column + max_i64(e.column, 1) - 1 : e.column;
    bool object = row->line == 1 && row->column == 1 && row->bytes < 3;
    return status_fail(
        STATUS_DATA, "%s:%lld:%lld: %s, at `%s`%s", path,
        (long long)(row->line + max_i64(e.line, 1) - 1), (long long)column, e.text, quote,
        object ? " (a data file is an array of objects, or one object a line)" : "");
}
