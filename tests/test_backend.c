/* test_backend.c: tensors' sizes and windows, the table's costs, and the CPU back end as a
 * machine: memory, copy queues, events, errors that stick. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "autograd/backend.h"
#include "common/alloc.h"
#include "common/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- tensors ---- */

static void test_plain_formats(void **state) {
    int64_t bytes;
    tensor_format f = format_of(DTYPE_BF16, 37, 172);
    assert_int_equal(format_bytes(&f, &bytes), STATUS_OK);
    assert_int_equal(bytes, 37 * 172 * 2);
    f = format_of(DTYPE_F32, 1ll << 20,
                  1ll << 12); /* 2^32 elements: more than an int counts */
    assert_int_equal(format_bytes(&f, &bytes), STATUS_OK);
    assert_int_equal(bytes, 1ll << 34);
    f = format_of(DTYPE_F32, 0, 5);
    assert_int_equal(format_bytes(&f, &bytes), STATUS_OK);
    assert_int_equal(bytes, 0);
}

static void test_impossible_formats(void **state) {
    int64_t bytes;
    const tensor_format bad[] = {
        format_of(DTYPE_F32, INT64_MAX, 2), format_of(DTYPE_U8, 1ll << 31, 1ll << 30),
        format_of(DTYPE_F32, -1, 4),        {DTYPE_NF4, 4, 64, 0, false},
        {DTYPE_NF4, 4, 64, 63, false},      {DTYPE_FP4, 4, 64, 8192, true},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(format_bytes(&bad[i], &bytes), STATUS_MODEL);
}

/* Parts are aligned, in order, do not overlap, and hold what they must. */
static void check_4bit(int64_t rows, int64_t cols, bool nested) {
    tensor_format f = format_4bit(DTYPE_NF4, rows, cols, nested);
    int64_t bytes, n = rows * cols, blocks = (n + 63) / 64;
    assert_int_equal(format_bytes(&f, &bytes), STATUS_OK);
    format_parts p = format_parts_of(&f);
    assert_int_equal(p.blocks, blocks);
    assert_int_equal(p.nests, nested ? (blocks + 255) / 256 : 0);
    assert_true(p.absmax >= (n + 1) / 2 && p.absmax2 >= p.absmax + blocks * (nested ? 1 : 4));
    assert_true(p.map >= p.absmax2 + 4 * p.nests && p.code >= p.map + (nested ? 1024 : 0));
    assert_true(p.offset >= p.code + 64 && bytes == p.offset + 4);
    assert_int_equal((p.absmax | p.absmax2 | p.map | p.code | p.offset) % TENSOR_ALIGN, 0);
    assert_true(bytes < (n + 1) / 2 + blocks * 4 + 4 * TENSOR_ALIGN + 1200);
}

static void test_4bit_parts(void **state) {
    for (int nested = 0; nested < 2; nested++) {
        check_4bit(1, 1, nested);
        check_4bit(37, 172, nested);
        check_4bit(129, 129, nested);
        check_4bit(1024, 257, nested);
    }
}

static void test_windows(void **state) {
    float x[6 * 4];
    tensor_format f = format_of(DTYPE_F32, 6, 4);
    tensor t = tensor_at(&f, x), rows = tensor_rows(&t, 2, 3),
           columns = tensor_columns(&rows, 1, 2);
    assert_ptr_equal(rows.data, x + 8);
    assert_ptr_equal(columns.data, x + 9);
    assert_true(columns.rows == 3 && columns.cols == 2 && columns.stride == 4);
    tensor absent = tensor_at(&f, NULL);
    absent = tensor_rows(&absent, 1, 2);
    assert_null(absent.data);
}

/* ---- the table ---- */

static void test_flops(void **state) {
    op_attr attr = {.linear = {.parts = 2, .in = 10, .out = {20, 30}, .rank = {4, 0}}};
    op_shape s = {.op = OP_LINEAR, .attr = &attr, .compute = DTYPE_F32, .rows = 7};
    const operation_row *row = operation_get(OP_LINEAR);
    assert_true(row->flops(&s) == 2 * 7 * (10.0 * 50 + 4 * (10 + 20)));
    s.backward = true, s.gradients = 1;
    assert_true(row->flops(&s) == 2 * 7 * (10.0 * 50 + 4 * (20 + 10)));
    s.gradients = 1u << linear_w(1);
    assert_true(row->flops(&s) == 2 * 7 * 10.0 * 30);
}

static void test_table(void **state) {
    for (int op = 0; op < OP_COUNT; op++) {
        const operation_row *row = operation_get((operation)op);
        uint32_t inputs = (1u << row->inputs) - 1;
        assert_int_equal(row->op, op);
        assert_true(row->inputs <= OP_INPUTS && row->outputs <= OP_OUTPUTS);
        assert_int_equal((row->optional_inputs | row->state_inputs | row->differentiable |
                          row->reads_inputs) &
                             ~inputs,
                         0);
        assert_int_equal(row->has_backward, row->differentiable != 0);
        assert_non_null(row->flops);
        assert_non_null(row->bytes);
    }
}

/* ---- the back end ---- */

static backend *opened(int threads) {
    backend *b;
    if (backend_cpu_open(&b, threads) != STATUS_OK) fail_msg("%s", status_message());
    return b;
}

static void test_memory(void **state) {
    backend *b = opened(0);
    void *base;
    assert_int_equal(b->table->reserve(b, false, 1 << 20, &base), STATUS_OK);
    assert_int_equal((uintptr_t)base % (uintptr_t)b->table->alignment, 0);
    for (int i = 0; i < 1 << 20; i += 4096) assert_int_equal(((char *)base)[i], 0);
    b->table->fill(b, base, 0xff, 100);
    assert_int_equal(((uint8_t *)base)[99], 0xff);
    b->table->release(b, false, base, 1 << 20);
    assert_int_equal(b->table->reserve(b, true, 0, &base), STATUS_OK);
    b->table->release(b, true, base, 0);
    assert_int_equal(b->table->reserve(b, false, INT64_MAX / 2, &base), STATUS_MEMORY);
    assert_null(base);
    b->table->close(b);
}

/* Chains over both queues, longer than the rings: each copy reads what the one before wrote.
 */
static void test_queues(void **state) {
    enum { STEPS = 1500, BYTES = 256 };
    backend *b = opened(1);
    static char at[STEPS + 1][BYTES];
    event e = {0};
    memset(at[0], 7, BYTES);
    for (int i = 0; i < STEPS; i++)
        e = b->table->copy(b, i % 3 ? QUEUE_IN : QUEUE_OUT, at[i + 1], at[i], BYTES, e);
    b->table->await(b, e);
    assert_memory_equal(at[STEPS], at[0], BYTES);
    assert_true(b->table->await(b, e) == 0);
    assert_true(b->table->await(b, b->table->mark(b)) == 0);
    assert_int_equal(b->table->sync(b), STATUS_OK);
    b->table->close(b);
}

/* A read that fails surfaces at sync with its message, every time, and skips what follows. */
static void test_failed_read(void **state) {
    backend *b = opened(1);
    char path[] = "/tmp/test_backend_XXXXXX", data[64] = {0}, copy[64] = {0};
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "0123456789", 10), 10);
    close(fd);
    file f;
    assert_int_equal(file_open(&f, path), STATUS_OK);
    event e = b->table->read(b, QUEUE_IN, &f, 2, data, 5, (event){0});
    e = b->table->copy(b, QUEUE_OUT, copy, data, 5, e);
    assert_int_equal(b->table->sync(b), STATUS_OK);
    assert_string_equal(copy, "23456");
    b->table->read(b, QUEUE_IN, &f, 8, data, 5, (event){0});
    for (int i = 0; i < 2; i++) {
        assert_int_equal(b->table->sync(b), STATUS_IO);
        assert_non_null(strstr(status_message(), path));
    }
    file_close(&f);
    file_unlink(path);
    b->table->close(b);
}

