/* gemm_table.h: a run's measured table of matrix products, OUTPUT_DIR/gemm_table.json.
 *
 * The library chooses an algorithm for a product from its shape alone; `train plan --measure`
 * tries what there is on this card and writes down what is faster. A run takes the table where it
 * lies in its output folder: then its products are the table's, the fingerprint names the
 * table's hash, and a resumed run has the same bits. Another card's or library's table is left
 * out, saying so. */
#ifndef NIBBLE_TRAINER_RUN_GEMM_TABLE_H
#define NIBBLE_TRAINER_RUN_GEMM_TABLE_H

#include "common/status.h"

#include <stdint.h>

#define GEMM_TABLE_NAME "gemm_table.json"

struct run;
struct session;

typedef struct gemm_table_report {
    int64_t shapes, faster; /* products measured; those with a better algorithm */
    double best; /* of these: least part of the first choice's time that one takes */
    char path[1024];
} gemm_table_report;

/* Takes the table of a training session's output folder for all that is prepared from now on,
 * and sets s->gemm_table. STATUS_MODEL for a file that is no such table. */
status gemm_table_use(struct session *s);

/* Measures the products of an open, planned run, for every size of micro-batch that it has, and
 * writes the table. STATUS_USAGE on a back end whose products have one algorithm, and for an
 * output folder in which a run began. */
status gemm_table_measure(struct run *r, gemm_table_report *report);

#endif
