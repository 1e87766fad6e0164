/* column.h: one column chunk of a Parquet file read value by value: its pages one after the
 * other, each decompressed whole, its levels and values a batch at a time. Memory is a page
 * and the dictionary. Knows one column, not how columns make rows.
 *
 * What a page says of its size is believed as far as its bytes can justify it, and all
 * columns of a file together hold at most `limit` bytes at once. */
#ifndef NIBBLE_DATA_PARQUET_COLUMN_H
#define NIBBLE_DATA_PARQUET_COLUMN_H

#include "common/file.h"
#include "common/status.h"
#include "data/parquet/metadata.h"
#include "data/parquet/tree.h"
#include "data/parquet/values.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct parquet_buffer {
    uint8_t *data;
    size_t capacity;
} parquet_buffer;

/* What the columns of a file share. */
typedef struct parquet_source {
    const file *f;
    int64_t data_end;      /* pages lie before */
    parquet_buffer packed; /* the page that is being decompressed */
    size_t memory, limit;  /* bytes in buffers now, at most */
} parquet_source;

enum { COLUMN_BATCH = 256 }; /* levels decoded at once */

typedef struct parquet_column {
    parquet_source *source;
    const parquet_leaf *leaf;
    size_t group; /* the row group, for messages */
    int64_t codec;
    int64_t at;         /* the next page in the file */
    int64_t chunk_left; /* values (nulls among them) of pages that are not open yet */
    int64_t page_left;  /* ... of the open page, not in the batch yet */
    parquet_buffer page, dictionary_page, dictionary_items;
    value_dictionary dictionary;
    bool has_dictionary;
    run_reader definitions, repetitions;
    value_reader values;
    /* the batch; a value that is there has the leaf's highest definition level */
    size_t next, count;
    uint8_t definition[COLUMN_BATCH], repetition[COLUMN_BATCH];
} parquet_column;

/* Zeroed columns are opened once, then started at a chunk as often as wanted. */
void parquet_column_open(parquet_column *c, parquet_source *source, const parquet_leaf *leaf);
void parquet_column_close(parquet_column *c);
/* At the beginning of a chunk. STATUS_DATA (as all below, with column and row group) when that
 * cannot be one of this column. */
status parquet_column_start(parquet_column *c, const parquet_chunk *chunk, size_t group);

/* Makes next < count where the chunk has more values. */
status parquet_column_fill(parquet_column *c);
/* The value at `next`, which must be there. */
status parquet_column_value(parquet_column *c, parquet_value *out);
/* Passes over rows; the column stands at the beginning of one. STATUS_DATA when it ends. */
status parquet_column_skip(parquet_column *c, int64_t rows);

/* Puts the column and row group before the message of a STATUS_DATA; returns s. */
status parquet_column_place(const parquet_column *c, status s);
/* STATUS_DATA "column `a.b`, row group 2: what". */
status parquet_column_fail(const parquet_column *c, const char *what);

#endif
