/* feed.h: what a run trains on, group after group: a loader (loader.h) over rows that are all
 * there, or windows of a row stream, each with a loader of its own.
 *
 * Streamed, a window is read and tokenized by a thread of its own while the run trains on the
 * one before, and let go after it: memory is three windows, whatever the size of the files,
 * and the first step waits for one. Rows are shuffled and packed within a window, by a seed
 * that its place decides; behind the last row the files begin anew. Nobody knows the number
 * of steps of such an epoch, so max_steps says when to end, and an epoch counts as max_steps
 * long.
 *
 * A group's place is that of its window: from there the same groups come again, bit for bit.
 */
#ifndef NIBBLE_DATA_FEED_H
#define NIBBLE_DATA_FEED_H

#include "data/loader.h"
#include "data/row_stream.h"

typedef struct feed feed;

typedef struct feed_place {
    int64_t group;      /* the window's first group */
    int64_t epoch, row; /* how often the files began anew, the window's first row in them */
} feed_place;

/* Over rows, which must outlive it; options as loader_open. */
status feed_open(feed **out, const row_set *rows, const loader_options *options);
/* Over a stream, in windows of `window` rows; max_steps must be given. `sample`: rows of it,
 * for feed_sample, which must outlive it too. */
status feed_open_stream(feed **out, row_stream *stream, int64_t window, const row_set *sample,
                        const loader_options *options);
void feed_close(feed *f); /* NULL is fine; ends the stream's reading for good */

/* As loader_next; *place is the group's. STATUS_DATA for rows that are bad. */
status feed_next(feed *f, const batch_group **out, feed_place *place);
/* The next group is `index`, that of `place` or behind its window. */
status feed_seek(feed *f, const feed_place *place, int64_t index);

int64_t feed_steps(const feed *f);
int64_t feed_steps_per_epoch(const feed *f);
int64_t feed_longest_batch(const feed *f); /* at most so many tokens in a micro-batch */
bool feed_has_bucket(const feed *f, int64_t rows); /* see loader_has_bucket */
/* A loader over all rows, or over the sample: what a micro-batch is like on average. */
const loader *feed_sample(const feed *f);

#endif
