/* evaluate.h: the loss of a model on rows, weighted by targets: sum of -log p over all
 * targets, divided by their number, as if all rows were one batch. Sums in double, in the
 * rows' order. */
#ifndef NIBBLE_TRAINER_RUN_EVALUATE_H
#define NIBBLE_TRAINER_RUN_EVALUATE_H

#include "data/loader.h"
#include "trainer/run/session.h"

typedef struct evaluation {
    double loss; /* mean over targets */
    int64_t targets, tokens;
    double seconds;
} evaluation;

/* Called per micro-batch with log p of every token's target (0 where there is none). */
typedef status (*evaluate_visitor)(void *context, const micro_batch *m, const float *logp);

/* The session's evaluate program over all rows. `stop` (may be NULL) is asked between batches:
 * STATUS_INTERRUPTED. visitor may be NULL. */
status evaluate_rows(session *s, const row_set *rows, const loader_options *options,
                     bool (*stop)(void), evaluate_visitor visitor, void *context,
                     evaluation *out);

/* exp(loss), infinity when it overflows. */
double perplexity_of(double loss);

#endif
