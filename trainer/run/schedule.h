/* schedule.h: the learning rate of every step, equal to transformers' schedulers.
 *
 * Step k (from 1) uses index k - 1, so with warm-up the first rate is 0 and the last index is
 * N - 1. */
#ifndef NIBBLE_TRAINER_RUN_SCHEDULE_H
#define NIBBLE_TRAINER_RUN_SCHEDULE_H

#include "trainer/run/config.h"

typedef struct lr_schedule {
    config_scheduler kind;
    double peak;
    double min_ratio; /* cosine: the floor as a part of the peak */
    int64_t warmup, total;
} lr_schedule;

/* index: how often the schedule has advanced, from 0. */
double lr_at(const lr_schedule *s, int64_t index);

#endif
