/* loop.h: the steps of a run: train, evaluate, save, watch, until the end or a signal. */
#ifndef NIBBLE_TRAINER_RUN_LOOP_H
#define NIBBLE_TRAINER_RUN_LOOP_H

#include "trainer/run/corpus.h"
#include "trainer/run/evaluate.h"
#include "trainer/run/metrics.h"
#include "trainer/run/state.h"

typedef struct run run;
struct run {
    const config *c;
    session s;
    corpus rows;
    feed *feed;
    stepper stepper;
    metrics metrics;
    run_state state;
    run_identity identity;
    checkpoint from; /* to resume from; path NULL: none */
    int64_t total_steps, steps_per_epoch, save_every, eval_every;
    int64_t resumed_from;      /* -1: begun anew */
    evaluation before, after;  /* of the held-out rows; targets 0: not done */
    int64_t evaluated_at;      /* step of `after` */
    json_t *samples_after;     /* list of {prompt, answer}; NULL: none */
    double last_loss, seconds; /* of this session's steps */
    int64_t steps_here, tokens_here;
    int64_t save_retry_at; /* a save failed: try again at this step; -1 */
    bool stopped_early;
};

/* Until the last step (STATUS_OK), a signal (saved; STATUS_INTERRUPTED), divergence
 * (STATUS_DIVERGED) or an error. */
status loop_run(run *r);
/* Evaluates the held-out rows and reports at the current step; nothing without such rows. */
status loop_evaluate(run *r, evaluation *out);

#endif