static void test_description_and_rates(void **state) {
    backend *b = opened(2);
    char text[400];
    backend_rates rates;
    b->table->describe(b, text, sizeof text);
    assert_non_null(strstr(text, "threads: "));
    assert_non_null(strstr(text, "oneDNN"));
    if (backend_measure(b, DTYPE_F32, &rates) != STATUS_OK) fail_msg("%s", status_message());
    print_message("%s%.1f GFLOP/s, copies %.1f GB/s, queue %.1f GB/s\n", text,
                  rates.gemm_flops / 1e9, rates.copy_bytes / 1e9, rates.host_bytes / 1e9);
    assert_true(rates.gemm_flops > 1e8 && rates.copy_bytes > 1e7 && rates.host_bytes > 1e7);
    b->table->close(b);
}

/* Opening fails cleanly wherever an allocation fails. */
static void test_failed_allocations(void **state) {
    backend *b = NULL;
    size_t blocks = mem_blocks();
    for (uint64_t k = 1; !b; k++) {
        assert_true(k < 100);
        mem_fail_at(k, 0);
        status s = backend_cpu_open(&b, 1);
        mem_fail_at(0, 0);
        assert_true(s == (b ? STATUS_OK : STATUS_MEMORY));
        if (!b) assert_int_equal(mem_blocks(), blocks);
    }
    b->table->close(b);
}

static int no_leaks(void **state) {
    return mem_blocks() != 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_formats),
        cmocka_unit_test(test_impossible_formats),
        cmocka_unit_test(test_4bit_parts),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_flops),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_queues),
        cmocka_unit_test(test_failed_read),
        cmocka_unit_test(test_description_and_rates),
        cmocka_unit_test(test_failed_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, no_leaks);
}
