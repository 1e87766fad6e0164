/* test_common.c: the ground that everything stands on: messages, the accounting allocator and
 * its injected failures, exact 16-bit conversions, Philox's known answers, hashes, workers. */
#include "common/checked.h"
#include "common/half.h"
#include "common/hash.h"
#include "common/json.h"
#include "common/log.h"
#include "common/philox.h"
#include "common/worker.h"
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>

/* ---- status ---- */

static status inner(void) {
    return status_fail(STATUS_DATA, "rows.jsonl:%d: bad", 17);
}
static status outer(void) {
    TRY(inner());
    fail();
    return STATUS_OK;
}

static void messages_are_made_once_and_prefixed(void **state) {
    assert_int_equal(outer(), STATUS_DATA);
    assert_string_equal(status_message(), "rows.jsonl:17: bad");
    assert_int_equal(status_prefix(STATUS_DATA, "dataset %d", 2), STATUS_DATA);
    assert_string_equal(status_message(), "dataset 2: rows.jsonl:17: bad");
    status_fail(STATUS_IO, "again: %s", status_message()); /* from its own old message */
    assert_string_equal(status_message(), "again: dataset 2: rows.jsonl:17: bad");
    char *big = malloc(10000);
    memset(big, 'x', 9999), big[9999] = 0;
    status_fail(STATUS_IO, "%s", big);
    assert_int_equal(strlen(status_message()), 4095);
    status_prefix(STATUS_IO, "%s", big);
    assert_int_equal(strlen(status_message()), 4095);
    status_prefix(STATUS_IO, "short");
    assert_memory_equal(status_message(), "short: xxx", 10);
    assert_true(strlen(status_message()) <= 4095);
    free(big);
    status_fail(STATUS_DATA, "%s: \x1b[31mred", "two\nlines\r\n");
    assert_string_equal(status_message(), "two lines  :  [31mred"); /* one line, no colours */
    status_prefix(STATUS_DATA, "a\tb");
    assert_string_equal(status_message(), "a b: two lines  :  [31mred");
    status_clear();
    assert_string_equal(status_message(), "");
}

/* ---- the allocator ---- */

static void blocks_are_aligned_zeroed_and_counted(void **state) {
    size_t used = mem_used(), blocks = mem_blocks();
    char *a = mem_alloc(1000, "a"), *zero = mem_alloc(0, "nothing");
    assert_non_null(zero);
    assert_int_equal((uintptr_t)a % 64, 0);
    for (int i = 0; i < 1000; i++) assert_int_equal(a[i], 0);
    assert_int_equal(mem_used() - used, 1000);
    assert_int_equal(mem_blocks() - blocks, 2);
    assert_true(mem_peak() >= mem_used());
    memset(a, 7, 1000);
    a = mem_resize(a, 5000, "a");
    for (int i = 0; i < 1000; i++) assert_int_equal(a[i], 7);
    a = mem_resize(a, 10, "a");
    assert_int_equal(mem_used() - used, 10);
    mem_free(a), mem_free(zero), mem_free(NULL);
    char *text = mem_printf("%s-%d", "x", 5), *copy = mem_strdup(text),
         *part = mem_strndup(text, 2);
    assert_string_equal(text, "x-5");
    assert_string_equal(copy, "x-5");
    assert_string_equal(part, "x-");
    mem_free(text), mem_free(copy), mem_free(part);
    assert_int_equal(mem_used(), used);
    assert_int_equal(mem_blocks(), blocks);
}

static void impossible_sizes_fail_cleanly(void **state) {
    assert_null(mem_alloc(SIZE_MAX, "too much"));
    assert_non_null(strstr(status_message(), "too much"));
    assert_null(mem_alloc(SIZE_MAX / 2, "half of it"));
    assert_null(mem_alloc_array(SIZE_MAX / 4, 8, "a product"));
    int *items = NULL;
    size_t capacity = 0;
    assert_int_equal(mem_grow(&items, &capacity, SIZE_MAX, sizeof *items, "grown"), -1);
    assert_int_equal(mem_grow(&items, &capacity, SIZE_MAX / 2 + 2, 1, "grown"), -1);
    assert_null(items);
    assert_int_equal(capacity, 0);
    for (size_t n = 1; n < 1000; n++) {
        assert_int_equal(mem_grow(&items, &capacity, n, sizeof *items, "grown"), 0);
        items[n - 1] = (int)n;
    }
    for (int n = 1; n < 1000; n++) assert_int_equal(items[n - 1], n);
    mem_fail_at(1, 0);
    assert_int_equal(mem_grow(&items, &capacity, 5000, sizeof *items, "grown"), -1);
    mem_fail_at(0, 0);
    assert_int_equal(items[998], 999); /* untouched */
    mem_free(items);
}

