/* selection.c: see selection.h. */
#include "data/selection.h"
#include "common/checked.h"

void selection_finish(row_selection *s) {
    s->end = 0;
    for (int p = 0; p < s->split.count; p++) {
        int64_t from, to;
        split_range(&s->split, p, s->rows, &from, &to);
        s->end = max_i64(s->end, to);
    }
}

int selection_times(const row_selection *s, int64_t row) {
    int times = 0;
    if (s->shards > 1 && row % s->shards != s->shard) return 0;
    for (int p = 0; p < s->split.count; p++) {
        int64_t from, to;
        split_range(&s->split, p, s->rows, &from, &to);
        times += row >= from && row < to;
    }
    return times;
}

/* The first row from `row` on that is of the shard. */
static int64_t in_shard(const row_selection *s, int64_t row) {
    if (s->shards <= 1) return row;
    int64_t more = (s->shard - row % s->shards + s->shards) % s->shards;
    return row > INT64_MAX - more ? INT64_MAX : row + more;
}

int64_t selection_next(const row_selection *s, int64_t row) {
    int64_t next = s->end;
    for (int p = 0; p < s->split.count; p++) {
        int64_t from, to;
        split_range(&s->split, p, s->rows, &from, &to);
        from = in_shard(s, max_i64(from, row));
        if (from < to) next = min_i64(next, from);
    }
    return next;
}
