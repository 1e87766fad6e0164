/* test_file.c: the file layer and its injected faults, strict JSON. */
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

/* ---- files ---- */

static void files_are_written_whole_and_read_exactly(void **state) {
    char path[512], text[] = "hello, world";
    snprintf(path, sizeof path, "%s", scratch("a/b/c/file"));
    assert_ok(file_make_directories(scratch("a/b/c")));
    assert_ok(file_make_directories(scratch("a/b/c")));
    assert_ok(file_write_all(path, text, 12));
    char *back;
    size_t n;
    assert_ok(file_read_all(path, 12, &back, &n));
    assert_int_equal(n, 12);
    assert_string_equal(back, text);
    mem_free(back);
    assert_fails(file_read_all(path, 11, &back, &n), STATUS_IO, "at most 11");
    assert_null(back);
    file f;
    char part[8];
    assert_ok(file_open(&f, path));
    assert_int_equal(f.size, 12);
    assert_ok(file_read_at(&f, part, 5, 7));
    assert_memory_equal(part, "world", 5);
    assert_fails(file_read_at(&f, part, 6, 7), STATUS_IO, "ends at byte 12");
    assert_ok(file_close(&f));
    assert_ok(file_close(&f));
    assert_ok(file_open_update(&f, path));
    assert_ok(file_write_at(&f, "H", 1, 0));
    assert_int_equal(f.size, 12);
    assert_ok(file_close(&f));
    assert_ok(file_open_append(&f, path));
    assert_ok(file_write(&f, "!", 1));
    assert_ok(file_close(&f));
    assert_ok(file_copy(path, scratch("copy")));
    assert_ok(file_read_all(scratch("copy"), 100, &back, NULL));
    assert_string_equal(back, "Hello, world!");
    mem_free(back);
    assert_fails(file_create(&f, path, true), STATUS_IO, "exists");
    assert_fails(file_open_update(&f, scratch("none")), STATUS_IO, "cannot open");
}

static void only_plain_files_are_opened(void **state) {
    file f;
    assert_fails(file_open(&f, scratch("none")), STATUS_IO, "No such file");
    assert_fails(file_open(&f, scratch_root), STATUS_IO, "is a folder");
    assert_fails(file_open(&f, "/dev/null"), STATUS_IO, "not a plain file");
    assert_int_equal(mkfifo(scratch("pipe"), 0600), 0);
    assert_fails(file_open(&f, scratch("pipe")), STATUS_IO,
                 "not a plain file"); /* and no hang */
    assert_fails(file_make_directories(scratch("copy/below")), STATUS_IO, "copy");
}

static void folders_are_listed_joined_removed(void **state) {
    char **names;
    size_t n;
    scratch_folder("list");
    put_text(scratch("list/b"), ""), put_text(scratch("list/a"), ""),
        put_text(scratch("list/.h"), "");
    assert_ok(file_list(scratch("list"), &names, &n));
    assert_int_equal(n, 3);
    assert_string_equal(names[0], ".h");
    assert_string_equal(names[2], "b");
    file_list_free(names, n);
    assert_true(file_exists(scratch("list/a")) && file_is_directory(scratch("list")));
    assert_ok(file_remove_tree(scratch("list")));
    assert_false(file_exists(scratch("list")));
    assert_ok(file_remove_tree(scratch("list")));
    assert_ok(file_unlink(scratch("list")));
    assert_fails(file_list(scratch("list"), &names, &n), STATUS_IO, "cannot list");
    char *joined = file_join("a", "b");
    assert_string_equal(joined, "a/b");
    mem_free(joined);
    joined = file_join("a/", "b");
    assert_string_equal(joined, "a/b");
    mem_free(joined);
    joined = file_join("a", "/b");
    assert_string_equal(joined, "/b");
    mem_free(joined);
    int64_t bytes;
    assert_ok(file_free_space(scratch("not/yet/there"), &bytes));
    assert_true(bytes > 0);
    assert_ok(file_require_space(scratch_root, 1, "a test"));
    assert_fails(file_require_space(scratch_root, INT64_MAX, "a test"), STATUS_IO,
                 "a test needs");
}

static status replace(const char *path) {
    return file_write_all(path, "new content", 11);
}

