/* generate.c: see generate.h. Every run takes what each sequence still has to show the model:
 * at first pieces of its prompt, then its newest token; who is through gets a row of logits.
 */
#include "trainer/model/generate.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/philox.h"
#include "trainer/model/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- one choice ---- */

status sampling_check(const sampling *s) {
    if (!(s->temperature >= 0 && s->temperature < 1e6))
        return status_fail(STATUS_USAGE,
                           "temperature is %g; it must be 0 (greedy) or positive",
                           s->temperature);
    if (s->temperature > 0 && !(s->top_p > 0 && s->top_p <= 1))
        return status_fail(STATUS_USAGE, "top_p is %g; it must be in (0, 1]", s->top_p);
    if (s->top_k < 0)
        return status_fail(STATUS_USAGE, "top_k is %lld; it must be 0 (all) or positive",
                           (long long)s->top_k);
    return STATUS_OK;
}

static int32_t largest(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return (int32_t)best;
}

/* Does id a come before id b? */
static bool comes_before(const float *logits, int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
}

/* Heap whose top comes before all others. */
static void sift_down(int32_t *heap, int64_t n, int64_t i, const float *logits) {
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= n) return;
        if (child + 1 < n && comes_before(logits, heap[child + 1], heap[child])) child++;
        if (!comes_before(logits, heap[child], heap[i])) return;
        int32_t id = heap[i];
        heap[i] = heap[child];
        heap[child] = id;
        i = child;
    }
}

static int32_t take_top(int32_t *heap, int64_t *n, const float *logits) {
    int32_t top = heap[0];
    heap[0] = heap[--*n];
    heap[*n] = top; /* what was taken stands behind the heap, the first at the very end */
    sift_down(heap, *n, 0, logits);
    return top;
}

/* What is drawn from: ids behind the heap, the most probable at the very end. */
typedef struct candidates {
    const float *logits;
    int32_t *ids; /* [vocab]; the i-th candidate is ids[vocab - 1 - i] */
    int64_t vocab, count;
    double max, temperature;
} candidates;

static double weight_of(const candidates *c, int32_t id) {
    return exp((c->logits[id] - c->max) / c->temperature);
}

/* Takes the best ids until there are `most` of them or their weights reach `limit`. Returns
 * the weights' sum. */
static double take_best(candidates *c, int64_t most, double limit) {
    int64_t left = c->vocab;
    double sum = 0;
    for (int64_t i = 0; i < c->vocab; i++) c->ids[i] = (int32_t)i;
    for (int64_t i = c->vocab / 2; i-- > 0;) sift_down(c->ids, left, i, c->logits);
    for (c->count = 0; c->count < most && sum < limit; c->count++)
        sum += weight_of(c, take_top(c->ids, &left, c->logits));
    return sum;
}

/* Leaves the fewest candidates whose weights reach `limit`; returns their sum. */
static double keep_best(candidates *c, double limit) {
    double sum = 0;
    int64_t n = 0;
    while (n < c->count && sum < limit) sum += weight_of(c, c->ids[c->vocab - 1 - n++]);
    c->count = n;
    return sum;
}

static int32_t draw_at(const candidates *c, double at) {
    double sum = 0;
    for (int64_t i = 0; i < c->count; i++) {
        int32_t id = c->ids[c->vocab - 1 - i];
        sum += weight_of(c, id);
        if (at < sum) return id;
    }
    return c->ids[c->vocab - c->count]; /* rounding at the very end of the range */
}

int32_t sampling_choose(const sampling *s, const float *logits, int64_t vocab, uint64_t number,
                        uint64_t position, int32_t *scratch) {
    int32_t best = largest(logits, vocab);
    if (s->temperature == 0) return best;
    candidates c = {.logits = logits,
                    .ids = scratch,
                    .vocab = vocab,
                    .max = logits[best],
                    .temperature = s->temperature};
    double kept, total = 0;
    if (s->top_k && s->top_k < vocab) { /* top_p is a part of what top_k leaves */
        total = take_best(&c, s->top_k, INFINITY);
        kept = keep_best(&c, s->top_p * total);
    } else {
        for (int64_t i = 0; i < vocab; i++) total += weight_of(&c, (int32_t)i);
        kept = take_best(&c, vocab, s->top_p * total);
    }
    philox_stream stream = philox_open(s->seed, PHILOX_SAMPLE, 0, 0, number);
    return draw_at(&c, (1 - philox_uniform(philox_word(&stream, position))) * kept);
}

