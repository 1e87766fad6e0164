/* test_csv.c: comma- and tab-separated files as rows; what pandas makes of the same bytes, but
 * for types, which are not guessed. */
#include "scratch.h"

#include "common/json.h"
#include "data/records.h"

/* All rows of a text, one JSON object after the other with its line before it. */
static status read_rows(const char *name, const char *text, size_t bytes, record_format format,
                        char *out, size_t room) {
    const char *path = scratch(name);
    put_file(path, text, bytes);
    record_reader *r;
    *out = 0;
    TRY(records_open(&r, path, format));
    data_record row;
    status s;
    size_t used = 0;
    while ((s = records_next(r, &row)) == STATUS_OK && row.text) {
        json_t *value;
        if ((s = record_parse(path, &row, &value)) != STATUS_OK) break;
        json_decref(value);
        used += (size_t)snprintf(out + used, room - used, "%s%lld=%.*s", used ? "|" : "",
                                 (long long)row.line, (int)row.bytes, row.text);
        assert_true(used < room);
    }
    records_close(r);
    return s;
}

static void expect(const char *name, const char *text, const char *want) {
    char got[4096];
    assert_ok(read_rows(name, text, strlen(text), RECORD_AUTO, got, sizeof got));
    assert_string_equal(got, want);
}

static void expect_failure(const char *text, const char *message) {
    char got[4096];
    assert_fails(read_rows("a.csv", text, strlen(text), RECORD_AUTO, got, sizeof got),
                 STATUS_DATA, message);
}

static void test_cells(void **state) {
    expect("a.csv", "a,b\n1,x\n", "2={\"a\":\"1\",\"b\":\"x\"}");
    expect("a.csv", "a,b\r\n1,\r\n\"\",2",
           "2={\"a\":\"1\",\"b\":null}|3={\"a\":null,\"b\":\"2\"}");
    expect("a.csv", "a\rx\ry", "1={\"a\":\"x\"}|1={\"a\":\"y\"}");
    expect("a.csv", "a,b\n\"x,\"\"y\"\"\n\",\"z\"\n",
           "2={\"a\":\"x,\\\"y\\\"\\n\",\"b\":\"z\"}");
    expect("a.csv", "a,b\n\"x\"y\"z,c\"d\"e\n", "2={\"a\":\"xy\\\"z\",\"b\":\"c\\\"d\\\"e\"}");
    expect("a.csv", "a,b\n x , y\n", "2={\"a\":\" x \",\"b\":\" y\"}");
    expect("a.csv", "\n\na\n\n  \nNA\n\t\n007\n", "6={\"a\":\"NA\"}|8={\"a\":\"007\"}");
    expect("a.csv", "a,b,c\n1\n\"2\"\n",
           "2={\"a\":\"1\",\"b\":null,\"c\":null}|"
           "3={\"a\":\"2\",\"b\":null,\"c\":null}");
    expect("a.csv", "\xef\xbb\xbf\"a\"\n\xc3\xa4\x01\n", "2={\"a\":\"\xc3\xa4\\u0001\"}");
    expect("a.tsv", "a\tb\n1,2\t\"3\t4\"\n\t\n",
           "2={\"a\":\"1,2\",\"b\":\"3\\t4\"}|"
           "3={\"a\":null,\"b\":null}");
    expect("a.csv", "a,b\n", "");
}

static void test_names(void **state) {
    expect("a.csv", ",a,,a,a\n0,1,2,3,4\n",
           "2={\"Unnamed: 0\":\"0\",\"a\":\"1\",\"Unnamed: "
           "2\":\"2\",\"a.1\":\"3\",\"a.2\":\"4\"}");
    expect("a.csv", "a.1,a,a\n0,1,2\n", "2={\"a.1\":\"0\",\"a\":\"1\",\"a.2\":\"2\"}");
    expect("a.csv", "\"x \"\"y\"\",\nz\"\n1\n", "3={\"x \\\"y\\\",\\nz\":\"1\"}");
}

static void test_failures(void **state) {
    expect_failure("a,b\n1,2\n1,2,3\n", "a.csv:3:1: the row has more cells");
    expect_failure("a,b\n1,\"2\n3,4\n", "a.csv:2:1: the file ends inside a quoted cell");
    expect_failure("", "is empty");
    expect_failure(" \n\n", "is empty");
    expect_failure("a\n\xff\n", "a.csv:2:");
    char wide[3000];
    memset(wide, ',', sizeof wide - 1);
    wide[sizeof wide - 1] = 0;
    expect_failure(wide, "names 3000 columns");
    char got[64];
    assert_ok(read_rows("a.dat", "a\n1\n", 4, RECORD_CSV, got, sizeof got));
    assert_string_equal(got, "2={\"a\":\"1\"}");
}

/* Rows at every place of the window's borders, and cells larger than it. */
static void test_window(void **state) {
    enum { ROWS = 400, BYTES = 30000 };
    char *text = malloc((size_t)ROWS * (BYTES + 60)), *p = text;
    p += sprintf(p, "n,x\r\n");
    for (int i = 0; i < ROWS; i++) {
        p += sprintf(p, "%d,\"", i);
        int n = (i * 7919) % BYTES;
        for (int k = 0; k < n; k += 3) p = (char *)memcpy(p, k % 2 ? "a\r\n" : "\"\",", 3) + 3;
        p += sprintf(p, "\"%s", i % 2 ? "\r\n" : "\r");
    }
    const char *path = scratch("big.csv");
    put_file(path, text, (size_t)(p - text));
    free(text);
    record_reader *r;
    data_record row;
    assert_ok(records_open(&r, path, RECORD_AUTO));
    for (int i = 0; i < ROWS; i++) {
        json_t *value;
        assert_ok(records_next(r, &row));
        assert_ok(record_parse(path, &row, &value));
        assert_int_equal(atoi(json_string_value(json_object_get(value, "n"))), i);
        size_t want = 0;
        for (int k = 0; k < (i * 7919) % BYTES; k += 3) want += k % 2 ? 3 : 2;
        assert_int_equal(json_string_length(json_object_get(value, "x")), want);
        json_decref(value);
    }
    assert_ok(records_next(r, &row));
    assert_null(row.text);
    records_close(r);
}

/* Every allocation fails in turn; nothing is left behind. */
static void test_memory(void **state) {
    static const char text[] = "a,a,\n\"x \"\"\",2\n3\n";
    size_t before = mem_used();
    status s = STATUS_MEMORY;
    char got[500];
    for (uint64_t k = 1; s == STATUS_MEMORY; k++) {
        mem_fail_at(k, k % 2);
        s = read_rows("m.csv", text, sizeof text - 1, RECORD_AUTO, got, sizeof got);
        mem_fail_at(0, 0);
        assert_true(s == STATUS_OK || s == STATUS_MEMORY);
        assert_int_equal(mem_used(), before);
    }
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cells),    cmocka_unit_test(test_names),
        cmocka_unit_test(test_failures), cmocka_unit_test(test_window),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
