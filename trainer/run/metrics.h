/* metrics.h: what a run leaves behind to be watched: metrics.jsonl (one object per line, one
 * write each, 9 significant digits) and TensorBoard event files.
 *
 * A run that resumes first cuts metrics.jsonl back to the steps that its checkpoint knows, so
 * a step stands there once. */
#ifndef NIBBLE_TRAINER_RUN_METRICS_H
#define NIBBLE_TRAINER_RUN_METRICS_H

#include "common/file.h"
#include "common/json.h"

typedef struct metrics {
    file lines;
    file events; /* path NULL: none */
    double started;
} metrics;

/* Opens output_dir/metrics.jsonl for appending and a fresh event file under output_dir/runs.
 * keep_steps: lines of later steps are dropped first (-1: all are kept). */
status metrics_open(metrics *m, const char *output_dir, int64_t keep_steps);
void metrics_close(metrics *m);

/* Writes the object as one line and its numbers (but step) as TensorBoard scalars under
 * `group/`. Steals `line`. A failed write warns once and never stops the run. */
void metrics_write(metrics *m, json_t *line, const char *group);

/* A number that prints with 9 significant digits; NaN and infinities as null. */
json_t *metrics_real(double x);

#endif
