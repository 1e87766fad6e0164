/* pack.c: best fit with lists of bins by the room left in them.
 *
 *   head[r]   one bin with r tokens of room, the others behind it through next[]; -1 = none
 *   bits      bit r = head[r] is not empty; `summary` has one bit per word of `bits`, so the
 *             smallest room >= L is found in a few word operations even for a bin of a million
 */
#include "data/pack.h"
#include "common/alloc.h"
#include "common/checked.h"

#include <string.h>

struct packer {
    int64_t bin_tokens, words, summary_words;
    int32_t *head; /* [bin_tokens + 1] */
    uint64_t *bits, *summary;
    int32_t *next, *room, *name; /* [window], by bin */
    uint64_t *keys, *scratch;    /* [window], for sorting */
};

status pack_open(packer **out, int64_t bin_tokens, int64_t window) {
    *out = NULL;
    packer *p = mem_alloc(sizeof *p, "the packer");
    if (!p) return STATUS_MEMORY;
    p->bin_tokens = bin_tokens;
    p->words = bin_tokens / 64 + 1;
    p->summary_words = p->words / 64 + 1;
    p->head = mem_alloc_array((size_t)bin_tokens + 1, sizeof *p->head, "packing");
    p->bits = mem_alloc_array((size_t)p->words, sizeof *p->bits, "packing");
    p->summary = mem_alloc_array((size_t)p->summary_words, sizeof *p->summary, "packing");
    p->next = mem_alloc_array((size_t)window, sizeof *p->next, "packing");
    p->room = mem_alloc_array((size_t)window, sizeof *p->room, "packing");
    p->name = mem_alloc_array((size_t)window, sizeof *p->name, "packing");
    p->keys = mem_alloc_array((size_t)window, sizeof *p->keys, "packing");
    p->scratch = mem_alloc_array((size_t)window, sizeof *p->scratch, "packing");
    if (!p->head || !p->bits || !p->summary || !p->next || !p->room || !p->name || !p->keys ||
        !p->scratch) {
        pack_close(p);
        return STATUS_MEMORY;
    }
    memset(p->head, 0xff, ((size_t)bin_tokens + 1) * sizeof *p->head);
    *out = p;
    return STATUS_OK;
}

void pack_close(packer *p) {
    if (!p) return;
    mem_free(p->head);
    mem_free(p->bits);
    mem_free(p->summary);
    mem_free(p->next);
    mem_free(p->room);
    mem_free(p->name);
    mem_free(p->keys);
    mem_free(p->scratch);
    mem_free(p);
}

/* The smallest room >= need that some bin has; -1 when there is none. */
static int64_t find_room(const packer *p, int64_t need) {
    int64_t w = need / 64;
    uint64_t bits = p->bits[w] >> (need % 64) << (need % 64);
    if (!bits) {
        int64_t after = w + 1, s = after / 64;
        if (s >= p->summary_words) return -1;
        uint64_t above = p->summary[s] >> (after % 64) << (after % 64);
        while (!above && ++s < p->summary_words) above = p->summary[s];
        if (!above) return -1;
        w = s * 64 + __builtin_ctzll(above);
        bits = p->bits[w];
    }
    return w * 64 + __builtin_ctzll(bits);
}

static void push_bin(packer *p, int32_t b, int32_t room) {
    p->room[b] = room;
    p->next[b] = p->head[room];
    p->head[room] = b;
    p->bits[room / 64] |= 1ull << (room % 64);
    p->summary[room / 4096] |= 1ull << (room / 64 % 64);
}

static int32_t pop_bin(packer *p, int64_t room) {
    int32_t b = p->head[room];
    p->head[room] = p->next[b];
    if (p->head[room] < 0) {
        p->bits[room / 64] &= ~(1ull << (room % 64));
        if (!p->bits[room / 64]) p->summary[room / 4096] &= ~(1ull << (room / 64 % 64));
    }
    return b;
}

/* Merge sort, ascending: our own because qsort allocates behind the allocator's back. */
static void sort_keys(uint64_t *keys, uint64_t *scratch, int64_t n) {
    uint64_t *from = keys, *to = scratch;
    for (int64_t run = 1; run < n; run *= 2) {
        for (int64_t at = 0; at < n; at += 2 * run) {
            int64_t a = at, middle = min_i64(at + run, n), b = middle,
                    end = min_i64(at + 2 * run, n);
            for (int64_t o = at; o < end; o++)
                to[o] = a < middle && (b >= end || from[a] <= from[b]) ? from[a++] : from[b++];
        }
        uint64_t *swap = from;
        from = to, to = swap;
    }
    if (from != keys) memcpy(keys, from, (size_t)n * sizeof *keys);
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
    for (int64_t i = 0; i < n; i++) /* longest first, then the earliest */
        p->keys[i] = (uint64_t)(p->bin_tokens - lengths[i]) << 32 | (uint32_t)i;
    sort_keys(p->keys, p->scratch, n);
    int32_t bins = 0;
    for (int64_t k = 0; k < n; k++) {
        int64_t i = (uint32_t)p->keys[k];
        int64_t room = find_room(p, lengths[i]);
        int32_t b = room < 0 ? bins++ : pop_bin(p, room);
        if (room < 0) room = p->bin_tokens;
        push_bin(p, b, (int32_t)(room - lengths[i]));
        bin[i] = b;
    }
    for (int32_t b = 0; b < bins; b++) { /* every window from scratch */
        p->head[p->room[b]] = -1;
        p->bits[p->room[b] / 64] = 0;
        p->summary[p->room[b] / 4096] = 0;
    }
    rename_bins(p, n, bins, bin);
    return bins;
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
