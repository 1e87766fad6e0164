/* test_loader.c: packing and the loader on rows made here: what an epoch holds, that bins are
 * never over, documents apart, order a function of the seed, seek the same as reading on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/alloc.h"
#include "common/hash.h"
#include "common/philox.h"
#include "data/loader.h"
#include "data/pack.h"

/* `count` rows of 1 to `longest` tokens; ids say row and place; the first third is not
 * learned. */
static row_set make_rows(int64_t count, int64_t longest, uint64_t seed) {
    row_set set = {0};
    philox_stream s = philox_open(seed, PHILOX_SPLIT, 9, 0, 0);
    int32_t *ids = mem_alloc_array((size_t)longest, sizeof *ids, "test");
    int32_t *labels = mem_alloc_array((size_t)longest, sizeof *labels, "test");
    for (int64_t r = 0; r < count; r++) {
        int64_t n = 1 + philox_word(&s, (uint64_t)r) % (uint64_t)longest;
        for (int64_t i = 0; i < n; i++) {
            ids[i] = (int32_t)(r * 1000 + i);
            labels[i] = i < n / 3 ? LABEL_IGNORED : ids[i];
        }
        assert_int_equal(row_set_append(&set, ids, labels, n), STATUS_OK);
    }
    mem_free(ids);
    mem_free(labels);
    return set;
}

static loader_options packed_options(void) {
    return (loader_options){.sequence_len = 200,
                            .micro_batch_size = 2,
                            .accumulation = 3,
                            .num_epochs = 2,
                            .packing = true,
                            .shuffle = true,
                            .seed = 7};
}

/* Everything that a loader gives, from step `from` on, as one hash. */
static hash128 hash_from(loader *l, int64_t from) {
    assert_int_equal(loader_seek(l, from), STATUS_OK);
    hash_stream *h = hash_open();
    for (;;) {
        const batch_group *g;
        assert_int_equal(loader_next(l, &g), STATUS_OK);
        if (!g) break;
        hash_update(h, &g->index, sizeof g->index);
        hash_update(h, &g->epoch, sizeof g->epoch);
        for (int a = 0; a < g->micro_count; a++) {
            const micro_batch *m = &g->micro[a];
            hash_update(h, m->ids, (size_t)m->tokens * 4);
            hash_update(h, m->targets, (size_t)m->tokens * 4);
            hash_update(h, m->positions, (size_t)m->tokens * 4);
            hash_update(h, m->starts, (size_t)(m->documents + 1) * 4);
            hash_update(h, m->row_index, (size_t)m->documents * 8);
        }
    }
    return hash_close(h);
}

static hash128 hash_run(const row_set *rows, loader_options o) {
    loader *l;
    assert_int_equal(loader_open(&l, rows, &o), STATUS_OK);
    hash128 h = hash_from(l, 0);
    loader_close(l);
    return h;
}

/* One micro-batch against the rows that it names. Returns its targets. */
static int64_t check_micro(const row_set *rows, const micro_batch *m, int *seen) {
    int64_t targets = 0;
    assert_int_equal(m->starts[0], 0);
    assert_int_equal(m->starts[m->documents], m->tokens);
    for (int64_t d = 0; d < m->documents; d++) {
        int64_t row = m->row_index[d], at = m->starts[d], n = row_set_length(rows, row);
        const int32_t *labels = rows->labels + rows->offsets[row];
        assert_int_equal(m->starts[d + 1] - at, n);
        assert_memory_equal(m->ids + at, rows->ids + rows->offsets[row], (size_t)n * 4);
        for (int64_t i = 0; i < n; i++) {
            assert_int_equal(m->positions[at + i], i);
            int32_t want = i + 1 == n || labels[i + 1] == LABEL_IGNORED ? -1 : labels[i + 1];
            assert_int_equal(m->targets[at + i], want);
            targets += want >= 0;
        }
        seen[row]++;
    }
    assert_int_equal(m->target_count, targets);
    return targets;
}