static void faults_are_injected_at_each_call(void **state) {
    char path[512], *back;
    snprintf(path, sizeof path, "%s", scratch("faulty"));
    for (int always = 0; always < 2; always++)
        for (uint64_t k = 1;; k++) {
            put_text(path, "old content");
            uint64_t before = file_fault_count();
            file_fail_at(k, ENOSPC, always);
            status s = replace(path);
            bool reached = file_fault_count() - before >= k;
            file_fail_at(0, 0, false);
            assert_int_equal(s, reached ? STATUS_IO : STATUS_OK);
            if (reached) assert_non_null(strstr(status_message(), strerror(ENOSPC)));
            assert_false(file_exists(scratch("faulty.tmp")));
            assert_ok(file_read_all(path, 100, &back, NULL));
            assert_true(!strcmp(back, "old content") || !strcmp(back, "new content"));
            mem_free(back);
            if (!reached) {
                assert_int_equal(k, 5); /* write, fsync, rename, fsync of the folder */
                break;
            }
        }
    for (uint64_t k = 1; k < 5; k++)
        for (int always = 0; always < 2; always++) {
            file_fail_at(k, FILE_FAULT_SHORT, always);
            assert_ok(replace(path));
            file_fail_at(k, EINTR, always);
            assert_ok(replace(path));
            file_fail_at(0, 0, false);
            assert_ok(file_read_all(path, 100, &back, NULL));
            assert_string_equal(back, "new content");
            mem_free(back);
        }
    file_fail_at(2, EIO, false);
    assert_int_equal(file_fault(), 0);
    assert_int_equal(file_fault(), EIO);
    assert_int_equal(file_fault(), 0);
    file_fail_at(0, 0, false);
}

static void file_calls_survive_failed_allocations(void **state) {
    char path[512];
    snprintf(path, sizeof path, "%s", scratch("memory"));
    size_t before = mem_blocks();
    for (uint64_t k = 1, more = 1; more; k++) {
        uint64_t start = mem_count();
        char **names = NULL, *back = NULL;
        size_t n = 0;
        mem_fail_at(k, k & 1);
        status s = replace(path);
        if (s == STATUS_OK) s = file_copy(path, scratch("memory2"));
        if (s == STATUS_OK) s = file_read_all(path, 100, &back, NULL);
        if (s == STATUS_OK) s = file_list(scratch_root, &names, &n);
        if (s == STATUS_OK) s = file_make_directories(scratch("x/y"));
        more = mem_count() - start >= k;
        mem_fail_at(0, 0);
        mem_free(back);
        file_list_free(names, n);
        assert_int_equal(s, more ? STATUS_MEMORY : STATUS_OK);
        assert_int_equal(mem_blocks(), before);
        assert_false(file_exists(scratch("memory.tmp")));
    }
}

/* ---- JSON ---- */

static status parse(const char *text, json_t **out) {
    return json_read_text(text, strlen(text), "file.json", STATUS_MODEL, out);
}

static void json_errors_say_where(void **state) {
    json_t *j;
    assert_fails(parse("{\n  \"a\": 1,\n  \"a\": 2}", &j), STATUS_MODEL, "file.json:3:");
    assert_non_null(strstr(status_message(), "duplicate"));
    assert_fails(parse("{\"a\": }", &j), STATUS_MODEL, "file.json:1:7");
    assert_fails(parse("{} {}", &j), STATUS_MODEL, "file.json:1:");
    assert_fails(parse("", &j), STATUS_MODEL, "file.json:1:");
    assert_fails(parse("[\"\xff\"]", &j), STATUS_MODEL, "unable to decode");
    assert_fails(parse("[\"\\ud800\"]", &j), STATUS_MODEL, "file.json");
    assert_fails(parse("[1e999]", &j), STATUS_MODEL, "file.json");
    assert_ok(parse("[99999999999999999999]", &j)); /* beyond 64 bits: no integer any more */
    assert_true(json_is_real(json_array_get(j, 0)));
    json_decref(j);
    char *deep = malloc(200001);
    memset(deep, '[', 200000), deep[200000] = 0;
    assert_fails(parse(deep, &j), STATUS_MODEL, "depth");
    free(deep);
    assert_fails(json_read_file(scratch("none.json"), 100, STATUS_DATA, &j), STATUS_DATA,
                 "none.json");
    put_text(scratch("long.json"), "[1, 2, 3]");
    assert_fails(json_read_file(scratch("long.json"), 8, STATUS_DATA, &j), STATUS_DATA,
                 "at most 8");
    put_text(scratch("lfs.json"),
             "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n");
    assert_fails(json_read_file(scratch("lfs.json"), 1000, STATUS_MODEL, &j), STATUS_MODEL,
                 "git lfs pull");
    assert_null(j);
}

