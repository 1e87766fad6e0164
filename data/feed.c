/* feed.c: see feed.h. */
#include "data/feed.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/worker.h"

#include <string.h>

enum { GROUPS = 3 }; /* one in use, one before it that is still valid, one more */

typedef struct window {
    row_set rows;
    loader *l;
    feed_place place;
} window;

struct feed {
    loader *all; /* over all rows, or over the stream's sample */
    loader_options o;

    row_stream *stream; /* NULL: all rows are there */
    int64_t window_rows, next;
    window now, before; /* the one before is kept for a group that is still in use */
    worker *worker;
    row_set ahead; /* read by the worker, begins at: */
    feed_place ahead_place;
    uint64_t ticket; /* 0: nothing is being read */
    batch_group groups[GROUPS];
};

/* ---- windows ---- */

static void window_close(window *w) {
    loader_close(w->l);
    row_set_free(&w->rows);
    *w = (window){.l = NULL};
}

/* Reads the next window; at the end of the files they begin anew. */
static status read_ahead(void *context) {
    feed *f = context;
    dataset_report report = {.read = 0};
    bool ended = false;
    for (int tries = 0; tries < 2; tries++) {
        f->ahead_place.row = row_stream_row(f->stream);
        TRY(row_stream_read(f->stream, f->window_rows, true, &f->ahead, &report, &ended));
        if (f->ahead.count) return STATUS_OK;
        row_stream_seek(f->stream, 0);
        f->ahead_place.epoch++;
    }
    return status_fail(STATUS_DATA,
                       "streaming: none of the dataset's rows has a token to learn "
                       "within sequence_len %lld",
                       (long long)f->o.sequence_len);
}

static void start_reading(feed *f) {
    f->ticket = worker_give(f->worker, read_ahead, f);
}

/* Waits for what is being read. */
static status finish_reading(feed *f) {
    uint64_t ticket = f->ticket;
    f->ticket = 0;
    return ticket ? worker_wait(f->worker, ticket) : STATUS_OK;
}

/* A window's own seed: splitmix64's mixture of its place. */
static uint64_t seed_of(uint64_t seed, const feed_place *p) {
    uint64_t z = seed + 0x9E3779B97F4A7C15u * ((uint64_t)p->row + 1) + (uint64_t)p->epoch;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* A loader that gives every row once. */
static status open_epoch(loader **out, const row_set *rows, loader_options o) {
    o.max_steps = 0;
    o.num_epochs = 1;
    return loader_open(out, rows, &o);
}

/* The window that was read becomes the present one, and the next one is begun. */
static status enter_window(feed *f, int64_t first_group) {
    TRY(finish_reading(f));
    window_close(&f->before);
    f->before = f->now;
    f->now = (window){.rows = f->ahead, .place = f->ahead_place};
    memset(&f->ahead, 0, sizeof f->ahead);
    f->now.place.group = first_group;
    loader_options o = f->o;
    o.seed = seed_of(o.seed, &f->now.place);
    TRY(open_epoch(&f->now.l, &f->now.rows, o));
    start_reading(f);
    return STATUS_OK;
}

/* ---- groups ---- */

static status next_streamed(feed *f, const batch_group **out, feed_place *place) {
    const batch_group *g = NULL;
    *out = NULL;
    if (f->next >= f->o.max_steps) return STATUS_OK;
    if (f->now.l) TRY(loader_next(f->now.l, &g));
    while (!g) {
        TRY(enter_window(f, f->next));
        TRY(loader_next(f->now.l, &g));
    }
    batch_group *copy = &f->groups[f->next % GROUPS];
    *copy = *g;
    copy->index = f->next++;
    copy->epoch = (double)f->now.place.epoch;
    *place = f->now.place;
    *out = copy;
    return STATUS_OK;
}

status feed_next(feed *f, const batch_group **out, feed_place *place) {
    if (f->stream) return next_streamed(f, out, place);
    *place = (feed_place){0};
    return loader_next(f->all, out);
}

static status seek_streamed(feed *f, const feed_place *place, int64_t index) {
    if (place->group < 0 || place->epoch < 0 || place->row < 0 || index < place->group ||
        index > f->o.max_steps)
        return status_fail(STATUS_DATA,
                           "streaming: there is no group %lld of a window that "
                           "begins with group %lld, row %lld",
                           (long long)index, (long long)place->group, (long long)place->row);
    TRY(finish_reading(f));
    row_set_free(&f->ahead);
    window_close(&f->now);
    window_close(&f->before);
    row_stream_seek(f->stream, place->row);
    f->ahead_place = *place;
    start_reading(f);
    TRY(enter_window(f, place->group));
    f->next = index;
    if (index - place->group > loader_steps(f->now.l))
        return status_fail(STATUS_DATA,
                           "streaming: the window at row %lld has %lld groups, the "
                           "run had used %lld: the files have changed",
                           (long long)place->row, (long long)loader_steps(f->now.l),
                           (long long)(index - place->group));
    return loader_seek(f->now.l, index - place->group);
}

status feed_seek(feed *f, const feed_place *place, int64_t index) {
    return f->stream ? seek_streamed(f, place, index) : loader_seek(f->all, index);
}

/* ---- what is known before ---- */

int64_t feed_steps(const feed *f) {
    return f->stream ? f->o.max_steps : loader_steps(f->all);
}

int64_t feed_steps_per_epoch(const feed *f) {
    return f->stream ? f->o.max_steps : loader_steps_per_epoch(f->all);
}

int64_t feed_longest_batch(const feed *f) {
    return f->stream ? f->o.sequence_len * f->o.micro_batch_size
                     : loader_longest_batch(f->all);
}

bool feed_has_bucket(const feed *f, int64_t rows) {
    if (!f->stream) return loader_has_bucket(f->all, rows);
    return rows >= 0 && rows <= round_up_i64(feed_longest_batch(f), LOADER_BUCKET);
}

const loader *feed_sample(const feed *f) {
    return f->all;
}

/* ---- opening ---- */

static status open_parts(feed *f, const row_set *rows, const loader_options *o) {
    f->o = *o;
    if (!f->stream) return loader_open(&f->all, rows, o);
    if (o->max_steps <= 0 || f->window_rows < 1)
        return status_fail(STATUS_USAGE,
                           "streaming wants max_steps and windows of a row or more");
    TRY(open_epoch(&f->all, rows, *o));
    TRY(worker_open(&f->worker, "rows of the stream", 1));
    row_stream_seek(f->stream, 0);
    start_reading(f);
    return STATUS_OK;
}

static status open_feed(feed **out, row_stream *stream, int64_t window, const row_set *rows,
                        const loader_options *o) {
    *out = NULL;
    feed *f = mem_alloc(sizeof *f, "the loader");
    if (!f) return STATUS_MEMORY;
    f->stream = stream;
    f->window_rows = window;
    status s = open_parts(f, rows, o);
    if (s != STATUS_OK)
        feed_close(f);
    else
        *out = f;
    return s;
}

status feed_open(feed **out, const row_set *rows, const loader_options *options) {
    return open_feed(out, NULL, 0, rows, options);
}

status feed_open_stream(feed **out, row_stream *stream, int64_t window, const row_set *sample,
                        const loader_options *options) {
    return open_feed(out, stream, window, sample, options);
}

void feed_close(feed *f) {
    if (!f) return;
    if (f->stream)
        row_stream_stop(f->stream); /* nobody waits for a window that is not wanted */
    worker_close(f->worker);
    window_close(&f->now);
    window_close(&f->before);
    row_set_free(&f->ahead);
    loader_close(f->all);
    mem_free(f);
}
