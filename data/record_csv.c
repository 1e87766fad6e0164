/* record_csv.c: rows of comma- and tab-separated files (RFC 4180), handed out as JSON objects
 * with the first line's names as keys.
 *
 * Read as pandas reads them, with which Hugging Face's csv loader works: a quote opens a
 * quoted cell only at its beginning, "" in it is a quote, text behind the closing quote
 * belongs to the cell; lines end at CR, LF or both; blank lines are no rows; missing cells at
 * a row's end are null; a column without a name is "Unnamed: N", a second `a` is "a.1".
 * Unlike there, no types are guessed, since a guess depends on the rows around: every cell is
 * a string, an empty one is null, and the words NA, null and nan are words. A row with too
 * many cells is a bad row. */
#include "common/alloc.h"
#include "data/json_text.h"
#include "data/record_kinds.h"

#include <stdio.h>
#include <string.h>

enum { COLUMNS = 1 << 10 }; /* names; more is surely no table */

typedef struct cell {
    size_t at, bytes; /* in the reader's cells */
} cell;

typedef struct csv_reader {
    record_reader base;
    text_window w;
    char separator;
    text_buffer text; /* of the row's cells, unquoted, one after the other */
    cell *cells;
    size_t count, capacity;
    text_buffer names; /* "name": of each column, as JSON */
    cell *keys;        /* [columns], where in names */
    size_t columns;
    text_buffer json; /* the row as handed out */
    int64_t index;
} csv_reader;

/* ---- cells ---- */

typedef enum where { CELL_START, UNQUOTED, QUOTED, QUOTE_IN_QUOTED } where;

static status open_cell(csv_reader *r) {
    if (mem_grow(&r->cells, &r->capacity, r->count + 1, sizeof *r->cells, "cells"))
        return STATUS_MEMORY;
    r->cells[r->count++] = (cell){r->text.bytes, 0};
    return STATUS_OK;
}

static void close_cell(csv_reader *r) {
    cell *c = &r->cells[r->count - 1];
    c->bytes = r->text.bytes - c->at;
}

/* How many bytes from p on belong to the cell as they are. */
static size_t plain_run(const csv_reader *r, where w, const char *p, const char *end) {
    const char *from = p;
    if (w == QUOTED) {
        const char *quote = memchr(p, '"', (size_t)(end - p));
        return (size_t)((quote ? quote : end) - p);
    }
    while (p < end && *p != r->separator && *p != '\n' && *p != '\r') p++;
    return (size_t)(p - from);
}

/* The cells of the row that starts the text. *used: its bytes with the line end, 0 when the
 * text ends before the row does (`last`: then the end of the text ends it). */
static status split(csv_reader *r, const char *text, size_t n, bool last, size_t *used,
                    bool *quote_open) {
    const char *p = text, *end = text + n;
    where w = CELL_START;
    r->text.bytes = r->count = *used = 0;
    TRY(open_cell(r));
    while (p < end) {
        if (*p == '"' && (w == CELL_START || w == QUOTE_IN_QUOTED)) {
            if (w == QUOTE_IN_QUOTED) TRY(text_append(&r->text, "\"", 1));
            w = QUOTED, p++;
        } else if (*p == '"' && w == QUOTED) {
            w = QUOTE_IN_QUOTED, p++;
        } else if (w != QUOTED && *p == r->separator) {
            close_cell(r);
            TRY(open_cell(r));
            w = CELL_START, p++;
        } else if (w != QUOTED && (*p == '\n' || *p == '\r')) {
            if (*p == '\r' && p + 1 == end && !last) return STATUS_OK;
            p += *p == '\r' && p + 1 < end && p[1] == '\n' ? 2 : 1;
            break;
        } else {
            if (w != QUOTED) w = UNQUOTED;
            size_t run = plain_run(r, w, p, end);
            TRY(text_append(&r->text, p, run));
            p += run;
        }
        if (p == end && !last) return STATUS_OK;
    }
    *quote_open = w == QUOTED && p == end;
    close_cell(r);
    *used = (size_t)(p - text);
    return STATUS_OK;
}

/* Lines of white space alone are no rows (where a tab separates cells it is one). */
static bool is_blank_line(const csv_reader *r, size_t used) {
    const char *p = r->w.data + r->w.at;
    for (size_t i = 0; i < used; i++)
        if (p[i] == r->separator || !strchr(" \t\r\n", p[i]) || !p[i]) return false;
    return true;
}