/* ---- the loop ---- */

typedef struct decoding {
    const generation *g;
    sequence *sequences; /* [count] of this wave, one document each */
    int64_t count;
    size_t first;             /* number of the wave's first sequence */
    int64_t *shown;           /* [count] tokens that the model has seen */
    int32_t *ids, *positions; /* [capacity] */
    int32_t *starts;          /* [count + 1] */
    int32_t *past;            /* [count] */
    int32_t *selected;        /* [count] rows that give logits, */
    int64_t *selected_by;     /* and whose they are */
    int64_t rows, selected_count;
    float *logits;    /* [shape.selected * V] */
    int32_t *scratch; /* [V] */
} decoding;

static bool finished(const generation *g, const sequence *s) {
    return s->stopped || s->count >= g->max_tokens ||
           s->prompt_count + s->count >= g->shape.cache_rows;
}

/* The i-th token of prompt and continuation. */
static int32_t token_at(const sequence *s, int64_t i) {
    return i < s->prompt_count ? s->prompt[i] : s->tokens[i - s->prompt_count];
}

/* Gives document i as many of its tokens as there is room for, and a row of logits if that is
 * all of them. A finished one is an empty document. */
static void take_tokens(decoding *d, int64_t i) {
    const sequence *s = &d->sequences[i];
    int64_t left = finished(d->g, s) ? 0 : s->prompt_count + s->count - d->shown[i];
    int64_t n = min_i64(left, d->g->shape.capacity - d->rows);
    bool complete = n == left && n > 0;
    d->past[i] = (int32_t)d->shown[i];
    for (int64_t k = 0; k < n; k++) {
        d->ids[d->rows] = token_at(s, d->shown[i] + k);
        d->positions[d->rows++] = (int32_t)(d->shown[i] + k);
    }
    d->shown[i] += n;
    d->starts[i + 1] = (int32_t)d->rows;
    if (!complete) return;
    d->selected[d->selected_count] = (int32_t)d->rows - 1;
    d->selected_by[d->selected_count++] = i;
}

static status run_once(decoding *d) {
    const generation *g = d->g;
    d->rows = d->selected_count = 0;
    d->starts[0] = 0;
    for (int64_t i = 0; i < d->count; i++) take_tokens(d, i);
    run_input inputs[GENERATE_INPUTS] = {
        [INPUT_IDS] = {d->ids, d->rows, 0},
        [INPUT_POSITIONS] = {d->positions, d->rows, 0},
        [INPUT_STARTS] = {d->starts, d->count + 1, 0},
        [INPUT_PAST] = {d->past, d->count, 0},
        [INPUT_SELECTED] = {d->selected, d->selected_count, 0},
    };
    run_args args = {.rows = d->rows,
                     .documents = d->count,
                     .selected = d->selected_count,
                     .micro = UINT64_MAX, /* no dropout */
                     .inputs = inputs};
    TRY(engine_run(g->e, g->program, &args));
    int64_t bytes = d->selected_count * g->config->vocab * (int64_t)sizeof *d->logits;
    return bytes ? engine_output(g->e, g->program, "logits", d->logits, bytes)
                 : engine_sync(g->e);
}

static bool is_end(const generation *g, int32_t id) {
    if (g->ignore_eos) return false;
    for (int i = 0; i < g->config->eos_count; i++)
        if (g->config->eos[i] == id) return true;
    for (int i = 0; i < g->stop_count; i++)
        if (g->stop[i] == id) return true;
    return false;
}

