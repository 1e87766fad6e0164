/* state.h: what a checkpoint holds of a run, and how a run goes on from one.
 *
 * Tensors: for every trained tensor its master and moments (and their scales). JSON: counters,
 * the data cursor, the loss scale, watchdogs, the resolved configuration, identities of base
 * and data, the fingerprint. Always at a step's boundary. */
#ifndef NIBBLE_TRAINER_RUN_STATE_H
#define NIBBLE_TRAINER_RUN_STATE_H

#include "checkpoints/checkpoint.h"
#include "data/feed.h"
#include "trainer/run/step.h"

typedef struct run_state {
    optimizer_state optimizer;
    int64_t cursor;   /* next group of the feed */
    feed_place place; /* the window of the group before it; streaming only, else zeros */
    int64_t tokens, targets; /* consumed so far */
    double best_eval;        /* INFINITY before the first */
    int64_t best_eval_step;
    int64_t evals_without_gain;
    int64_t watchdog_in_row;
    double before_loss;     /* of the held-out rows before the first step */
    int64_t before_targets; /* 0: not evaluated */
    json_t *samples_before; /* list of {prompt, answer}, owned; NULL: none were asked for */
    double seconds;         /* of training, over all sessions of the run */
} run_state;

/* What must agree between a checkpoint and the run that goes on from it. */
typedef struct run_identity {
    const char *config; /* resolved, YAML */
    json_t *base;       /* tensor -> hash; borrowed */
    char data[33];      /* XXH3-128 of the prepared rows */
    char fingerprint[768];
    char template_date[32]; /* that the chat template states; "": none */
} run_identity;

void run_state_init(run_state *r, const session *s);

/* Never saves what is not finite: STATUS_DIVERGED, naming the tensor. Else as checkpoint_save. */
status state_save(session *s, const run_state *r, const run_identity *id,
                  const char *output_dir, int keep);

/* Loads the tensors into the engine and the counters into *r. A different base or other data
 * is STATUS_MODEL / STATUS_DATA and says what differs; another fingerprint is a warning. */
status state_load(session *s, run_state *r, const run_identity *id, const checkpoint *c);

#endif
