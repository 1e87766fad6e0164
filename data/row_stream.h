/* row_stream.h: the rows of one dataset, read on and on: all at once, or so many at a time
 * while a run trains on those before. What a call gives is a function of the row that it
 * begins at, so a stream that is put there again gives the same rows. */
#ifndef NIBBLE_DATA_ROW_STREAM_H
#define NIBBLE_DATA_ROW_STREAM_H

#include "data/rows.h"
#include "data/source.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct row_stream row_stream;

/* Finds the files; reads nothing yet. Source and options must outlive it. Fails as
 * source_read. */
status row_stream_open(row_stream **out, const dataset_source *source,
                       const dataset_options *options);
void row_stream_close(row_stream *s); /* NULL is fine */

/* Appends rows until there are `want` more (some hundred above that) or none is left: then
 * *ended. Counts in *report, whose template fields are set. `quiet`: on a thread of its own:
 * no progress is shown, and options' go_on is not asked. */
status row_stream_read(row_stream *s, int64_t want, bool quiet, row_set *out,
                       dataset_report *report, bool *ended);

/* The number of the next row in all files, and going to one: 0 is the beginning. */
int64_t row_stream_row(const row_stream *s);
void row_stream_seek(row_stream *s, int64_t row);

/* A row_stream_read on another thread ends after the present batch, with STATUS_INTERRUPTED,
 * and so does every later one. */
void row_stream_stop(row_stream *s);

/* Bytes of all files: what tells that data has changed without reading it. */
status row_stream_bytes(const row_stream *s, int64_t *bytes);

#endif
