/* test_records.c: data files read row by row: arrays, JSON lines, text; everything that can be
 * wrong with them; slices of splits. */
#include "scratch.h"

#include "common/json.h"
#include "data/records.h"
#include "data/split.h"

/* All rows of a text, joined by | ; the status and message of the first failure. */
static status read_all(const char *name, const char *text, size_t bytes, record_format format,
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
        used += (size_t)snprintf(out + used, room - used, "%s%lld:%lld:%lld=%.*s",
                                 used ? "|" : "", (long long)row.index, (long long)row.line,
                                 (long long)row.column, (int)row.bytes, row.text);
        assert_true(used < room);
    }
    records_close(r);
    return s;
}

static void expect_rows(const char *name, const char *text, record_format format,
                        const char *want) {
    char got[4096];
    assert_ok(read_all(name, text, strlen(text), format, got, sizeof got));
    assert_string_equal(got, want);
}

static void expect_failure(const char *name, const char *text, const char *message) {
    char got[4096];
    assert_fails(read_all(name, text, strlen(text), RECORD_AUTO, got, sizeof got), STATUS_DATA,
                 message);
}

static void test_json_lines(void **state) {
    expect_rows("a.jsonl", "{\"a\":1}\n{\"b\":2}\n", RECORD_AUTO,
                "0:1:1={\"a\":1}|1:2:1={\"b\":2}");
    expect_rows("a.jsonl", "{\"a\":1}\r\n\r\n  \n {\"b\":2}", RECORD_AUTO,
                "0:1:1={\"a\":1}|1:4:1= {\"b\":2}");
    expect_rows("a.json", "\xef\xbb\xbf{}\n{}", RECORD_AUTO, "0:1:1={}|1:2:1={}");
    expect_rows("a.json", "not json", RECORD_AUTO, "0:1:1=not json");
}

static void test_json_array(void **state) {
    expect_rows("a.json", "[{\"a\":[1,\"]\"]},\n  {\"b\":\"\\\"}\"} , 3,\"x,\"]\n",
                RECORD_AUTO,
                "0:1:2={\"a\":[1,\"]\"]}|1:2:3={\"b\":\"\\\"}\"}|2:2:17=3|3:2:19=\"x,\"");
    expect_rows("a.json", " \n[ ]\n", RECORD_AUTO, "");
    expect_rows("a.json", "[{\"\xc3\xa4\":1},{}]", RECORD_AUTO,
                "0:1:2={\"\xc3\xa4\":1}|1:1:10={}");
    expect_failure("a.json", "[{}", "the array does not end");
    expect_failure("a.json", "[{},]", "a comma before the end");
    expect_failure("a.json", "[{},{\"a\":1", "ends inside this row");
    expect_failure("a.json", "[{}\n,\n{} {}]", ":3:4: a comma or the end");
    expect_failure("a.json", "[,{}]", "a row is expected");
    expect_failure("a.json", "[{}] {}", "text after the end");
    expect_failure("a.json", "[\"abc", "ends inside this row");
}

static void test_text(void **state) {
    const char *text = " one\n\ntwo \r\n \nthree";
    expect_rows("a.txt", text, RECORD_AUTO, "0:1:1= one|1:3:1=two |2:5:1=three");
    expect_rows("a.txt", text, RECORD_WHOLE, "0:1:1= one\n\ntwo \r\n \nthree");
    expect_rows("a.txt", text, RECORD_PARAGRAPHS, "0:1:1= one|1:3:1=two |2:5:1=three");
    expect_rows("a.txt", "a\nb\n\n\n\nc\nd\n", RECORD_PARAGRAPHS, "0:1:1=a\nb|1:6:1=c\nd");
}

/* Rows larger than what is read at once, and borders of the window at every place. */
static void test_window(void **state) {
    enum { ROWS = 300, BYTES = 20000 };
    char *text = malloc((size_t)ROWS * (BYTES + 60)), *p = text;
    for (int kind = 0; kind < 2; kind++) {
        p = text;
        if (kind) *p++ = '[';
        for (int i = 0; i < ROWS; i++) {
            if (kind && i) *p++ = ',';
            p += sprintf(p, "{\"n\":%d,\"x\":\"", i);
            int n = (i * 7919) % BYTES;
            memset(p, 'a' + i % 26, (size_t)n);
            p += n;
            p += sprintf(p, "\"}%s", kind ? "" : "\n");
        }
        if (kind) *p++ = ']';
        const char *path = scratch("big.json");
        put_file(path, text, (size_t)(p - text));
        record_reader *r;
        assert_ok(records_open(&r, path, RECORD_AUTO));
        for (int i = 0; i < ROWS; i++) {
            data_record row;
            json_t *value;
            assert_ok(records_next(r, &row));
            assert_ok(record_parse(path, &row, &value));
            assert_int_equal(json_integer_value(json_object_get(value, "n")), i);
            assert_int_equal(json_string_length(json_object_get(value, "x")),
                             (i * 7919) % BYTES);
            json_decref(value);
        }
        data_record row;
        assert_ok(records_next(r, &row));
        assert_null(row.text);
        records_close(r);
    }
    free(text);
}

