/* arena.h: one reservation per device, offsets from the plan. Only opening can fail.
 *
 * The memory is filled with a pattern that depends on the position, so the high-water mark is
 * observed, not computed: the end of the last byte that differs. */
#ifndef NIBBLE_AUTOGRAD_ARENA_H
#define NIBBLE_AUTOGRAD_ARENA_H

#include "autograd/backend.h"

typedef struct arena {
    backend *b;
    bool host;
    char *base;
    int64_t bytes;
} arena;

status arena_open(arena *a, backend *b, bool host, int64_t bytes, bool pattern);
void arena_close(arena *a);
/* Last byte written + 1 on a patterned arena; -1 where the device fails. */
int64_t arena_high_water(const arena *a);

#endif
