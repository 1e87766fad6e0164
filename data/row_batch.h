/* row_batch.h: rows on their way from a file to token ids: gathered one after the other, made
 * into tokens by all cores (each thread with an encoder of its own), appended in order. */
#ifndef NIBBLE_DATA_ROW_BATCH_H
#define NIBBLE_DATA_ROW_BATCH_H

#include "data/row_maker.h"
#include "data/rows.h"
#include "data/source.h"
#include "data/text_buffer.h"

typedef struct row_job row_job;

typedef struct row_batch {
    const row_maker *maker;
    text_buffer text;
    row_job *jobs;
    int count;
    row_encoder *encoders; /* one for each thread */
    int encoder_count;
} row_batch;

/* A zeroed batch. The maker must outlive it. */
status row_batch_open(row_batch *b, const row_maker *maker);
void row_batch_close(row_batch *b);

bool row_batch_is_full(const row_batch *b);
/* Up to SPLIT_PARTS times after it was not full. The row is copied. */
status row_batch_give(row_batch *b, const data_record *row);
/* Makes the rows of `path` and appends them to *out, counting; the batch is empty then.
 * Messages name the file and the row. */
status row_batch_finish(row_batch *b, const char *path, row_set *out, dataset_report *report);

#endif
