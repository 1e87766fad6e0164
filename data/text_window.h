/* text_window.h: a piece of a text file that slides over it and grows while a row needs more,
 * with the place of its first byte as a person counts it.
 *
 *     data [ ... done ... | at: row being read ... | end )     stream beyond
 *
 * A finder looks for the end of the row in [at, end). When it is not there the window is
 * refilled (slid, or doubled when the row fills it) and the finder starts again: doubling
 * keeps that linear. */
#ifndef NIBBLE_DATA_TEXT_WINDOW_H
#define NIBBLE_DATA_TEXT_WINDOW_H

#include "common/file.h"
#include "common/status.h"
#include "data/byte_stream.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct text_window {
    byte_stream *stream;
    char *data;
    size_t at, end, capacity;
    int64_t line, column; /* of data[at], from 1; columns are characters */
} text_window;

/* Takes the open file over, also when it fails. */
status text_window_open(text_window *w, file *f);
void text_window_close(text_window *w); /* a zeroed one may be closed */

/* More bytes after `end`; *more is false at the end of the file. The window may move.
 * STATUS_DATA for a row of more than RECORD_LIMIT bytes, or a damaged file. */
status text_window_refill(text_window *w, bool *more);

/* Moves past n bytes, counting lines and columns; they stay where they are until a refill. */
void text_window_advance(text_window *w, size_t n);

/* STATUS_DATA "path:line:column: what, at `text`" for the place `at`. */
status text_window_fail(const text_window *w, const char *what);

#endif
