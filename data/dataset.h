/* dataset.h: all datasets of a run made into the rows that the loader takes: read, tokenized,
 * labelled, cut to length, without duplicates, merged, shuffled, and with a part held out.
 *
 * The trainer fills two plain structs (source.h) and gets two row sets and a report. Done once
 * per run, or taken from the prepared rows of an earlier one when nothing that decides them
 * changed. */
#ifndef NIBBLE_DATA_DATASET_H
#define NIBBLE_DATA_DATASET_H

#include "common/status.h"
#include "data/row_stream.h"
#include "data/rows.h"
#include "data/source.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct dataset {
    row_set train, held_out;
    dataset_report report;   /* of both together */
    bool from_prepared;      /* the rows were read from the prepared file */
    char prepared_note[512]; /* "" or what went wrong with it; the rows are right all the same
                              */
} dataset;

/* STATUS_DATA for files and rows (a missing one too, or when no row is left), STATUS_USAGE for
 * options, STATUS_MODEL for a chat template that is not known. */
status dataset_open(dataset *out, const dataset_source *sources, size_t count,
                    const dataset_options *options);
void dataset_close(dataset *d);

/* The first rows of a stream, `want` of them or all, as a dataset: neither prepared, nor without
 * duplicates, nor held out. */
status dataset_open_first(dataset *out, row_stream *stream, int64_t want,
                          const dataset_options *options);

/* What each token of a row shows as, for `check`: texts[i] is token i's part of the decoded
 * text, special tokens by their name. Together they are the decoded row, but for tokens that
 * hold parts of a character, which show as U+FFFD. Free with dataset_free_texts. */
status dataset_texts(const tokenizer *t, const int32_t *ids, int64_t n, char ***texts);
void dataset_free_texts(char **texts, int64_t n);

/* The report as a few lines of text for a person, to be freed with mem_free; NULL when out of
 * memory. */
char *dataset_describe(const dataset *d, const dataset_options *options);

#endif
