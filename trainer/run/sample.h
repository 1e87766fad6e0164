/* sample.h: answers of the model during a run, as `train generate` gives them: the prompts of
 * the configuration, or the first held-out rows' prompts with what was expected. */
#ifndef NIBBLE_TRAINER_RUN_SAMPLE_H
#define NIBBLE_TRAINER_RUN_SAMPLE_H

#include "trainer/run/loop.h"

/* Asks for the generate program where the run wants samples (before the plan is made). */
status sample_plan(run *r);
/* Answers all prompts: a list of {prompt, answer, expected (or null)}; *out stays NULL where
 * the run wants no samples. */
status sample_collect(run *r, json_t **out);
/* Answers, prints and notes them in metrics.jsonl's neighbour, the log. */
status sample_show(run *r, int64_t step);

#endif
