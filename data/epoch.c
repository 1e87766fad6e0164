/* epoch.c: see epoch.h. */
#include "data/epoch.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/philox.h"

#include <string.h>

enum {
    LENGTH_GROUP = 50, /* micro-batches per length group, as Hugging Face's sampler */
    ORDER_ROWS = 0,
    ORDER_BINS = 1,
    ORDER_MICRO = 2, /* Philox modules: which permutation */
};

/* Fisher-Yates with one Philox word per place. The word times n, shifted by 32, favours no
 * value by more than n / 2^32. */
static void shuffle(int32_t *items, int64_t n, uint64_t seed, int64_t epoch, uint32_t module,
                    int64_t first_element) {
    philox_stream s = philox_open(seed, PHILOX_SHUFFLE, module, 0, (uint64_t)epoch);
    for (int64_t i = n - 1; i > 0; i--) {
        uint64_t word = philox_word(&s, (uint64_t)(first_element + i));
        int64_t j = (int64_t)(word * (uint64_t)(i + 1) >> 32);
        int32_t swap = items[i];
        items[i] = items[j], items[j] = swap;
    }
}

/* Places items[0..n) by rank[bin[i]], stably; sizes go to start[0..bins), as ends. */
static void place_by_bin(epoch *e, int32_t *items, int64_t n, int64_t bins, int32_t *ends) {
    memset(ends, 0, (size_t)bins * sizeof *ends);
    for (int64_t i = 0; i < n; i++) ends[e->rank[e->bin[i]]]++;
    for (int64_t b = 0, sum = 0; b < bins; b++) {
        int32_t size = ends[b];
        ends[b] = (int32_t)sum;
        sum += size;
    }
    for (int64_t i = 0; i < n; i++) e->sorted[ends[e->rank[e->bin[i]]]++] = items[i];
    memcpy(items, e->sorted, (size_t)n * sizeof *items);
}

/* Packs one window of the order in place; `ends` gets the end of each bin within the window.
 */
static int64_t pack_window(epoch *e, int64_t at, int64_t n, int64_t bins_before,
                           int32_t *ends) {
    for (int64_t i = 0; i < n; i++)
        e->lengths[i] = (int32_t)row_set_length(e->rows, e->order[at + i]);
    int64_t bins = e->o->sequential ? pack_in_order(e->packer, e->lengths, n, e->bin)
                                    : pack_best_fit(e->packer, e->lengths, n, e->bin);
    for (int64_t b = 0; b < bins; b++) e->rank[b] = (int32_t)b;
    if (e->o->shuffle) shuffle(e->rank, bins, e->o->seed, e->number, ORDER_BINS, bins_before);
    place_by_bin(e, e->order + at, n, bins, ends);
    return bins;
}

/* order[] into bins, bins into micro-batches. Returns the number of bins. */
static int64_t plan_packed(epoch *e) {
    int64_t bins = 0, window = e->window;
    int32_t *ends =
        e->start + 1; /* first the end of every bin, then thinned to micro-batches */
    for (int64_t at = 0; at < e->used_count; at += window) {
        int64_t n = min_i64(window, e->used_count - at);
        int64_t fresh = pack_window(e, at, n, bins, ends + bins);
        for (int64_t b = 0; b < fresh; b++) ends[bins + b] += (int32_t)at;
        bins += fresh;
    }
    e->micro_count = (bins + e->o->micro_batch_size - 1) / e->o->micro_batch_size;
    for (int64_t m = 0; m < e->micro_count; m++)
        ends[m] = ends[min_i64((m + 1) * e->o->micro_batch_size, bins) - 1];
    e->start[0] = 0;
    return bins;
}

/* Sorts each stretch of LENGTH_GROUP micro-batches by length, then permutes its micro-batches.
 */
static void group_lengths(epoch *e) {
    int64_t size = e->o->micro_batch_size, stretch = e->window;
    for (int64_t at = 0; at < e->used_count; at += stretch) {
        int64_t n = min_i64(stretch, e->used_count - at);
        int32_t *items = e->order + at;
        for (int64_t i = 1; i < n; i++) { /* stretches are short: insertion, longest first */
            int32_t row = items[i];
            int64_t j = i;
            for (;
                 j > 0 && row_set_length(e->rows, items[j - 1]) < row_set_length(e->rows, row);
                 j--)
                items[j] = items[j - 1];
            items[j] = row;
        }
        int64_t whole = n / size; /* a short micro-batch stays last */
        for (int64_t b = 0; b < whole; b++) e->rank[b] = (int32_t)b;
        if (e->o->shuffle) shuffle(e->rank, whole, e->o->seed, e->number, ORDER_MICRO, at);
        for (int64_t b = 0; b < whole; b++)
            memcpy(e->sorted + b * size, items + e->rank[b] * size,
                   (size_t)size * sizeof *items);
        memcpy(items, e->sorted, (size_t)(whole * size) * sizeof *items);
    }
}

static int64_t plan_rows(epoch *e) {
    int64_t size = e->o->micro_batch_size;
    if (e->o->group_by_length) group_lengths(e);
    e->micro_count = (e->used_count + size - 1) / size;
    for (int64_t m = 0; m <= e->micro_count; m++)
        e->start[m] = (int32_t)min_i64(m * size, e->used_count);
    return e->micro_count * size;
}

int64_t epoch_make(epoch *e, int64_t number) {
    e->number = number;
    memcpy(e->order, e->used, (size_t)e->used_count * sizeof *e->order);
    if (e->o->shuffle) shuffle(e->order, e->used_count, e->o->seed, number, ORDER_ROWS, 0);
    return e->o->packing ? plan_packed(e) : plan_rows(e);
}

/* ---- opening ---- */

status epoch_open(epoch *e, const row_set *rows, const loader_options *o, const int32_t *used,
                  int64_t used_count) {
    size_t n = (size_t)used_count;
    *e = (epoch){.rows = rows, .o = o, .used = used, .used_count = used_count, .number = -1};
    e->window = min_i64(o->window > 0 ? o->window : LOADER_WINDOW, used_count);
    if (!o->packing) /* group_by_length's stretch */
        e->window = min_i64((int64_t)o->micro_batch_size * LENGTH_GROUP, used_count);
    size_t window = (size_t)e->window;
    e->order = mem_alloc_array(n, sizeof *e->order, "the rows' order");
    e->start = mem_alloc_array(n + 1, sizeof *e->start, "the micro-batches");
    e->lengths = mem_alloc_array(window, sizeof *e->lengths, "packing");
    e->bin = mem_alloc_array(window, sizeof *e->bin, "packing");
    e->rank = mem_alloc_array(window, sizeof *e->rank, "packing");
    e->sorted = mem_alloc_array(window, sizeof *e->sorted, "packing");
    if (!e->order || !e->start || !e->lengths || !e->bin || !e->rank || !e->sorted)
        return STATUS_MEMORY;
    return o->packing ? pack_open(&e->packer, o->sequence_len, e->window) : STATUS_OK;
}

void epoch_close(epoch *e) {
    pack_close(e->packer);
    mem_free(e->order);
    mem_free(e->start);
    mem_free(e->lengths);
    mem_free(e->bin);
    mem_free(e->rank);
    mem_free(e->sorted);
}
