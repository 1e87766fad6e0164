/* step.h: one optimizer step: micro-batches in, gradients summed, one verdict, one sweep.
 *
 * Everything that decides (skip, stop, scale) is a function of the three numbers that are read
 * back once per step: the sum of losses, the number of targets, the gradients' squared norms.
 */
#ifndef NIBBLE_TRAINER_RUN_STEP_H
#define NIBBLE_TRAINER_RUN_STEP_H

#include "data/loader.h"
#include "trainer/run/schedule.h"
#include "trainer/run/session.h"

/* What a checkpoint keeps of the optimizer beside the tensors. */
typedef struct optimizer_state {
    int64_t step;   /* optimizer steps taken, skipped ones included */
    int64_t adam_t; /* updates made; also the schedule's index */
    int64_t skipped;
    int skipped_in_row;  /* of those that no loss scale explains */
    double loss_scale;   /* fp16; 1 otherwise */
    int64_t good_in_row; /* fp16: steps since the scale changed */
} optimizer_state;

typedef struct step_result {
    double loss;      /* mean over the group's targets, before the update */
    double grad_norm; /* before clipping, unscaled */
    double lr;
    int64_t tokens, targets;
    bool skipped;
} step_result;

typedef struct stepper {
    session *s;
    lr_schedule lr;
    float *weights;  /* [capacity] what each target counts */
    double *squares; /* [trainables] */
} stepper;

status stepper_open(stepper *p, session *s, const lr_schedule *lr);
void stepper_close(stepper *p);

/* Runs one group. `interrupted` is asked between micro-batches; when it says so the step is
 * given up: STATUS_INTERRUPTED, nothing has changed but the gradients. STATUS_DIVERGED after
 * DIVERGED_AFTER steps in a row without a finite loss and norm; gradients that overflow under
 * a loss scale above 1 do not count, for the scale is still on its way down. */
enum { DIVERGED_AFTER = 5 };
status stepper_run(stepper *p, const batch_group *g, optimizer_state *o,
                   bool (*interrupted)(void), step_result *out);

/* What a micro-batch holds, for the profile. */
op_load step_load(const micro_batch *m);
/* Fills the inputs that training and evaluation share from one micro-batch. */
void step_inputs(run_input in[TRAIN_INPUTS], const micro_batch *m, const float *weights);

#endif