/* A line that never ends is given up at the limit, not when memory is. */
static void row11_endless_line(void **state) {
    const char *path = scratch("endless.jsonl");
    FILE *f = fopen(path, "wb");
    assert_int_equal(fseek(f, (1l << 30), SEEK_SET), 0); /* a sparse file of zeros */
    fputc('x', f);
    fclose(f);
    record_reader *r;
    data_record row;
    assert_ok(records_open(&r, path, RECORD_AUTO));
    assert_fails(records_next(r, &row), STATUS_DATA, "a row of more than 256 MiB");
    assert_true(mem_used() < (size_t)RECORD_LIMIT * 2);
    assert_ok(records_next(r, &row));
    assert_null(row.text);
    records_close(r);
    unlink(path);
}

static void row11_no_text_files(void **state) {
    expect_failure("a.parquet", "PAR1....", "is cut off");
    expect_failure("a.parquet", "{}", "is no Parquet file");
    expect_failure("a.parquet", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull");
    expect_failure("a.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                   "git lfs pull");
    expect_failure("a.jsonl.bz2", "BZh9", "bunzip2");
    expect_failure("a.jsonl.xz", "\xfd\x37zXZ", "unxz");
    expect_failure("a.jsonl", "\xff\xfe[", "UTF-16");
    expect_failure("a.jsonl", "", "is empty");
    expect_failure("a.jsonl", " \n\n", "is empty");
    expect_failure("a.txt", "", "is empty");
    record_reader *r;
    assert_fails(records_open(&r, scratch("absent.jsonl"), RECORD_AUTO), STATUS_DATA,
                 "absent.jsonl");
    assert_fails(records_open(&r, scratch_root, RECORD_AUTO), STATUS_DATA, "folder");
}

static void expect_bad_row(const char *text, size_t bytes, const char *message) {
    const char *path = scratch("bad.jsonl");
    put_file(path, text, bytes);
    record_reader *r;
    data_record row;
    json_t *value;
    assert_ok(records_open(&r, path, RECORD_AUTO));
    do assert_ok(records_next(r, &row));
    while (row.text && record_parse(path, &row, &value) == STATUS_OK &&
           (json_decref(value), 1));
    if (!row.text) fail_msg("no bad row in %s", text);
    if (!strstr(status_message(), message))
        fail_msg("\"%s\" lacks \"%s\"", status_message(), message);
    records_close(r);
}
#define BAD(text, message) expect_bad_row(text, sizeof text - 1, message)

static void row11_bad_rows_name_their_place(void **state) {
    BAD("{}\n{\"a\":1,}\n", "bad.jsonl:2:8: ");
    BAD("{}\n{\"a\":1,}\n", "`{\"a\":1,}`");
    BAD("[{},\n {\"a\":\n   tru}]", "bad.jsonl:3:6: ");
    BAD("{\"a\":\"\xff\"}", "unable to decode byte 0xff");
    BAD("{\"a\":\"\xc3\x28\"}", "unable to decode byte 0xc3");
    BAD("{\"a\":\"\xed\xa0\x80\"}", "unable to decode byte 0xed"); /* a surrogate as UTF-8 */
    BAD("{\"a\":\"\\ud800\"}", "\\uD800");
    BAD("{\"a\":\"\\udc00 \\ud800\"}", "\\uDC00");
    BAD("{\"a\":1,\"a\":2}", "duplicate object key");
    BAD("{\"a\":NaN}", "bad.jsonl:1:8");
    BAD("{\n\"a\": 1\n}\n", "one object a line");
    BAD("{\"a\":\"x\ty\"}", "control character 0x9");
    char deep[3000];
    memset(deep, '[', sizeof deep);
    memcpy(deep, "{\"a\":", 5);
    deep[sizeof deep - 1] = 0;
    expect_bad_row(deep, sizeof deep - 1, "maximum parsing depth");
}

static void test_quotes_are_printable(void **state) {
    char out[RECORD_QUOTE];
    record_quote("ab\ncd\xff\x01", 7, 3, out);
    assert_string_equal(out, "ab cd? ");
    char euros[200] = "";
    for (int i = 0; i < 60; i++) strcat(euros, "\xe2\x82\xac");
    for (size_t at = 0; at < 180; at++) {
        record_quote(euros, 180, at, out);
        assert_true(strlen(out) <= 66);
        json_t *valid = json_string(out); /* jansson refuses invalid UTF-8 */
        assert_non_null(valid);
        json_decref(valid);
    }
}

/* Slices against what Hugging Face's ReadInstruction gives for them. */
static void expect_split(const char *text, int64_t rows, const char *want) {
    row_split s;
    char got[200] = "";
    assert_ok(split_parse(&s, text));
    for (int p = 0; p < s.count; p++) {
        int64_t from, to;
        split_range(&s, p, rows, &from, &to);
        sprintf(got + strlen(got), "%s%lld-%lld", p ? "," : "", (long long)from,
                (long long)to);
    }
    assert_string_equal(got, want);
}

static void test_splits(void **state) {
    row_split s;
    expect_split(NULL, 10, "0-10");
    expect_split("train", 10, "0-10");
    expect_split("train[:500]", 1000, "0-500");
    expect_split("train[:500]", 300, "0-300");
    expect_split("train[10%:]", 999, "100-999");
    expect_split("train[:50%]", 5, "0-2"); /* 2.5 to the even */
    expect_split("train[:50%]", 7, "0-4"); /* 3.5 to the even */
    expect_split("train[100:200]", 1000, "100-200");
    expect_split("train[-3:]", 10, "7-10");
    expect_split("train[:-3]", 10, "0-7");
    expect_split("train[-10%:]", 200, "180-200");
    expect_split("train[5:2]", 10, "5-5");
    expect_split("train[1_000:2_000]", 5000, "1000-2000");
    expect_split("train[:2]+train[8:]", 10, "0-2,8-10");
    assert_ok(split_parse(&s, "test[:3]"));
    assert_string_equal(s.name, "test");
    assert_false(split_needs_count(&s));
    assert_ok(split_parse(&s, "train[:3%]"));
    assert_true(split_needs_count(&s));
    static const char *const bad[] = {"train[",      "train[3]",
                                      "train[a:]",   "[:3]",
                                      "train[:3]x",  "train[:3]+",
                                      "train+test",  "train[:101%]",
                                      "train[--3:]", "train[:99999999999999999999]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_fails(split_parse(&s, bad[i]), STATUS_USAGE, bad[i]);
}

/* The fixtures' files, row counts as Python's json module counts them. */
static void test_real_files(void **state) {
    need_fixtures();
    static const struct {
        const char *name;
        int64_t rows;
    } files[] = {{"gsm8k_train.jsonl", 7473},
                 {"gpteacher_roleplay.json", 3146},
                 {"self_instruct_seed_tasks.jsonl", 175},
                 {"fastchat_dummy_conversation.json", 500}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/datasets/%s", FIXTURES, files[i].name);
        record_reader *r;
        assert_ok(records_open(&r, path, RECORD_AUTO));
        int64_t rows = 0;
        for (;; rows++) {
            data_record row;
            json_t *value;
            assert_ok(records_next(r, &row));
            if (!row.text) break;
            assert_int_equal(row.index, rows);
            assert_ok(record_parse(path, &row, &value));
            assert_true(json_is_object(value));
            json_decref(value);
        }
        records_close(r);
        assert_int_equal(rows, files[i].rows);
    }
    char path[600];
    record_reader *r;
    snprintf(path, sizeof path, "%s/malformed/misc/lfs_pointer_tokenizer.json", FIXTURES);
    assert_fails(records_open(&r, path, RECORD_AUTO), STATUS_DATA, "Git-LFS pointer");
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_lines),
        cmocka_unit_test(test_json_array),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_window),
        cmocka_unit_test(row11_endless_line),
        cmocka_unit_test(row11_no_text_files),
        cmocka_unit_test(row11_bad_rows_name_their_place),
        cmocka_unit_test(test_quotes_are_printable),
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_real_files),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
