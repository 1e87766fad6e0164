/* record_text.c: rows of JSON arrays, JSON lines and plain text: three ways to find a row's
 * end in a window over the file. */
#include "common/alloc.h"
#include "data/record_kinds.h"

#include <string.h>

typedef struct text_reader {
    record_reader base;
    text_window w;
    record_format format;
    bool array; /* inside [ ... ] */
    int64_t index;
} text_reader;

enum { END = -1 };

static bool is_line_end(char c) {
    return c == '\n' || c == '\r';
}
static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* The next byte that is no white space, not consumed; END after the last. */
static status next_visible(text_window *w, int *out) {
    for (;;) {
        size_t n = 0;
        while (w->at + n < w->end && is_space(w->data[w->at + n])) n++;
        text_window_advance(w, n);
        *out = w->at < w->end ? (unsigned char)w->data[w->at] : END;
        if (w->at < w->end) return STATUS_OK;
        bool more;
        TRY(text_window_refill(w, &more));
        if (!more) return STATUS_OK;
    }
}

/* ---- the end of a row: each returns the row's bytes, or -1 when more are needed ---- */

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

static int64_t row_end(const text_reader *r) {
    const char *text = r->w.data + r->w.at;
    size_t n = r->w.end - r->w.at;
    if (r->array) return value_end(text, n);
    if (r->format == RECORD_WHOLE) return -1;
    if (r->format == RECORD_PARAGRAPHS) return paragraph_end(text, n);
    return line_end(text, n);
}

/* Takes the row that starts at `at`. */
static status take(text_reader *r, data_record *out) {
    text_window *w = &r->w;
    int64_t n;
    bool more = true;
    while ((n = row_end(r)) < 0 && more) TRY(text_window_refill(w, &more));
    if (n < 0 && r->array)
        return text_window_fail(w, "the file ends inside this row of the array");
    if (n < 0) n = (int64_t)(w->end - w->at);
    *out = (data_record){w->data + w->at, (size_t)n, r->index++,
                         w->line,         w->column, .fault = NULL};
    text_window_advance(w, (size_t)n);
    return STATUS_OK;
}

/* ---- lines ---- */

static bool is_blank(const data_record *row) {
    for (size_t i = 0; i < row->bytes; i++)
        if (!is_space(row->text[i])) return false;
    return true;
}

/* Lines that hold nothing are no rows, and no part of the paragraph that follows. */
static status skip_empty_lines(text_window *w) {
    for (;;) {
        size_t n = 0;
        while (w->at + n < w->end && is_line_end(w->data[w->at + n])) n++;
        text_window_advance(w, n);
        bool more = w->at == w->end;
        if (more) TRY(text_window_refill(w, &more));
        if (!more) return STATUS_OK;
    }
}

/* A row without the line ends behind it, and a paragraph without blank lines before it. */
static void trim_row(const text_reader *r, data_record *row) {
    while (row->bytes && is_line_end(row->text[row->bytes - 1])) row->bytes--;
    if (r->format != RECORD_PARAGRAPHS) return;
    for (size_t n = 0; n < row->bytes && is_space(row->text[n]); n++)
        if (row->text[n] == '\n') {
            row->text += n + 1, row->bytes -= n + 1;
            row->line++, row->column = 1;
            n = (size_t)-1;
        }
}

static status next_line(text_reader *r, data_record *out) {
    for (;;) {
        if (r->format != RECORD_WHOLE) TRY(skip_empty_lines(&r->w));
        *out = (data_record){0};
        if (r->w.at == r->w.end) return STATUS_OK;
        TRY(take(r, out));
        if (r->format != RECORD_WHOLE) trim_row(r, out);
        if (!is_blank(out)) return STATUS_OK;
        r->index--;
    }
}

/* ---- arrays ---- */

static status end_array(text_reader *r) {
    int c;
    r->base.finished = true;
    text_window_advance(&r->w, 1);
    TRY(next_visible(&r->w, &c));
    return c != END ? text_window_fail(&r->w, "text after the end of the array") : STATUS_OK;
}

static status next_value(text_reader *r, data_record *out) {
    text_window *w = &r->w;
    int c;
    TRY(next_visible(w, &c));
    if (r->index > 0 && c == ',') {
        text_window_advance(w, 1);
        TRY(next_visible(w, &c));
        if (c == ']') return text_window_fail(w, "a comma before the end of the array");
    } else if (r->index > 0 && c != ']' && c != END)
        return text_window_fail(w, "a comma or the end of the array is expected here");
    if (c == ']') return end_array(r);
    if (c == END || c == ',' || c == '}')
        return text_window_fail(w, c == END ? "the array does not end"
                                            : "a row is expected here");
    return take(r, out);
}

/* ---- the reader ---- */

static status text_next(record_reader *base, data_record *out) {
    text_reader *r = (text_reader *)base;
    return r->array ? next_value(r, out) : next_line(r, out);
}

static void text_close(record_reader *base) {
    text_window_close(&((text_reader *)base)->w);
    mem_free(base);
}

static const record_kind json_kind = {false, text_next, NULL, NULL, text_close};
static const record_kind text_kind = {true, text_next, NULL, NULL, text_close};

static status begin(text_reader *r) {
    text_window *w = &r->w;
    int c = w->at < w->end ? 0 : END;
    if (r->format == RECORD_JSON) TRY(next_visible(w, &c));
    if (r->format == RECORD_JSON && c == '[') {
        r->array = true;
        text_window_advance(w, 1);
    }
    if (c == END) return status_fail(STATUS_DATA, "%s: is empty", byte_stream_path(w->stream));
    return STATUS_OK;
}

status record_text_open(record_reader **out, text_window *w, record_format format) {
    text_reader *r = mem_alloc(sizeof *r, "a data file");
    if (!r) {
        text_window_close(w);
        return STATUS_MEMORY;
    }
    r->base.kind = format == RECORD_JSON ? &json_kind : &text_kind;
    r->w = *w;
    r->format = format;
    status s = begin(r);
    if (s != STATUS_OK)
        text_close(&r->base);
    else
        *out = &r->base;
    return s;
}