static void the_kth_allocation_fails(void **state) {
    mem_fail_at(3, 0);
    void *blocks[5];
    for (int i = 0; i < 5; i++) blocks[i] = mem_alloc(8, "one of five");
    for (int i = 0; i < 5; i++) assert_true((blocks[i] == NULL) == (i == 2));
    for (int i = 0; i < 5; i++) mem_free(blocks[i]);
    mem_fail_at(2, 1);
    for (int i = 0; i < 5; i++) blocks[i] = mem_alloc(8, "one of five");
    mem_fail_at(0, 0);
    for (int i = 0; i < 5; i++) assert_true((blocks[i] == NULL) == (i >= 1));
    for (int i = 0; i < 5; i++) mem_free(blocks[i]);
}

static void products_and_sums_are_checked(void **state) {
    uint64_t u;
    int64_t i;
    assert_true(checked_mul_u64(1ull << 32, (1ull << 32) - 1, &u));
    assert_false(checked_mul_u64(1ull << 32, 1ull << 32, &u));
    assert_false(checked_add_u64(UINT64_MAX, 1, &u));
    assert_true(checked_mul_i64(-(1ll << 31), 1ll << 32, &i) && i == INT64_MIN);
    assert_false(checked_mul_i64(1ll << 31, 1ll << 32, &i));
    assert_false(checked_add_i64(INT64_MAX, 1, &i));
    assert_false(checked_add_i64(INT64_MIN, -1, &i));
    assert_int_equal(round_up_i64(0, 64), 0);
    assert_int_equal(round_up_i64(1, 64), 64);
    assert_int_equal(round_up_i64(64, 64), 64);
}

/* ---- numbers ---- */

/* All 65,536 values there and back, against the formats' definitions in double. */
static double half_value(unsigned h, int exponent_bits, int mantissa_bits) {
    int bias = (1 << (exponent_bits - 1)) - 1;
    int e = (int)(h >> mantissa_bits) & ((1 << exponent_bits) - 1);
    double m = h & ((1u << mantissa_bits) - 1), sign = h >> 15 ? -1 : 1;
    if (e == (1 << exponent_bits) - 1) return m != 0 ? (double)NAN : sign * (double)INFINITY;
    if (!e) return sign * ldexp(m, 1 - bias - mantissa_bits);
    return sign * ldexp(m + (1 << mantissa_bits), e - bias - mantissa_bits);
}

static void sixteen_bit_values_are_exact(void **state) {
    for (unsigned h = 0; h < 65536; h++) {
        double b = half_value(h, 8, 7), f = half_value(h, 5, 10);
        float x = bf16_to_f32((uint16_t)h), y = f16_to_f32((uint16_t)h);
        if (isnan(b))
            assert_true(isnan(x) && isnan(bf16_to_f32(f32_to_bf16(x))));
        else
            assert_true(x == b && !signbit(x) == !signbit(b) && f32_to_bf16(x) == h);
        if (isnan(f))
            assert_true(isnan(y) && isnan(f16_to_f32(f32_to_f16(y))));
        else
            assert_true(y == f && !signbit(y) == !signbit(f) && f32_to_f16(y) == h);
    }
}

/* Between two neighbours: the nearer one, the middle to the even one, and one ulp either side.
 */
