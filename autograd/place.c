/* place.c: offsets for a schedule's buffers by first fit over their lifetimes, largest first.
 */
#include "autograd/schedule.h"
#include "common/alloc.h"
#include "common/checked.h"

#include <stdlib.h>

static const buffer *sort_base;

static int larger_first(const void *a, const void *b) {
    const buffer *x = &sort_base[*(const int32_t *)a], *y = &sort_base[*(const int32_t *)b];
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    return x->first != y->first ? (x->first < y->first ? -1 : 1) : (x < y ? -1 : x > y);
}

static bool overlap(const buffer *a, const buffer *b) {
    return a->first <= b->last && b->first <= a->last;
}

/* The lowest gap between the already placed buffers (sorted by offset) that are alive
 * meanwhile. */
static int64_t first_gap(const schedule *s, const int32_t *placed, size_t n, const buffer *b,
                         int64_t align) {
    int64_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const buffer *o = &s->buffers[placed[i]];
        if (!overlap(o, b)) continue;
        if (o->offset >= at + b->bytes) break;
        int64_t end = round_up_i64(o->offset + o->bytes, align);
        if (end > at) at = end;
    }
    return at;
}

int64_t schedule_place(schedule *s, int64_t align) {
    size_t n = s->buffer_count;
    int32_t *order = mem_alloc_array(2 * n + 1, sizeof *order, "the planner");
    if (!order) return -1;
    int32_t *placed = order + n;
    for (size_t i = 0; i < n; i++) order[i] = (int32_t)i;
    sort_base = s->buffers;
    qsort(order, n, sizeof *order, larger_first);
    int64_t high = 0;
    for (size_t i = 0; i < n; i++) {
        buffer *b = &s->buffers[order[i]];
        b->offset = first_gap(s, placed, i, b, align);
        if (b->offset + b->bytes > high) high = b->offset + b->bytes;
        size_t k = i; /* keep `placed` sorted by offset */
        while (k > 0 && s->buffers[placed[k - 1]].offset > b->offset)
            placed[k] = placed[k - 1], k--;
        placed[k] = order[i];
    }
    mem_free(order);
    return high;
}