/* Runs a loader over whole epochs: every row with a target exactly once in each. */
static void check_epochs(const row_set *rows, loader_options o) {
    loader *l;
    assert_int_equal(loader_open(&l, rows, &o), STATUS_OK);
    int *seen = calloc((size_t)rows->count, sizeof *seen);
    int64_t groups = 0, longest = 0;
    double epoch = 0;
    const batch_group *g;
    for (;; groups++) {
        assert_int_equal(loader_next(l, &g), STATUS_OK);
        if (!g) break;
        assert_int_equal(g->index, groups);
        assert_true(g->epoch > epoch);
        assert_true(g->micro_count >= 1 && g->micro_count <= o.accumulation);
        int64_t targets = 0, tokens = 0;
        for (int a = 0; a < g->micro_count; a++) {
            assert_true(g->micro[a].tokens <= o.sequence_len * o.micro_batch_size);
            targets += check_micro(rows, &g->micro[a], seen);
            tokens += g->micro[a].tokens;
            if (g->micro[a].tokens > longest) longest = g->micro[a].tokens;
        }
        assert_int_equal(g->targets, targets);
        assert_int_equal(g->tokens, tokens);
        epoch = g->epoch;
        if (epoch == (double)(int64_t)epoch)
            for (int64_t r = 0; r < rows->count; r++) {
                bool kept = o.drop_nothing || row_set_targets(rows, r) > 0;
                assert_int_equal(seen[r], kept ? (int64_t)epoch : 0);
            }
        else
            assert_int_equal(g->micro_count, o.accumulation);
    }
    assert_int_equal(groups, loader_steps(l));
    assert_int_equal(longest, loader_longest_batch(l));
    assert_true(epoch == o.num_epochs);
    free(seen);
    loader_close(l);
}

static void test_pack_invariants(void **state) {
    enum { N = 3000, BIN = 500 };
    static int32_t lengths[N], bin[N];
    packer *p;
    assert_int_equal(pack_open(&p, BIN, N), STATUS_OK);
    for (int round = 0; round < 6; round++) {
        int64_t tokens = 0, n = round == 5 ? 1 : N;
        philox_stream s = philox_open((uint64_t)round, PHILOX_SPLIT, 0, 0, 0);
        for (int i = 0; i < n; i++) {
            lengths[i] =
                1 + (int32_t)(philox_word(&s, (uint64_t)i) % (round == 0 ? BIN : BIN / 3));
            tokens += lengths[i];
        }
        for (int kind = 0; kind < 2; kind++) {
            int64_t bins =
                kind ? pack_in_order(p, lengths, n, bin) : pack_best_fit(p, lengths, n, bin);
            int64_t *load = calloc((size_t)bins, sizeof *load);
            int32_t highest = -1;
            for (int i = 0; i < n; i++) {
                assert_in_range(bin[i], 0, bins - 1);
                assert_true(bin[i] <= highest + 1); /* numbered by first row */
                if (bin[i] > highest) highest = bin[i];
                load[bin[i]] += lengths[i];
            }
            assert_int_equal(highest, bins - 1);
            for (int64_t b = 0; b < bins; b++) assert_in_range(load[b], 1, BIN);
            if (!kind && round &&
                n > 1) /* rows below a third of a bin: no loss but the last bin */
                assert_true(bins <= tokens / BIN + 2);
            free(load);
        }
    }
    pack_close(p);
}

