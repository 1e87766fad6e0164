/* arena.c: see arena.h. */
#include "autograd/arena.h"

#include <string.h>

/* Position's own eight bytes. What a run writes last equals a single byte of them once in 256
 * times, so the high-water mark looks at four at a time. */
static uint64_t pattern_at(int64_t word) {
    uint64_t x = (uint64_t)word * 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
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
    if (pattern)
        for (int64_t i = 0; i < whole / 8; i++) {
            uint64_t w = pattern_at(i);
            memcpy(a->base + 8 * i, &w, 8);
        }
    return STATUS_OK;
}

void arena_close(arena *a) {
    if (a->base) a->b->table->release(a->b, a->host, a->base, (a->bytes + 7) / 8 * 8);
    memset(a, 0, sizeof *a);
}

int64_t arena_high_water(const arena *a) {
    for (int64_t i = (a->bytes + 7) / 8; i-- > 0;) {
        uint64_t w = pattern_at(i);
        uint32_t expected[2], here[2];
        memcpy(expected, &w, 8);
        memcpy(here, a->base + 8 * i, 8);
        if (!memcmp(expected, here, 8)) continue;
        int64_t end = 8 * i + (expected[1] != here[1] ? 8 : 4);
        return end < a->bytes ? end : a->bytes;
    }
    return 0;
}
