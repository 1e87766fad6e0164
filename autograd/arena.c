/* arena.c: see arena.h. */
#include "autograd/arena.h"

#include "common/checked.h"

#include <string.h>

enum { PIECE = 4096 /* words of the pattern that are written or read at a time */ };

/* Position's own eight bytes. What a run writes last equals a single byte of them once in 256
 * times, so the high-water mark looks at four at a time. */
static uint64_t pattern_at(int64_t word) {
    uint64_t x = (uint64_t)word * 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
}

/* Whether the CPU reads and writes it in its place. */
static bool within_reach(const arena *a) {
    return a->host || a->b->host_visible;
}

static status write_pattern(arena *a, int64_t bytes) {
    uint64_t piece[PIECE];
    for (int64_t at = 0; at < bytes; at += (int64_t)sizeof piece) {
        int64_t n = min_i64(bytes - at, (int64_t)sizeof piece);
        for (int64_t i = 0; i < n / 8; i++) piece[i] = pattern_at(at / 8 + i);
        if (within_reach(a))
            memcpy(a->base + at, piece, (size_t)n);
        else
            TRY(a->b->table->upload(a->b, a->base + at, piece, n));
    }
    return STATUS_OK;
}

status arena_open(arena *a, backend *b, bool host, int64_t bytes, bool pattern) {
    memset(a, 0, sizeof *a);
    a->b = b;
    a->host = host;
    a->bytes = bytes;
    if (!bytes) return STATUS_OK;
    void *base;
    int64_t whole = (bytes + 7) / 8 * 8;
    TRY(b->table->reserve(b, host, whole, &base));
    a->base = base;
    return pattern ? write_pattern(a, whole) : STATUS_OK;
}

void arena_close(arena *a) {
    if (a->base) a->b->table->release(a->b, a->host, a->base, (a->bytes + 7) / 8 * 8);
    memset(a, 0, sizeof *a);
}

/* End of the last byte of words [0, n) of `piece` that is not the pattern's from word `first` on;
 * 0: none. */
static int64_t last_written(const uint64_t *piece, int64_t n, int64_t first) {
    for (int64_t i = n; i-- > 0;) {
        uint64_t w = pattern_at(first + i);
        uint32_t expected[2], here[2];
        memcpy(expected, &w, 8);
        memcpy(here, &piece[i], 8);
        if (memcmp(expected, here, 8))
            return 8 * (first + i) + (expected[1] != here[1] ? 8 : 4);
    }
    return 0;
}

int64_t arena_high_water(const arena *a) {
    int64_t words = (a->bytes + 7) / 8;
    for (int64_t first = words / PIECE * PIECE; first >= 0; first -= PIECE) {
        uint64_t piece[PIECE];
        int64_t n = min_i64(PIECE, words - first);
        if (within_reach(a))
            memcpy(piece, a->base + 8 * first, (size_t)(8 * n));
        else if (a->b->table->download(a->b, piece, a->base + 8 * first, 8 * n) != STATUS_OK)
            return -1; /* it sticks: the next sync says why */
        int64_t end = last_written(piece, n, first);
        if (end) return min_i64(end, a->bytes);
    }
    return 0;
}
