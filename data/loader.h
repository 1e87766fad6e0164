/* loader.h: batches out. From prepared rows to micro-batches of documents, in an order that is
 * a pure function of (dataset, options, seed), made by a background worker so that the loop
 * never waits.
 *
 * The bins of all epochs are packed up front from the rows' lengths alone (each window from
 * scratch, nothing carried over), so the number of steps is exact before the first one and the
 * cursor is a group's index. Lengths: a micro-batch holds at most capacity = micro_batch_size
 * * sequence_len tokens; packed: micro_batch_size bins of sequence_len, each best-fit filled;
 * unpacked: micro_batch_size rows, laid end to end without padding.
 *
 * The order of an epoch: the rows are permuted by Philox (seed, epoch); packed, each window of
 * `window` of them is packed by best fit and its bins are permuted again; then
 * micro_batch_size bins (or rows) in a row are a micro-batch, `accumulation` of these a group.
 */
#ifndef NIBBLE_DATA_LOADER_H
#define NIBBLE_DATA_LOADER_H

#include "common/status.h"
#include "data/rows.h"

#include <stdbool.h>
#include <stdint.h>

/* Documents laid end to end. targets[i] is the id to predict at token i, or -1: the label of
 * token i + 1 of the same document; the last token of a document never has one. */
typedef struct micro_batch {
    int64_t tokens; /* rows used, <= capacity */
    int64_t documents;
    int64_t target_count;     /* how many targets are not -1 */
    const int32_t *ids;       /* [tokens] */
    const int32_t *targets;   /* [tokens] */
    const int32_t *positions; /* [tokens], from 0 in every document */
    const int32_t
        *starts; /* [documents + 1], first token of each; starts[documents] = tokens */
    const int64_t *row_index; /* [documents], the row of the dataset */
} micro_batch;

/* All micro-batches of one optimizer step. */
typedef struct batch_group {
    int64_t index; /* 0 based over the whole run; the cursor to store after its step is index +
                      1 */
    double epoch;  /* position after this group, 1.0 = the first epoch is consumed */
    int64_t tokens, targets;
    int micro_count; /* the last group of an epoch may be short */
    const micro_batch *micro;
} batch_group;

enum { LOADER_WINDOW = 16384 }; /* rows; see pack.h for how full bins get */

typedef struct loader_options {
    int64_t sequence_len;
    int micro_batch_size;
    int accumulation;
    double num_epochs;    /* may be fractional */
    int64_t max_steps;    /* > 0: exactly that many steps, over as many epochs as it takes */
    bool packing;         /* bins of sequence_len */
    bool shuffle;         /* false keeps the rows' order (evaluation, curriculum_sampling) */
    bool group_by_length; /* not packed: rows of like length share a micro-batch */
    bool sequential; /* packed: bins filled in the rows' order (sample_packing_sequentially) */
    bool drop_nothing; /* evaluation: rows without targets are kept */
    int64_t window;    /* rows packed together; 0 = LOADER_WINDOW */
    int rank,
        world; /* this process takes micro-batches rank, rank + world, ...; world 0 = 1 */
    uint64_t seed;
} loader_options;

typedef struct loader loader;

/* `rows` must outlive the loader. STATUS_DATA when nothing is left to learn from, or a row is
 * longer than sequence_len; STATUS_USAGE for options that make no steps. Rows without tokens
 * are left out always, rows without targets unless drop_nothing. All memory is taken here. */
status loader_open(loader **out, const row_set *rows, const loader_options *options);
void loader_close(loader *l);

int64_t loader_steps(const loader *l);           /* groups of the whole run */
int64_t loader_steps_per_epoch(const loader *l); /* of the first epoch */
double loader_fill(const loader *l);             /* tokens / capacity over all bins, 0..1 */
int64_t loader_longest_batch(const loader *l);   /* most tokens in one micro-batch */
/* Whether a micro-batch of the run has `rows` tokens when they are rounded up to a multiple of
 * LOADER_BUCKET, as programs round them. */
enum { LOADER_BUCKET = 64 };
bool loader_has_bucket(const loader *l, int64_t rows);

/* What a micro-batch of the first epoch holds on average: what predictions of time need.
 * `pairs` are those of a token and one before it, or itself, in the same document. */
typedef struct loader_load {
    double tokens, targets, pairs;
} loader_load;
loader_load loader_mean_batch(const loader *l);

/* The next group is `index`. Cheap; used by resume and after a discarded partial group. */
status loader_seek(loader *l, int64_t index);
/* The next group, NULL after the last. Valid until the call after the next one. */
status loader_next(loader *l, const batch_group **out);

#endif
