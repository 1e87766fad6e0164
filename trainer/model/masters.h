/* masters.h: values of trained tensors: fp32 masters and the working copies rounded from them.
 *
 * The masters are the truth (they are what checkpoints and exports hold); a working copy is
 * its master rounded to the compute type, always. Values go through in pieces of 1 MiB. */
#ifndef NIBBLE_TRAINER_MODEL_MASTERS_H
#define NIBBLE_TRAINER_MODEL_MASTERS_H

#include "trainer/model/decoder.h"

/* Writes elements [first, first + n) of the tensor whose working copy is `working`: its master
 * too, where it is trained. */
status masters_put(const decoder *d, engine *e, parameter_id working, int64_t first, int64_t n,
                   const float *values);
/* Reads the master. STATUS_INTERNAL when the tensor is not trained. */
status masters_get(const decoder *d, engine *e, parameter_id working, int64_t first, int64_t n,
                   float *values);
/* Every working copy from its master: after masters came from a checkpoint. */
status masters_round(const decoder *d, engine *e);

/* The trainable whose working copy this is; NULL. */
const trainable *trainable_of(const decoder *d, parameter_id working);

#endif
