/* test_json_scan.c: the fast reader of JSON beside jansson's: what it accepts jansson accepts,
 * with the same values in the same order, and what is usual it does accept. */
#include "scratch.h"

#include "common/json.h"
#include "common/json_scan.h"

enum { FLAGS = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY };

/* Compares the two; whether the fast one took it. */
static bool compare(const char *text, size_t bytes) {
    char *exact = malloc(bytes ? bytes : 1); /* a read past the end is seen by sanitizers */
    memcpy(exact, text, bytes);
    json_error_t e;
    json_t *fast = json_scan(exact, bytes), *slow = json_loadb(exact, bytes, FLAGS, &e);
    free(exact);
    if (fast && !slow) fail_msg("%.*s: jansson: %s", (int)bytes, text, e.text);
    if (fast) {
        char *a = json_dumps(fast, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
        char *b = json_dumps(slow, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
        assert_non_null(a);
        assert_string_equal(a, b);
        assert_true(json_equal(fast, slow));
        json_malloc_t allocate;
        json_free_t release;
        json_get_alloc_funcs(&allocate, &release);
        release(a), release(b);
    }
    bool taken = fast != NULL;
    json_decref(fast);
    json_decref(slow);
    return taken;
}

static void test_accepted(void **state) {
    static const char *const texts[] = {"{}",
                                        "[]",
                                        " [ ] ",
                                        "{\"a\":1}",
                                        "\"\"",
                                        "0",
                                        "-0",
                                        "-12",
                                        "123456789012345678",
                                        "1.5",
                                        "-0.0",
                                        "1e5",
                                        "1E-7",
                                        "2.5e+300",
                                        "true",
                                        "false",
                                        "null",
                                        "[1,[2,[3]],{}]",
                                        "{\"a\":{\"b\":[\"c\",null]},\"d\":\"\"}",
                                        "\"a\\n\\t\\\"\\\\\\/\\b\\f\\r\"",
                                        "\"\\u00e9\\u4f60\\ud83d\\ude00\\u0000x\"",
                                        "\"\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80\"",
                                        "\"\x7f\"",
                                        "\n\t {\"a\" :\r1 , \"b\": [ ] }\n",
                                        "{\"\":1}",
                                        "{\"\\u0061b\":1}",
                                        "\"12345678\xc3\xa9"
                                        "12345678\\n12345678\""};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!compare(texts[i], strlen(texts[i]))) fail_msg("%s is left to jansson", texts[i]);
}

static void test_left_to_jansson(void **state) {
    static const char *const texts[] = {"",
                                        "{",
                                        "[",
                                        "[1",
                                        "[1,]",
                                        "{\"a\"}",
                                        "{\"a\":}",
                                        "{\"a\":1,}",
                                        "{a:1}",
                                        "[1 2]",
                                        "01",
                                        "-",
                                        "1.",
                                        ".5",
                                        "+1",
                                        "1e",
                                        "1e+",
                                        "tru",
                                        "nulll",
                                        "[] []",
                                        "\"",
                                        "\"\\",
                                        "\"\\x\"",
                                        "\"\\u12\"",
                                        "\"\\ud800\"",
                                        "\"\\udc00\"",
                                        "\"\\ud800\\u0041\"",
                                        "\"\x01\"",
                                        "\"\n\"",
                                        "\"\xff\"",
                                        "\"\xc0\x80\"",
                                        "\"\xed\xa0\x80\"",
                                        "\"\xf4\x90\x80\x80\"",
                                        "\"\xc3\"",
                                        "{\"a\":1,\"a\":2}",
                                        "{\"\\u0000\":1}",
                                        "1e999",
                                        "99999999999999999999",
                                        "NaN",
                                        "Infinity",
                                        "'a'",
                                        "[1,/**/2]",
                                        "\xef\xbb\xbf{}",
                                        "{\"a\":1}}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (compare(texts[i], strlen(texts[i]))) fail_msg("%s is taken", texts[i]);
    char deep[5000];
    memset(deep, '[', sizeof deep);
    assert_false(compare(deep, sizeof deep));
    memset(deep + 1000, ']', 1000);
    assert_false(compare(deep, 2000));
}

/* Random pieces of JSON in an order that often makes sense, then bytes changed and cut. */
static void test_random(void **state) {
    static const char *const pieces[] = {"{",
                                         "}",
                                         "[",
                                         "]",
                                         ",",
                                         ":",
                                         "\"a\":",
                                         "\"b\":",
                                         "\"k\\u00e9y\":",
                                         "1",
                                         "-7.25",
                                         "1e3",
                                         "true",
                                         "null",
                                         "\"x\"",
                                         "\"\\n\"",
                                         "\"\xe4\xbd\xa0\"",
                                         "\"a long text without end\"",
                                         " ",
                                         "\n",
                                         "{\"c\":1}",
                                         "[1,2]",
                                         "\"\\ud83d\\ude00\"",
                                         "12345678901234567890",
                                         "\"",
                                         "\\"};
    uint64_t seed = 5;
    int taken = 0, trials_count = trials(60000, 2000000);
    for (int i = 0; i < trials_count; i++) {
        char text[600] = "";
        size_t open = 0;
        char close[20];
        for (uint64_t n = noise(&seed) % 12 + 1; n; n--) {
            const char *p = pieces[noise(&seed) % (sizeof pieces / sizeof *pieces)];
            strcat(text, p);
            if ((!strcmp(p, "{") || !strcmp(p, "[")) && open < 20)
                close[open++] = *p == '{' ? '}' : ']';
            if (noise(&seed) % 3 == 0) strcat(text, ",");
        }
        size_t bytes = strlen(text);
        if (bytes && text[bytes - 1] == ',') bytes--;
        while (open) text[bytes++] = close[--open];
        if (!bytes) continue;
        if (noise(&seed) % 4 == 0) text[noise(&seed) % bytes] ^= (char)(1 << noise(&seed) % 8);
        if (noise(&seed) % 8 == 0) bytes = noise(&seed) % bytes;
        taken += compare(text, bytes);
    }
    assert_true(taken > trials_count / 50);
}

static void test_real_rows(void **state) {
    need_fixtures();
    static const char *const names[] = {"gsm8k_train.jsonl", "self_instruct_seed_tasks.jsonl"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[600];
        size_t n;
        snprintf(path, sizeof path, "%s/datasets/%s", FIXTURES, names[i]);
        char *text = get_file(path, &n);
        for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
            if (!compare(line, strlen(line))) fail_msg("%s is left to jansson", line);
        free(text);
    }
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_left_to_jansson),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_real_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