static void rounding_is_to_nearest_even(void **state) {
    for (unsigned h = 0; h < 65535; h++) {
        for (int kind = 0; kind < 2; kind++) {
            int e = kind ? 8 : 5, m = kind ? 7 : 10;
            uint16_t (*round)(float) = kind ? f32_to_bf16 : f32_to_f16;
            double a = half_value(h, e, m), b = half_value(h + 1, e, m);
            if (!isfinite(a) || (h & 0x7fff) == 0x7fff || isnan(b)) continue;
            /* infinity stands where the next finite value would be */
            if (isinf(b)) b = 2 * a - half_value(h - 1, e, m);
            float middle = (float)((a + b) / 2);
            if ((double)middle != (a + b) / 2) continue; /* fp32 subnormals' own limits */
            unsigned even = h & 1 ? h + 1 : h;
            assert_int_equal(round(middle), even);
            assert_int_equal(round(nextafterf(middle, (float)(a * 2 - b))), h);
            assert_int_equal(round(nextafterf(middle, (float)(b * 2 - a))), h + 1);
        }
    }
    assert_int_equal(f32_to_f16(65504), 0x7bff);
    assert_int_equal(f32_to_f16(65520), 0x7c00);
    assert_int_equal(f32_to_f16(nextafterf(65520, 0)), 0x7bff);
    assert_int_equal(f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(f32_to_f16(0x1p-25f), 0);
    assert_int_equal(f32_to_f16(nextafterf(0x1p-25f, 1)), 1);
    assert_int_equal(f32_to_f16(-1e-30f), 0x8000);
    assert_int_equal(f32_to_bf16(3.4e38f), 0x7f80);
    assert_int_equal(f32_to_bf16(bits_float(0x7f800001)), 0x7fc0); /* a NaN stays one */
}

static void philox_gives_the_known_answers(void **state) {
    /* Random123's known answers: counter and key all zeros, all ones, digits of pi */
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        philox_stream s = {{cases[i].key[0], cases[i].key[1]},
                           {cases[i].counter[1], cases[i].counter[2], cases[i].counter[3]}};
        uint32_t out[4];
        philox_block(&s, cases[i].counter[0], out);
        assert_memory_equal(out, cases[i].out, sizeof out);
        if (!i)
            for (uint64_t e = 0; e < 4; e++) assert_int_equal(philox_word(&s, e), out[e]);
    }
    philox_stream s =
        philox_open(0x123456789abcdef0u, PHILOX_DROPOUT, 5, 77, 0xfedcba9876543210u);
    assert_true(s.key[0] == 0x9abcdef0 && s.key[1] == 0x12345678);
    assert_true(s.counter[0] == (1 | 5 << 8 | 77 << 16) && s.counter[1] == 0x76543210 &&
                s.counter[2] == 0xfedcba98);
    assert_true(philox_uniform(0) == 0x1p-33f && philox_uniform(UINT32_MAX) == 1);
    assert_int_equal(philox_drop_threshold(0), 0);
    assert_int_equal(philox_drop_threshold(0.5), 1ull << 31);
    assert_int_equal(philox_drop_threshold(0.1), 429496730);
    int64_t kept = 0;
    for (uint64_t e = 0; e < 100000; e++)
        kept += philox_word(&s, e) >= philox_drop_threshold(0.1);
    assert_true(llabs(kept - 90000) < 500); /* 5 sigma */
}

static void hashes_stream_and_print(void **state) {
    hash128 empty = hash_bytes("", 0), back;
    char text[HASH_TEXT];
    hash_format(empty, text);
    assert_string_equal(text, "99aa06d3014798d86001c324468d497f"); /* XXH3-128 of nothing */
    assert_int_equal(hash_parse(text, &back), 0);
    assert_true(hash_equal(empty, back));
    assert_int_equal(hash_parse("99aa06d3014798d86001c324468d497", &back), -1);
    assert_int_equal(hash_parse("99aa06d3014798d86001c324468d497F", &back), -1);
    assert_int_equal(hash_parse("99aa06d3014798d86001c324468d497f0", &back), -1);
    unsigned char data[5000];
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)noise(&seed);
    hash_stream *h = hash_open();
    assert_non_null(h);
    for (size_t at = 0; at < sizeof data; at += 250) hash_update(h, data + at, 250);
    assert_true(hash_equal(hash_close(h), hash_bytes(data, sizeof data)));
    data[4999] ^= 1;
    assert_false(hash_equal(hash_bytes(data, sizeof data), hash_bytes(data, sizeof data - 1)));
}

/* ---- workers ---- */

enum { TASKS = 200 };
typedef struct task {
    int *order, *next, number;
} task;

static status run_task(void *context) {
    task *t = context;
    if (t->number % 50 == 7) usleep(2000);
    t->order[(*t->next)++] = t->number;
    return STATUS_OK;
}
static status run_failing(void *context) {
    return status_fail(STATUS_IO, "task %d: the disk is gone", *(int *)context);
}