/* Five rows of 31, 29, 17, 14 and 5 tokens fill one bin of 96: fixtures' qwen3-packed case. */
static void test_pack_exactly_full(void **state) {
    static const int64_t lengths[] = {31, 29, 17, 14, 5};
    row_set rows = {0};
    int32_t ids[40] = {0};
    for (int r = 0; r < 5; r++) row_set_append(&rows, ids, NULL, lengths[r]);
    loader_options o = {.sequence_len = 96,
                        .micro_batch_size = 1,
                        .accumulation = 1,
                        .max_steps = 12,
                        .packing = true,
                        .shuffle = true,
                        .seed = 42};
    loader *l;
    assert_int_equal(loader_open(&l, &rows, &o), STATUS_OK);
    assert_int_equal(loader_steps(l), 12);
    assert_int_equal(loader_steps_per_epoch(l), 1);
    assert_true(loader_fill(l) == 1.0);
    for (int step = 0; step < 12; step++) {
        const batch_group *g;
        assert_int_equal(loader_next(l, &g), STATUS_OK);
        assert_int_equal(g->micro_count, 1);
        assert_int_equal(g->micro[0].documents, 5);
        assert_int_equal(g->tokens, 96);
        assert_int_equal(g->targets, 91);
        assert_true(g->epoch == step + 1);
    }
    loader_close(l);
    row_set_free(&rows);
}

static void test_epochs_hold_every_row_once(void **state) {
    row_set rows = make_rows(1000, 150, 1);
    loader_options o = packed_options();
    check_epochs(&rows, o);
    o.window = 64;
    check_epochs(&rows, o);
    o.sequential = true;
    check_epochs(&rows, o);
    o.shuffle = false;
    check_epochs(&rows, o);
    o.packing = false;
    check_epochs(&rows, o);
    o.shuffle = true;
    check_epochs(&rows, o);
    o.group_by_length = true;
    check_epochs(&rows, o);
    o.drop_nothing = true;
    check_epochs(&rows, o);
    row_set_free(&rows);
}

static void test_order_is_a_function_of_the_seed(void **state) {
    row_set rows = make_rows(500, 150, 2);
    for (int kind = 0; kind < 3; kind++) {
        loader_options o = packed_options();
        o.packing = kind == 0;
        o.group_by_length = kind == 2;
        hash128 once = hash_run(&rows, o), again = hash_run(&rows, o);
        assert_true(hash_equal(once, again));
        o.seed++;
        assert_false(hash_equal(once, hash_run(&rows, o)));
    }
    row_set_free(&rows);
}

static void test_epochs_differ_in_order(void **state) {
    row_set rows = make_rows(300, 20, 3);
    loader_options o = {.sequence_len = 20,
                        .micro_batch_size = 300,
                        .accumulation = 1,
                        .num_epochs = 2,
                        .shuffle = true,
                        .drop_nothing = true};
    loader *l;
    const batch_group *first, *second;
    assert_int_equal(loader_open(&l, &rows, &o), STATUS_OK);
    assert_int_equal(loader_next(l, &first), STATUS_OK);
    assert_int_equal(loader_next(l, &second), STATUS_OK); /* `first` is still valid */
    int64_t same = 0, moved = 0;
    for (int i = 0; i < 300; i++) {
        same += first->micro[0].row_index[i] == second->micro[0].row_index[i];
        moved += first->micro[0].row_index[i] != i;
    }
    assert_true(same < 10);
    assert_true(moved > 290);
    loader_close(l);
    o.shuffle = false;
    assert_int_equal(loader_open(&l, &rows, &o), STATUS_OK);
    assert_int_equal(loader_next(l, &first), STATUS_OK);
    for (int i = 0; i < 300; i++) assert_int_equal(first->micro[0].row_index[i], i);
    loader_close(l);
    row_set_free(&rows);
}