static void json_getters_say_what_they_expected(void **state) {
    json_t *j;
    assert_ok(parse(
        "{\"i\": 4096.0, \"x\": 2, \"r\": 0.5, \"t\": \"s\", \"b\": true, \"n\": null}", &j));
    int64_t i = 7;
    double r = 7;
    bool b = false;
    const char *t = "unset";
    assert_ok(json_get_int(j, "i", &i, "c.json", STATUS_MODEL));
    assert_int_equal(i, 4096);
    assert_ok(json_get_int(j, "n", &i, "c.json", STATUS_MODEL));
    assert_ok(json_get_int(j, "absent", &i, "c.json", STATUS_MODEL));
    assert_int_equal(i, 4096);
    assert_fails(json_get_int(j, "r", &i, "c.json", STATUS_USAGE), STATUS_USAGE,
                 "c.json: \"r\" must be an integer, it is a number");
    assert_fails(json_get_int(j, "t", &i, "c.json", STATUS_MODEL), STATUS_MODEL, "a string");
    assert_fails(json_get_int(j, "b", &i, "c.json", STATUS_MODEL), STATUS_MODEL, "true");
    assert_ok(json_get_real(j, "x", &r, "c.json", STATUS_MODEL));
    assert_true(r == 2);
    assert_fails(json_get_real(j, "t", &r, "c.json", STATUS_MODEL), STATUS_MODEL, "a number");
    assert_ok(json_get_bool(j, "b", &b, "c.json", STATUS_MODEL));
    assert_true(b);
    assert_fails(json_get_bool(j, "x", &b, "c.json", STATUS_MODEL), STATUS_MODEL,
                 "true or false");
    assert_ok(json_get_text(j, "t", &t, "c.json", STATUS_MODEL));
    assert_string_equal(t, "s");
    assert_fails(json_get_text(j, "i", &t, "c.json", STATUS_MODEL), STATUS_MODEL, "a string");
    json_decref(j);
}

/* jansson alone would lose bytes or run past its buffers here. */
static void json_survives_failed_allocations(void **state) {
    static const char text[] =
        "{\"a long enough key to grow buffers\": [1, 2.5, \"and a value that is longer than "
        "that, with \\u00e9 and \\n in it\", {\"x\": {}, \"y\": []}, true, null], \"z\": "
        "\"\"}";
    size_t before = mem_blocks();
    json_t *reference, *j;
    assert_ok(parse(text, &reference));
    char *want = json_write_text(reference, 0);
    size_t held = mem_blocks();
    for (int always = 0; always < 2; always++)
        for (uint64_t k = 1, more = 1; more; k++) {
            uint64_t start = mem_count();
            mem_fail_at(k, always);
            status s = parse(text, &j);
            more = mem_count() - start >= k;
            mem_fail_at(0, 0);
            assert_int_equal(s, more ? STATUS_MEMORY : STATUS_OK);
            if (s == STATUS_OK) assert_true(json_equal(j, reference));
            json_decref(j);
            assert_int_equal(mem_blocks(), held);
            mem_fail_at(k, always);
            char *got = json_write_text(reference, 0);
            mem_fail_at(0, 0);
            if (got) assert_string_equal(got, want);
            mem_free(got);
            assert_int_equal(mem_blocks(), held);
        }
    mem_free(want);
    json_decref(reference);
    assert_int_equal(mem_blocks(), before);
}

static void json_writes_compact_or_indented(void **state) {
    json_t *j;
    assert_ok(parse("{\"a\": [1, 0.1], \"b\": \"x/y\"}", &j));
    char *text = json_write_text(j, 0);
    assert_string_equal(text, "{\"a\":[1,0.10000000000000001],\"b\":\"x/y\"}");
    mem_free(text);
    text = json_write_text(j, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    assert_string_equal(text, "{\n \"a\": [\n  1,\n  0.1\n ],\n \"b\": \"x/y\"\n}");
    mem_free(text);
    json_decref(j);
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_are_written_whole_and_read_exactly),
        cmocka_unit_test(only_plain_files_are_opened),
        cmocka_unit_test(folders_are_listed_joined_removed),
        cmocka_unit_test(faults_are_injected_at_each_call),
        cmocka_unit_test(file_calls_survive_failed_allocations),
        cmocka_unit_test(json_errors_say_where),
        cmocka_unit_test(json_getters_say_what_they_expected),
        cmocka_unit_test(json_survives_failed_allocations),
        cmocka_unit_test(json_writes_compact_or_indented),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
