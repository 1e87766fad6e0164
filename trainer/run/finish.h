/* finish.h: what a run says at its beginning (the plan) and its end: the adapter's files, a
 * table for people, summary.json for programs. summary.json is written last: it marks a
 * finished run. */
#ifndef NIBBLE_TRAINER_RUN_FINISH_H
#define NIBBLE_TRAINER_RUN_FINISH_H

#include "trainer/run/loop.h"

void finish_print_plan(const run *r);
status finish_run(run *r, bool profile);
/* Prints the summary of a finished run again, on stdout. */
status finish_show_summary(const char *output_dir);

#endif