/* The cells of the next row that is there, and its place; false in *found at the end. */
static status take_row(csv_reader *r, data_record *place, bool *found) {
    text_window *w = &r->w;
    for (;;) {
        size_t used = 0;
        bool more = true, quote_open = false;
        while (more) {
            if (w->at < w->end)
                TRY(split(r, w->data + w->at, w->end - w->at, false, &used, &quote_open));
            if (used) break;
            TRY(text_window_refill(w, &more));
        }
        *found = w->at < w->end;
        if (!*found) return STATUS_OK;
        if (!used) TRY(split(r, w->data + w->at, w->end - w->at, true, &used, &quote_open));
        if (quote_open)
            return text_window_fail(w, "the file ends inside a quoted cell of this row");
        bool blank = is_blank_line(r, used);
        *place = (data_record){.line = w->line, .column = w->column};
        text_window_advance(w, used);
        if (!blank) return STATUS_OK;
    }
}

/* ---- names ---- */

static bool is_taken(const csv_reader *r, const text_buffer *name) {
    for (size_t i = 0; i < r->columns; i++)
        if (r->keys[i].bytes == name->bytes &&
            !memcmp(r->names.data + r->keys[i].at, name->data, name->bytes))
            return true;
    return false;
}

/* The JSON key of column i into `out`; `copy` > 0 tells it from those before. */
static status write_name(const csv_reader *r, size_t i, int copy, text_buffer *out) {
    char number[40];
    cell c = r->cells[i];
    int n = c.bytes ? 0 : snprintf(number, sizeof number, "Unnamed: %zu", i);
    text_buffer plain = {0};
    status s = c.bytes ? text_append(&plain, r->text.data + c.at, c.bytes)
                       : text_append(&plain, number, (size_t)n);
    n = copy ? snprintf(number, sizeof number, ".%d", copy) : 0;
    if (s == STATUS_OK) s = text_append(&plain, number, (size_t)n);
    out->bytes = 0;
    if (s == STATUS_OK) s = json_text_string(out, plain.data, plain.bytes);
    mem_free(plain.data);
    return s;
}

static status name_column(csv_reader *r, size_t i, text_buffer *name) {
    int copy = 0;
    do TRY(write_name(r, i, copy++, name));
    while (is_taken(r, name));
    r->keys[i] = (cell){r->names.bytes, name->bytes};
    r->columns = i + 1;
    return text_append(&r->names, name->data, name->bytes);
}

static status read_names(csv_reader *r) {
    data_record place;
    bool found;
    TRY(take_row(r, &place, &found));
    if (!found) return status_fail(STATUS_DATA, "%s: is empty", byte_stream_path(r->w.stream));
    if (r->count > COLUMNS)
        return status_fail(STATUS_DATA,
                           "%s: the first line names %zu columns, at most %d are "
                           "read: is it a table?",
                           byte_stream_path(r->w.stream), r->count, COLUMNS);
    r->keys = mem_alloc_array(r->count, sizeof *r->keys, "a table's columns");
    if (!r->keys) return STATUS_MEMORY;
    text_buffer name = {0};
    status s = STATUS_OK;
    for (size_t i = 0; i < r->count && s == STATUS_OK; i++) s = name_column(r, i, &name);
    mem_free(name.data);
    return s;
}

/* ---- rows ---- */

static status write_row(csv_reader *r) {
    text_buffer *out = &r->json;
    out->bytes = 0;
    for (size_t i = 0; i < r->columns; i++) {
        TRY(text_append(out, i ? "," : "{", 1));
        TRY(text_append(out, r->names.data + r->keys[i].at, r->keys[i].bytes));
        TRY(text_append(out, ":", 1));
        cell c = i < r->count ? r->cells[i] : (cell){0};
        if (c.bytes)
            TRY(json_text_string(out, r->text.data + c.at, c.bytes));
        else
            TRY(text_append(out, "null", 4));
    }
    return text_append(out, "}", 1);
}

static status csv_next(record_reader *base, data_record *out) {
    csv_reader *r = (csv_reader *)base;
    data_record place;
    bool found;
    TRY(take_row(r, &place, &found));
    if (!found) return STATUS_OK;
    TRY(write_row(r));
    place.text = r->json.data, place.bytes = r->json.bytes;
    place.index = r->index++;
    if (r->count > r->columns)
        place.fault = "the row has more cells than the first line names";
    *out = place;
    return STATUS_OK;
}

static void csv_close(record_reader *base) {
    csv_reader *r = (csv_reader *)base;
    text_window_close(&r->w);
    mem_free(r->text.data);
    mem_free(r->cells);
    mem_free(r->names.data);
    mem_free(r->keys);
    mem_free(r->json.data);
    mem_free(r);
}

static const record_kind csv_kind = {false, csv_next, NULL, NULL, csv_close};

status record_csv_open(record_reader **out, text_window *w, char separator) {
    csv_reader *r = mem_alloc(sizeof *r, "a data file");
    if (!r) {
        text_window_close(w);
        return STATUS_MEMORY;
    }
    r->base.kind = &csv_kind;
    r->w = *w;
    r->separator = separator;
    status s = read_names(r);
    if (s != STATUS_OK)
        csv_close(&r->base);
    else
        *out = &r->base;
    return s;
}