static void test_seek_equals_reading_on(void **state) {
    row_set rows = make_rows(200, 150, 4);
    loader_options o = packed_options();
    o.num_epochs = 3;
    loader *l, *other;
    assert_int_equal(loader_open(&l, &rows, &o), STATUS_OK);
    assert_int_equal(loader_open(&other, &rows, &o), STATUS_OK);
    int64_t steps = loader_steps(l);
    assert_true(steps > 20);
    for (int64_t at = steps; at >= 0; at--) {
        assert_int_equal(loader_seek(other, 0), STATUS_OK);
        const batch_group *g = NULL;
        for (int64_t i = 0; i < at; i++) assert_int_equal(loader_next(other, &g), STATUS_OK);
        /* the rest of `other`, read on, against `l`, sought */
        assert_int_equal(loader_seek(l, at), STATUS_OK);
        const batch_group *a, *b;
        assert_int_equal(loader_next(l, &a), STATUS_OK);
        assert_int_equal(loader_next(other, &b), STATUS_OK);
        assert_true(!a == !b);
        if (!a) continue;
        assert_int_equal(a->index, b->index);
        assert_int_equal(a->micro_count, b->micro_count);
        for (int m = 0; m < a->micro_count; m++) {
            assert_int_equal(a->micro[m].tokens, b->micro[m].tokens);
            assert_memory_equal(a->micro[m].ids, b->micro[m].ids,
                                (size_t)a->micro[m].tokens * 4);
        }
    }
    hash128 whole = hash_from(l, 0);
    assert_false(hash_equal(whole, hash_from(l, 1)));
    assert_true(hash_equal(whole, hash_from(l, 0)));
    assert_int_not_equal(loader_seek(l, steps + 1), STATUS_OK);
    assert_int_not_equal(loader_seek(l, -1), STATUS_OK);
    loader_close(l);
    loader_close(other);
    row_set_free(&rows);
}

static int64_t steps_of(const row_set *rows, double epochs, int64_t max_steps) {
    loader_options o = {.sequence_len = 20,
                        .micro_batch_size = 1,
                        .accumulation = 3,
                        .num_epochs = epochs,
                        .max_steps = max_steps,
                        .drop_nothing = true};
    loader *l;
    assert_int_equal(loader_open(&l, rows, &o), STATUS_OK);
    int64_t steps = loader_steps(l);
    double epoch = 0;
    const batch_group *g;
    for (;;) {
        assert_int_equal(loader_next(l, &g), STATUS_OK);
        if (!g) break;
        epoch = g->epoch;
    }
    if (max_steps <= 0) assert_true(epoch >= epochs - 1e-9);
    loader_close(l);
    return steps;
}

static void test_number_of_steps(void **state) {
    row_set rows = make_rows(90, 20, 5); /* 30 groups an epoch */
    assert_int_equal(steps_of(&rows, 1, 0), 30);
    assert_int_equal(steps_of(&rows, 0.1, 0), 3);
    assert_int_equal(steps_of(&rows, 2.5, 0), 75);
    assert_int_equal(steps_of(&rows, 1.01, 0), 31);
    assert_int_equal(steps_of(&rows, 1, 7), 7);
    assert_int_equal(steps_of(&rows, 0, 100), 100);
    row_set_free(&rows);
    rows = make_rows(91, 20, 5); /* the 31st group has one row */
    assert_int_equal(steps_of(&rows, 2, 0), 62);
    row_set_free(&rows);
}

/* Two processes together see what one process sees with twice the accumulation. */
static void test_ranks_share_an_epoch(void **state) {
    row_set rows = make_rows(100, 20, 6);
    int seen[100] = {0};
    for (int rank = 0; rank < 2; rank++) {
        loader_options o = {.sequence_len = 20,
                            .micro_batch_size = 3,
                            .accumulation = 4,
                            .num_epochs = 1,
                            .shuffle = true,
                            .drop_nothing = true,
                            .rank = rank,
                            .world = 2};
        loader *l;
        assert_int_equal(loader_open(&l, &rows, &o), STATUS_OK);
        assert_int_equal(loader_steps(l), 5); /* 34 micro-batches in groups of 8 */
        const batch_group *g;
        for (;;) {
            assert_int_equal(loader_next(l, &g), STATUS_OK);
            if (!g) break;
            for (int a = 0; a < g->micro_count; a++) check_micro(&rows, &g->micro[a], seen);
        }
        loader_close(l);
    }
    for (int r = 0; r < 100; r++) assert_int_equal(seen[r], 1);
    row_set_free(&rows);
}

