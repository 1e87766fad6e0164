/* test_feed.c: streaming: every row once an epoch, the same groups again from any place,
 * memory that does not grow with the files, and what goes wrong on the way. */
#include "mini_dataset.h"
#include "parquet_made.h"

#include "data/feed.h"

#include <zlib.h>

enum { ROWS = 2100, STEPS = 500, LENGTH = 16 };

static const loader_options usual = {.sequence_len = LENGTH,
                                     .micro_batch_size = 2,
                                     .accumulation = 2,
                                     .max_steps = STEPS,
                                     .packing = true,
                                     .shuffle = true,
                                     .seed = 5};

/* Three files, the last one compressed; row i has i % 5 + 2 tokens, the second and third say
 * i. */
static dataset_source make_files(void) {
    static const char *const files[] = {"part-*"};
    static char folder[300];
    snprintf(folder, sizeof folder, "%s", scratch_folder("stream"));
    for (int part = 0, i = 0; part < 3; part++) {
        char name[100];
        snprintf(name, sizeof name, "stream/part-%d.jsonl", part);
        gzFile f = gzopen(scratch(name), part == 2 ? "w" : "wT");
        for (int end = i + 700; i < end; i++) {
            gzprintf(f, "{\"input_ids\":[1,%d,%d", i / 100, i % 100);
            for (int k = 0; k < i % 5; k++) gzprintf(f, ",7");
            gzprintf(f, "]}\n");
        }
        gzclose(f);
    }
    return (dataset_source){.path = folder, .files = files, .file_count = 1};
}

/* The same number of texts as a CSV file, and as a Parquet file of three row groups. */
static dataset_source make_csv(void) {
    FILE *f = fopen(scratch("texts.csv"), "w");
    fprintf(f, "id,text\n");
    for (int i = 0; i < ROWS; i++) fprintf(f, "%d,\"%d,%.*s\"\n", i, i, i % 7, "abcdefg");
    fclose(f);
    static char path[300];
    snprintf(path, sizeof path, "%s", scratch("texts.csv"));
    return (dataset_source){.path = path, .type = "completion"};
}

static dataset_source make_parquet(void) {
    static const made_element elements[] = {{"s", PARQUET_GROUP, .children = 1},
                                            {"text", PARQUET_BYTES, .converted = 1}};
    static made_file f;
    static bytes body;
    static char path[300];
    made_begin(&f);
    for (int group = 0, i = 0; group < 3; group++) {
        made_chunk(&f, PARQUET_BYTES, CODEC_ZSTD);
        for (int page = 0; page < 7; page++) {
            body.n = 0;
            for (int end = i + 100; i < end; i++) {
                char text[20];
                snprintf(text, sizeof text, "%d", i);
                put_string(&body, text);
            }
            made_page(&f, (made_levels){100}, ENCODING_PLAIN, &body);
        }
        made_group(&f, 700);
    }
    made_end(&f, elements, 2);
    snprintf(path, sizeof path, "%s", scratch("texts.parquet"));
    put_file(path, f.b.data, f.b.n);
    return (dataset_source){.path = path, .type = "completion", .split = "train[1%:]"};
}

typedef struct streamed {
    dataset_source source;
    dataset_options options;
    row_stream *stream;
    dataset sample;
    feed *f;
} streamed;

static status stream_open(streamed *s, int64_t window, const loader_options *o) {
    s->options = (dataset_options){.sequence_len = LENGTH, .tokenizer = mini};
    TRY(row_stream_open(&s->stream, &s->source, &s->options));
    TRY(dataset_open_first(&s->sample, s->stream, window, &s->options));
    return feed_open_stream(&s->f, s->stream, window, &s->sample.train, o);
}

static void stream_close(streamed *s) {
    feed_close(s->f);
    dataset_close(&s->sample);
    row_stream_close(s->stream);
}

/* What a group holds, as one number. */
static uint64_t sum_of(const batch_group *g) {
    uint64_t sum = (uint64_t)g->index * 31 + (uint64_t)g->micro_count;
    for (int a = 0; a < g->micro_count; a++)
        for (int64_t i = 0; i < g->micro[a].tokens; i++)
            sum = sum * 1000003 + (uint64_t)g->micro[a].ids[i] * 64 +
                  (uint64_t)g->micro[a].positions[i];
    return sum;
}

static void count_rows(const batch_group *g, int *seen) {
    for (int a = 0; a < g->micro_count; a++)
        for (int64_t d = 0; d < g->micro[a].documents; d++) {
            const int32_t *ids = g->micro[a].ids + g->micro[a].starts[d];
            seen[ids[1] * 100 + ids[2]]++;
        }
}

static void test_every_row_once(void **state) {
    streamed s = {.source = make_files()};
    assert_ok(stream_open(&s, 600, &usual));
    assert_int_equal(feed_steps(s.f), STEPS);
    assert_int_equal(feed_longest_batch(s.f), 2 * LENGTH);
    int seen[ROWS] = {0};
    int64_t epoch = 0, windows = 0, last = -1;
    for (int i = 0; i < STEPS; i++) {
        const batch_group *g;
        feed_place place;
        assert_ok(feed_next(s.f, &g, &place));
        assert_int_equal(g->index, i);
        assert_true(g->micro_count >= 1 && g->tokens <= 4 * LENGTH);
        windows += place.group != last;
        last = place.group;
        if (place.epoch != epoch) {
            for (int r = 0; r < ROWS; r++) assert_int_equal(seen[r], epoch + 1);
            assert_int_equal(place.epoch, ++epoch);
            assert_int_equal(place.row, 0);
        }
        count_rows(g, seen);
    }
    assert_true(epoch >= 2);
    assert_int_equal(windows / (epoch + 1), 3); /* of batches of 512 rows or a file's rest */
    const batch_group *g;
    feed_place place;
    assert_ok(feed_next(s.f, &g, &place));
    assert_null(g);
    stream_close(&s);
}

