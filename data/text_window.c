/* text_window.c: see text_window.h. */
#include "data/text_window.h"
#include "common/alloc.h"
#include "data/records.h"

#include <string.h>

enum { CHUNK = 1 << 20 }; /* bytes read at once */

status text_window_open(text_window *w, file *f) {
    memset(w, 0, sizeof *w);
    w->line = w->column = 1;
    return byte_stream_open(&w->stream, f);
}

void text_window_close(text_window *w) {
    byte_stream_close(w->stream);
    mem_free(w->data);
    memset(w, 0, sizeof *w);
}

static status grow(text_window *w) {
    size_t wanted = w->capacity ? w->capacity * 2 : CHUNK;
    if (w->end >= RECORD_LIMIT)
        return status_fail(STATUS_DATA,
                           "%s:%lld: a row of more than %d MiB: a line end, a bracket or a "
                           "quote is missing, or the file is not what its name says",
                           byte_stream_path(w->stream), (long long)w->line,
                           RECORD_LIMIT >> 20);
    char *data = mem_resize(w->data, wanted, "a data file");
    if (!data) return STATUS_MEMORY;
    w->data = data;
    w->capacity = wanted;
    return STATUS_OK;
}

status text_window_refill(text_window *w, bool *more) {
    if (w->at > 0) {
        memmove(w->data, w->data + w->at, w->end - w->at);
        w->end -= w->at;
        w->at = 0;
    }
    if (w->end == w->capacity) TRY(grow(w));
    size_t before = w->end, got = 1;
    while (got && w->end < w->capacity) { /* all of it: who calls starts again from `at` */
        TRY(byte_stream_read(w->stream, w->data + w->end, w->capacity - w->end, &got));
        w->end += got;
    }
    *more = w->end > before;
    return STATUS_OK;
}

/* Bytes that do not go on with a character of UTF-8. */
static int64_t characters(const char *text, size_t n) {
    int64_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

void text_window_advance(text_window *w, size_t n) {
    const char *p = w->data + w->at, *end = p + n;
    for (const char *line; p < end && (line = memchr(p, '\n', (size_t)(end - p)));) {
        w->line++, w->column = 1;
        p = line + 1;
    }
    w->column += characters(p, (size_t)(end - p));
    w->at += n;
}

status text_window_fail(const text_window *w, const char *what) {
    char quote[RECORD_QUOTE];
    size_t n = w->end - w->at;
    record_quote(w->data + w->at, n < 40 ? n : 40, 0, quote);
    return status_fail(STATUS_DATA, "%s:%lld:%lld: %s, at `%s`", byte_stream_path(w->stream),
                       (long long)w->line, (long long)w->column, what, quote);
}
