/* records.h: the rows of a data file, one after the other, as text with its place in the
 * file.
 *
 * Formats: a JSON array of objects, JSON lines (one object a line), plain text, CSV
 * (record_csv.c) and Parquet (parquet/parquet.h); all but the last also compressed
 * (byte_stream.h). What a file is, its first bytes say, then its name (rows.jsonl.gz is JSON
 * lines). Rows of CSV and Parquet are handed out as JSON too, so that nothing behind here
 * knows the difference. Knows files, not what is in a row. The file is streamed: memory is
 * one chunk and the longest row. What is not read (Git-LFS pointers, archives, UTF-16, other
 * packings) is recognised and named with the way out.
 *
 * Plain text follows Hugging Face's text loader: a row is a line without its line end, and
 * lines without a visible character are left out. That is what a list of sentences wants. A
 * book or a corpus wants RECORD_WHOLE (the file is one row; completion cuts it into pieces of
 * sequence_len) or RECORD_PARAGRAPHS (rows end at empty lines). */
#ifndef NIBBLE_DATA_RECORDS_H
#define NIBBLE_DATA_RECORDS_H

#include "common/json.h"
#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum record_format {
    RECORD_AUTO, /* by the name: .txt and .text: lines; .csv and .tsv; everything else: JSON */
    RECORD_JSON, /* starts with [ : an array, else one value a line */
    RECORD_LINES,
    RECORD_PARAGRAPHS,
    RECORD_WHOLE,
    RECORD_CSV,     /* cells end at commas, in .tsv files at tabs */
    RECORD_PARQUET, /* also what a file is that begins as one, whatever was asked for */
} record_format;

enum { RECORD_LIMIT = 256 << 20 }; /* bytes of one row; more is surely no row */

typedef struct data_record {
    const char *text; /* not NUL-terminated; valid until the next call; NULL after the last */
    size_t bytes;
    int64_t index;        /* in the file, from 0 */
    int64_t line, column; /* of its first byte, from 1; columns are characters. Of a file
                           * without lines (Parquet) the row's number, from 1, and 1 */
    const char
        *fault; /* why it can be no row (a literal), NULL mostly; record_parse says it */
} data_record;

typedef struct record_reader record_reader;

/* STATUS_DATA: missing, empty, or a file that is not read here. */
status records_open(record_reader **out, const char *path, record_format format);
void records_close(record_reader *r);          /* NULL is fine */
bool records_are_text(const record_reader *r); /* plain text, no JSON */

/* The next row. STATUS_DATA with path:line:column for a broken array or a row over
 * RECORD_LIMIT; both end the file. What is inside the row is record_parse's matter, so bad
 * rows can be skipped. */
status records_next(record_reader *r, data_record *out);
/* Passes over `rows` rows, or all there are (*passed says how many); as records_next, but
 * where the format allows it they are not even decoded. */
status records_skip(record_reader *r, int64_t rows, int64_t *passed);
/* How many rows the file has; on a fresh reader, which may be at the end afterwards. */
status records_count(record_reader *r, int64_t *rows);

/* The row as JSON. STATUS_DATA: "path:line:column: what, at `text`": bad syntax, bad UTF-8,
 * lone surrogates, duplicate keys. */
status record_parse(const char *path, const data_record *row, json_t **out);

/* A few words of `text` around byte `at` for a message, printable, at most 60 bytes; into
 * `out`. */
enum { RECORD_QUOTE = 96 };
void record_quote(const char *text, size_t bytes, size_t at, char out[RECORD_QUOTE]);

#endif