static status append_token(decoding *d, int64_t row) {
    const generation *g = d->g;
    int64_t i = d->selected_by[row], vocab = g->config->vocab;
    const float *logits = d->logits + row * vocab;
    sequence *s = &d->sequences[i];
    size_t number = d->first + (size_t)i;
    if (first_not_finite(logits, DTYPE_F32, vocab) >= 0)
        return status_fail(
            STATUS_DIVERGED,
            "the model's output is not finite after %lld tokens of sequence %zu",
            (long long)(s->prompt_count + s->count), number);
    int32_t id = sampling_choose(&g->sampling, logits, vocab, g->first_number + number,
                                 (uint64_t)s->count, d->scratch);
    s->tokens[s->count++] = id;
    s->stopped = is_end(g, id);
    return g->token ? g->token(g->context, number, id) : STATUS_OK;
}

static bool any_left(const decoding *d) {
    for (int64_t i = 0; i < d->count; i++)
        if (!finished(d->g, &d->sequences[i])) return true;
    return false;
}

static status run_wave(decoding *d) {
    memset(d->shown, 0, (size_t)d->g->shape.sequences * sizeof *d->shown);
    while (any_left(d)) {
        TRY(run_once(d));
        for (int64_t row = 0; row < d->selected_count; row++) TRY(append_token(d, row));
    }
    return STATUS_OK;
}

/* ---- around it ---- */

static status check_prompt(const generation *g, const sequence *s, size_t number) {
    if (s->prompt_count < 1)
        return status_fail(STATUS_DATA, "prompt %zu has no tokens", number);
    if (s->prompt_count >= g->shape.cache_rows)
        return status_fail(
            STATUS_DATA, "prompt %zu has %lld tokens; at most %lld leave room for one", number,
            (long long)s->prompt_count, (long long)g->shape.cache_rows - 1);
    for (int64_t i = 0; i < s->prompt_count; i++)
        if (s->prompt[i] < 0 || s->prompt[i] >= g->config->vocab)
            return status_fail(STATUS_DATA, "prompt %zu holds id %d; the vocabulary has %lld",
                               number, s->prompt[i], (long long)g->config->vocab);
    return STATUS_OK;
}

static status check_all(const generation *g, sequence *sequences, size_t count) {
    TRY(sampling_check(&g->sampling));
    if (g->shape.selected < g->shape.sequences)
        return status_fail(STATUS_INTERNAL, "fewer rows of logits than sequences");
    for (size_t i = 0; i < count; i++) {
        TRY(check_prompt(g, &sequences[i], i));
        sequences[i].count = 0;
        sequences[i].stopped = false;
    }
    return STATUS_OK;
}

static status open_decoding(decoding *d) {
    const generate_shape *shape = &d->g->shape;
    size_t rows = (size_t)shape->capacity, n = (size_t)shape->sequences;
    size_t vocab = (size_t)d->g->config->vocab;
    d->shown = mem_alloc_array(n, sizeof *d->shown, "generation");
    d->ids = mem_alloc_array(rows, sizeof *d->ids, "generation");
    d->positions = mem_alloc_array(rows, sizeof *d->positions, "generation");
    d->starts = mem_alloc_array(n + 1, sizeof *d->starts, "generation");
    d->past = mem_alloc_array(n, sizeof *d->past, "generation");
    d->selected = mem_alloc_array(n, sizeof *d->selected, "generation");
    d->selected_by = mem_alloc_array(n, sizeof *d->selected_by, "generation");
    d->logits = mem_alloc_array(n, vocab * sizeof *d->logits, "logits");
    d->scratch = mem_alloc_array(vocab, sizeof *d->scratch, "generation");
    return d->shown && d->ids && d->positions && d->starts && d->past && d->selected &&
                   d->selected_by && d->logits && d->scratch
               ? STATUS_OK
               : STATUS_MEMORY;
}

static void close_decoding(decoding *d) {
    void *all[] = {d->shown,    d->ids,         d->positions, d->starts, d->past,
                   d->selected, d->selected_by, d->logits,    d->scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mem_free(all[i]);
}

status generate(const generation *g, sequence *sequences, size_t count) {
    decoding d = {.g = g};
    TRY(check_all(g, sequences, count));
    status s = open_decoding(&d);
    for (size_t first = 0; s == STATUS_OK && first < count;
         first += (size_t)g->shape.sequences) {
        d.sequences = sequences + first;
        d.first = first;
        d.count = min_i64(g->shape.sequences, (int64_t)(count - first));
        s = run_wave(&d);
    }
    close_decoding(&d);
    return s;
}