static void test_length_groups_waste_little(void **state) {
    row_set rows = make_rows(2000, 200, 7);
    loader_options o = {.sequence_len = 200,
                        .micro_batch_size = 8,
                        .accumulation = 1,
                        .num_epochs = 1,
                        .shuffle = true,
                        .group_by_length = true,
                        .drop_nothing = true};
    loader *l;
    assert_int_equal(loader_open(&l, &rows, &o), STATUS_OK);
    int64_t spread = 0, batches = 0;
    const batch_group *g;
    for (;; batches++) {
        assert_int_equal(loader_next(l, &g), STATUS_OK);
        if (!g) break;
        int64_t low = 1 << 30, high = 0;
        for (int64_t d = 0; d < g->micro[0].documents; d++) {
            int64_t n = g->micro[0].starts[d + 1] - g->micro[0].starts[d];
            if (n < low) low = n;
            if (n > high) high = n;
        }
        spread += high - low;
    }
    assert_true(spread / batches < 20); /* at random it is 150 */
    loader_close(l);
    row_set_free(&rows);
}

static void test_refusals(void **state) {
    row_set rows = make_rows(10, 50, 8), none = {0};
    loader_options o = packed_options();
    loader *l;
    o.sequence_len = 5;
    assert_int_equal(loader_open(&l, &rows, &o), STATUS_DATA);
    assert_non_null(strstr(status_message(), "sequence_len is 5"));
    o = packed_options();
    o.num_epochs = 0;
    assert_int_equal(loader_open(&l, &rows, &o), STATUS_USAGE);
    o.num_epochs = 1e-12;
    assert_int_equal(loader_open(&l, &rows, &o), STATUS_USAGE);
    o = packed_options();
    o.micro_batch_size = 0;
    assert_int_equal(loader_open(&l, &rows, &o), STATUS_USAGE);
    o = packed_options();
    o.sequence_len = INT64_MAX;
    assert_int_equal(loader_open(&l, &rows, &o), STATUS_USAGE);
    o = packed_options();
    assert_int_equal(loader_open(&l, &none, &o), STATUS_DATA);
    int32_t ids[4] = {1, 2, 3, 4}, masked[4] = {5, -100, -100, -100};
    row_set_append(&none, ids, masked, 4); /* its first label has nothing before it */
    assert_int_equal(loader_open(&l, &none, &o), STATUS_DATA);
    row_set_free(&none);
    row_set_free(&rows);
}

static void test_allocation_failures(void **state) {
    row_set rows = make_rows(50, 50, 9);
    size_t blocks = mem_blocks();
    loader_options o = packed_options();
    for (uint64_t k = 1;; k++) {
        loader *l;
        mem_fail_at(k, 0);
        status s = loader_open(&l, &rows, &o);
        mem_fail_at(0, 0);
        if (s == STATUS_OK) {
            loader_close(l);
            assert_true(k > 20);
            break;
        }
        assert_int_equal(s, STATUS_MEMORY);
        assert_int_equal(mem_blocks(), blocks);
    }
    row_set_free(&rows);
}

/* After opening nothing is allocated, whatever the loader does. */
static void test_no_growth(void **state) {
    row_set rows = make_rows(300, 150, 10);
    loader_options o = packed_options();
    loader *l;
    assert_int_equal(loader_open(&l, &rows, &o), STATUS_OK);
    uint64_t count = mem_count();
    hash_from(l, 0);
    assert_int_equal(mem_count() - count, 1); /* the hash's own */
    loader_close(l);
    row_set_free(&rows);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pack_invariants),
        cmocka_unit_test(test_pack_exactly_full),
        cmocka_unit_test(test_epochs_hold_every_row_once),
        cmocka_unit_test(test_order_is_a_function_of_the_seed),
        cmocka_unit_test(test_epochs_differ_in_order),
        cmocka_unit_test(test_seek_equals_reading_on),
        cmocka_unit_test(test_number_of_steps),
        cmocka_unit_test(test_ranks_share_an_epoch),
        cmocka_unit_test(test_length_groups_waste_little),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_allocation_failures),
        cmocka_unit_test(test_no_growth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
