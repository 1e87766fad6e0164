/* pack.c: see pack.h. Rows wait in lists by length:
 *
 *   head[l]   the first row of length l that is in no bin yet, the others behind it through
 * next[] count[l]  how many of them the search has not taken on trial bits      bit l =
 * count[l] is not 0; `summary` has one bit per word of `bits`, so the longest row that fits is
 * found in a few word operations even for a bin of a million tokens */
#include "data/pack.h"
#include "common/alloc.h"
#include "common/checked.h"

#include <string.h>

enum { DEPTH = 64 }; /* rows that one search adds; a bin of many short rows takes several */

/* Steps per search. More is not always better: who fills the first bins perfectly uses up the
 * short rows that the middling ones need. */
static const int patience[] = {16, 32, 44, 56, 72, 100, 200, 400};

struct packer {
    int64_t bin_tokens, window;
    int32_t *head, *count; /* [bin_tokens + 1] */
    uint64_t *bits, *summary;
    int32_t *next, *trial, *name; /* [window] */

    int steps, depth;     /* of the search that runs */
    int32_t path[DEPTH];  /* lengths it has taken */
    int32_t found[DEPTH]; /* the best so far, what it leaves, and how many rows it takes */
    int64_t found_room;
    int found_depth;
};

status pack_open(packer **out, int64_t bin_tokens, int64_t window) {
    *out = NULL;
    packer *p = mem_alloc(sizeof *p, "the packer");
    if (!p) return STATUS_MEMORY;
    size_t lengths = (size_t)bin_tokens + 1, rows = (size_t)window;
    p->bin_tokens = bin_tokens;
    p->window = window;
    p->head = mem_alloc_array(lengths, sizeof *p->head, "packing");
    p->count = mem_alloc_array(lengths, sizeof *p->count, "packing");
    p->bits = mem_alloc_array(lengths / 64 + 1, sizeof *p->bits, "packing");
    p->summary = mem_alloc_array(lengths / 4096 + 1, sizeof *p->summary, "packing");
    p->next = mem_alloc_array(rows, sizeof *p->next, "packing");
    p->trial = mem_alloc_array(rows, sizeof *p->trial, "packing");
    p->name = mem_alloc_array(rows, sizeof *p->name, "packing");
    if (!p->head || !p->count || !p->bits || !p->summary || !p->next || !p->trial ||
        !p->name) {
        pack_close(p);
        return STATUS_MEMORY;
    }
    memset(p->head, 0xff, lengths * sizeof *p->head);
    *out = p;
    return STATUS_OK;
}

void pack_close(packer *p) {
    if (!p) return;
    mem_free(p->head);
    mem_free(p->count);
    mem_free(p->bits);
    mem_free(p->summary);
    mem_free(p->next);
    mem_free(p->trial);
    mem_free(p->name);
    mem_free(p);
}

/* ---- rows by length ---- */

static void put(packer *p, int32_t length) {
    if (p->count[length]++) return;
    p->bits[length / 64] |= 1ull << (length % 64);
    p->summary[length / 4096] |= 1ull << (length / 64 % 64);
}

static void take(packer *p, int32_t length) {
    if (--p->count[length]) return;
    p->bits[length / 64] &= ~(1ull << (length % 64));
    if (!p->bits[length / 64]) p->summary[length / 4096] &= ~(1ull << (length / 64 % 64));
}

/* The highest set bit of words[] at or below `at`; -1 when there is none. */
static int64_t highest_in_word(uint64_t word, int64_t at) {
    word &= ~0ull >> (63 - at % 64);
    return word ? at / 64 * 64 + 63 - __builtin_clzll(word) : -1;
}

/* The longest length <= room that is there; 0 when there is none (no row has length 0). */
static int32_t longest(const packer *p, int64_t room) {
    int64_t bit = highest_in_word(p->bits[room / 64], room);
    if (bit >= 0) return (int32_t)bit;
    int64_t word = -1, at = room / 64 - 1;
    for (; at >= 0 && word < 0; at = at / 64 * 64 - 1)
        word = highest_in_word(p->summary[at / 64], at);
    return word < 0 ? 0 : (int32_t)highest_in_word(p->bits[word], word * 64 + 63);
}

/* ---- one bin ---- */

/* Tries rows of at most `most` tokens, the longest first, for what is left of the bin. */
static void search(packer *p, int64_t room, int64_t most) {
    p->steps--;
    if (room < p->found_room) {
        p->found_room = room;
        p->found_depth = p->depth;
        memcpy(p->found, p->path, (size_t)p->depth * sizeof *p->path);
    }
    for (int32_t l = longest(p, min_i64(room, most)); l; l = longest(p, l - 1)) {
        if (!p->found_room || p->steps <= 0 || p->depth == DEPTH) return;
        take(p, l);
        p->path[p->depth++] = l;
        search(p, room - l, l);
        p->depth--;
        put(p, l);
    }
}

/* Moves the first row of a length into a bin. */
static void place(packer *p, int32_t length, int32_t bin, int32_t *bins) {
    int32_t row = p->head[length];
    p->head[length] = p->next[row];
    take(p, length);
    bins[row] = bin;
}

static void fill(packer *p, int32_t bin, int steps, int32_t *bins) {
    int32_t first = longest(p, p->bin_tokens);
    int64_t room = p->bin_tokens - first;
    place(p, first, bin, bins);
    while (room && longest(p, room)) {
        p->steps = steps;
        p->found_room = room;
        p->found_depth = 0;
        search(p, room, room);
        for (int i = 0; i < p->found_depth; i++) place(p, p->found[i], bin, bins);
        room = p->found_room;
    }
}

/* ---- a window ---- */

static int64_t pack_with(packer *p, const int32_t *lengths, int64_t n, int steps,
                         int32_t *bins) {
    int32_t count = 0;
    for (int64_t i = n; i-- > 0;) {
        p->next[i] = p->head[lengths[i]];
        p->head[lengths[i]] = (int32_t)i;
        put(p, lengths[i]);
    }
    while (longest(p, p->bin_tokens)) fill(p, count++, steps, bins);
    return count;
}

/* Renames the bins by their first row, so that order survives where the caller wants it. */
static void rename_bins(packer *p, int64_t n, int64_t bins, int32_t *bin) {
    int32_t fresh = 0;
    for (int64_t b = 0; b < bins; b++) p->name[b] = -1;
    for (int64_t i = 0; i < n; i++) {
        if (p->name[bin[i]] < 0) p->name[bin[i]] = fresh++;
        bin[i] = p->name[bin[i]];
    }
}

int64_t pack_best_fit(packer *p, const int32_t *lengths, int64_t n, int32_t *bin) {
    int64_t fewest = n + 1, tokens = 0;
    for (int64_t i = 0; i < n; i++) tokens += lengths[i];
    for (size_t k = 0; k < sizeof patience / sizeof *patience; k++) {
        int64_t bins = pack_with(p, lengths, n, patience[k], p->trial);
        if (bins < fewest) {
            fewest = bins;
            memcpy(bin, p->trial, (size_t)n * sizeof *bin);
        }
        if (fewest * p->bin_tokens - tokens < p->bin_tokens) break; /* no bin can be saved */
    }
    rename_bins(p, n, fewest, bin);
    return fewest;
}

int64_t pack_in_order(packer *p, const int32_t *lengths, int64_t n, int32_t *bin) {
    int32_t bins = 0;
    int64_t room = 0;
    for (int64_t i = 0; i < n; i++) {
        if (lengths[i] > room) bins++, room = p->bin_tokens;
        room -= lengths[i];
        bin[i] = bins - 1;
    }
    return bins;
}