/* From the place of the group before, as a checkpoint has it. */
static void expect_the_same(dataset_source source) {
    static uint64_t sums[STEPS];
    static feed_place places[STEPS + 1];
    streamed s = {.source = source}, t = {.source = source};
    const batch_group *g;
    feed_place place;
    assert_ok(stream_open(&s, 600, &usual));
    for (int i = 0; i < STEPS; i++) {
        assert_ok(feed_next(s.f, &g, &places[i + 1]));
        sums[i] = sum_of(g);
    }
    assert_true(sums[0] != sums[1]);
    assert_ok(stream_open(&t, 600, &usual));
    for (int k = 0; k < STEPS; k += trials(23, 1)) {
        assert_ok(feed_seek(t.f, &places[k], k));
        for (int i = k; i < k + 3 && i < STEPS; i++) {
            assert_ok(feed_next(t.f, &g, &place));
            assert_int_equal(g->index, i);
            if (sum_of(g) != sums[i]) fail_msg("group %d is another from %d on", i, k);
            assert_memory_equal(&place, &places[i + 1], sizeof place);
        }
    }
    feed_place wrong = {.group = 5, .row = 3};
    assert_fails(feed_seek(t.f, &wrong, 2), STATUS_DATA, "no group 2");
    wrong = (feed_place){.row = 1500};
    assert_fails(feed_seek(t.f, &wrong, STEPS), STATUS_DATA, "the files have changed");
    stream_close(&t);
    stream_close(&s);
}

static void test_the_same_again(void **state) {
    expect_the_same(make_files());
    expect_the_same(make_csv());
    expect_the_same(make_parquet());
}

/* Rows that are valid until the call after the next, across windows too. */
static void test_groups_stay(void **state) {
    streamed s = {.source = make_files()};
    loader_options o = usual;
    o.accumulation = 64; /* few groups a window */
    o.max_steps = 60;
    const batch_group *before = NULL, *g;
    feed_place place;
    uint64_t sum = 0;
    assert_ok(stream_open(&s, 1, &o));
    for (int i = 0; i < 60; i++) {
        assert_ok(feed_next(s.f, &g, &place));
        if (before) assert_true(sum_of(before) == sum);
        before = g;
        sum = sum_of(g);
    }
    stream_close(&s);
}

/* Most memory at any step, over a file of so many rows. */
static size_t memory_for(int rows) {
    streamed s = {.source = numbers("many.jsonl", 0, rows)};
    loader_options o = usual;
    const batch_group *g;
    feed_place place;
    size_t before = mem_used(), most = 0;
    o.max_steps = 3000;
    assert_ok(stream_open(&s, 500, &o));
    for (int i = 0; i < o.max_steps; i++) {
        assert_ok(feed_next(s.f, &g, &place));
        if (mem_used() - before > most) most = mem_used() - before;
    }
    stream_close(&s);
    assert_int_equal(mem_used(), before);
    return most;
}

static void test_bounded_memory(void **state) {
    size_t small = memory_for(4000), large = memory_for(400000);
    if (large > small + (512 << 10))
        fail_msg("%zu bytes for 4,000 rows, %zu for 400,000", small, large);
}

static void test_failures(void **state) {
    streamed s = {.source = numbers("n.jsonl", 0, 5)};
    loader_options o = usual;
    o.max_steps = 0;
    assert_fails(stream_open(&s, 10, &o), STATUS_USAGE, "max_steps");
    stream_close(&s);
    const char *path = scratch("late.jsonl");
    FILE *f = fopen(path, "w");
    for (int i = 0; i < 3000; i++) fprintf(f, i == 2900 ? "{\n" : "{\"input_ids\":[1,2]}\n");
    fclose(f);
    s = (streamed){.source = {.path = path}};
    status e = stream_open(&s, 500, &usual);
    const batch_group *g;
    feed_place place;
    int steps = 0;
    while (e == STATUS_OK && (e = feed_next(s.f, &g, &place)) == STATUS_OK && g) steps++;
    assert_int_equal(e, STATUS_DATA);
    assert_non_null(strstr(status_message(), "late.jsonl:2901"));
    assert_true(steps > 10);
    stream_close(&s);
    put_text(path, "{\"input_ids\":[1]}\n");
    s = (streamed){.source = {.path = path}};
    assert_fails(stream_open(&s, 500, &usual), STATUS_DATA, "no row is left");
    stream_close(&s);
}

/* The k-th allocation fails, on whichever thread: it is said, and nothing is left behind. */
static void test_memory(void **state) {
    dataset_source source = numbers("n.jsonl", 0, 700);
    size_t before = mem_used();
    status e = STATUS_MEMORY;
    for (uint64_t k = 1; e == STATUS_MEMORY; k += 1 + k / 50) {
        streamed s = {.source = source};
        const batch_group *g;
        feed_place place;
        mem_fail_at(k, k % 2);
        e = stream_open(&s, 100, &usual);
        for (int i = 0; e == STATUS_OK && i < 40; i++) e = feed_next(s.f, &g, &place);
        if (e == STATUS_OK) e = feed_seek(s.f, &place, 39);
        mem_fail_at(0, 0);
        stream_close(&s);
        assert_true(e == STATUS_OK || e == STATUS_MEMORY);
        assert_int_equal(mem_used(), before);
    }
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_row_once), cmocka_unit_test(test_the_same_again),
        cmocka_unit_test(test_groups_stay),    cmocka_unit_test(test_bounded_memory),
        cmocka_unit_test(test_failures),       cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
