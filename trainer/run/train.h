/* train.h: a training run from configuration to finished adapter.
 *
 * Order: output folder (lock, what is in it) -> model's headers -> tokenizer -> rows -> plan
 * -> memory -> weights -> resume -> steps -> adapter written. Everything that can be refused
 * is refused before something slow begins. */
#ifndef NIBBLE_TRAINER_RUN_TRAIN_H
#define NIBBLE_TRAINER_RUN_TRAIN_H

#include "autograd/backend.h"
#include "trainer/run/config.h"

#include <stdbool.h>

typedef struct train_request {
    const char *model_folder; /* config's base_model, resolved */
    device_request device;
    bool resume;    /* --resume, or auto_resume_from_checkpoints */
    bool overwrite; /* --overwrite: an unfinished or finished run in output_dir is removed */
    bool pattern;   /* observe the arenas' high-water mark */
    bool profile;
    /* Compares the configuration of the checkpoint with this run's: "" or the differences that
     * change the result, for a clear refusal. Comes from verbs/, which knows the schema. */
    status (*compare_configs)(const char *before, const char *now, char *text, int bytes);
} train_request;

status train_run(const config *c, const train_request *r);

/* The same up to the plan, into a zeroed run, for `train plan`: no output folder, no memory,
 * no weights. */
struct run;
status train_open(struct run *r, const config *c, const train_request *q);
void train_close(struct run *r);

#endif