static void workers_keep_order(void **state) {
    worker *w;
    int order[TASKS], next = 0;
    task tasks[TASKS];
    assert_ok(worker_open(&w, "orderly", 4));
    for (int i = 0; i < TASKS; i++) {
        tasks[i] = (task){order, &next, i};
        assert_int_equal(worker_give(w, run_task, &tasks[i]), i + 1);
    }
    assert_ok(worker_wait(w, TASKS / 2));
    assert_true(worker_done(w, TASKS / 2));
    assert_ok(worker_wait(w, TASKS));
    assert_int_equal(next, TASKS);
    for (int i = 0; i < TASKS; i++) assert_int_equal(order[i], i);
    worker_close(w);
    worker_close(NULL);
    next = 0; /* closing runs what was given */
    assert_ok(worker_open(&w, "closing", 64));
    for (int i = 0; i < 20; i++) worker_give(w, run_task, &tasks[i]);
    worker_close(w);
    assert_int_equal(next, 20);
}

static void a_failed_task_sticks(void **state) {
    worker *w;
    int order[4], next = 0, number = 3;
    task t = {order, &next, 0};
    assert_ok(worker_open(&w, "failing", 8));
    uint64_t good = worker_give(w, run_task, &t);
    uint64_t bad = worker_give(w, run_failing, &number);
    uint64_t after = worker_give(w, run_task, &t);
    status_clear();
    assert_fails(worker_wait(w, bad), STATUS_IO, "task 3: the disk is gone");
    status_clear();
    assert_fails(worker_wait(w, after), STATUS_IO, "task 3: the disk is gone");
    assert_true(worker_done(w, good));
    assert_int_equal(next, 1); /* the later one was skipped */
    worker_close(w);
    size_t before = mem_blocks();
    for (uint64_t k = 1; k < 3; k++) {
        mem_fail_at(k, 0);
        assert_int_equal(worker_open(&w, "none", 2), STATUS_MEMORY);
        mem_fail_at(0, 0);
        assert_null(w);
        assert_int_equal(mem_blocks(), before);
    }
}

/* ---- log ---- */

static void lines_are_whole_and_counted(void **state) {
    char path[512], *back;
    snprintf(path, sizeof path, "%s", scratch("stderr"));
    int saved = dup(STDERR_FILENO), fd = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);
    assert_true(saved >= 0 && fd >= 0);
    int before = log_warnings();
    char *big = malloc(20000);
    memset(big, 'y', 19999), big[19999] = 0;
    dup2(fd, STDERR_FILENO);
    log_info("step %d", 3);
    log_progress("not off a terminal");
    log_warn("careful");
    log_quiet(true);
    log_info("unheard");
    log_warn("heard");
    log_quiet(false);
    log_info("%s", big);
    dup2(saved, STDERR_FILENO);
    close(saved), close(fd), free(big);
    assert_int_equal(log_warnings() - before, 2);
    size_t n;
    assert_ok(file_read_all(path, 1 << 20, &back, &n));
    static const char start[] = "step 3\nwarning: careful\nwarning: heard\nyyy";
    assert_memory_equal(back, start, sizeof start - 1);
    assert_true(n < 8192 + 100 && back[n - 1] == '\n');
    assert_null(strchr(back, '\r'));
    assert_null(strchr(back, 033));
    mem_free(back);
}

/* A sanitizer's malloc should fail as the real one does. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "allocator_may_return_null=1";
}
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) {
    return "allocator_may_return_null=1";
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_are_made_once_and_prefixed),
        cmocka_unit_test(blocks_are_aligned_zeroed_and_counted),
        cmocka_unit_test(impossible_sizes_fail_cleanly),
        cmocka_unit_test(the_kth_allocation_fails),
        cmocka_unit_test(products_and_sums_are_checked),
        cmocka_unit_test(sixteen_bit_values_are_exact),
        cmocka_unit_test(rounding_is_to_nearest_even),
        cmocka_unit_test(philox_gives_the_known_answers),
        cmocka_unit_test(hashes_stream_and_print),
        cmocka_unit_test(workers_keep_order),
        cmocka_unit_test(a_failed_task_sticks),
        cmocka_unit_test(lines_are_whole_and_counted),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
