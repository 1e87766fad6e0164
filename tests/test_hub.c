/* test_hub.c: what trainer/hub believes of names and addresses, and its hashes. Whole downloads
 * are run/get.py's. */
#include "scratch.h"
#include "trainer/hub/cache.h"
#include "trainer/hub/digest.h"
#include "trainer/hub/http.h"

#include <stdbool.h>

static void names(void **state) {
    static const char *const good[] = {"gpt2", "org/name", "o_r.g-1/N.a-me_2"},
                             *const bad[] = {"",        "/",     "org/",  "/name", "a/b/c",
                                             "../name", "a/..",  ".a/b",  "-a/b",  "a b/c",
                                             "a\\b",    "a/b\n", "a:b/c", "a//b",  "a/b?c"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_true(hub_is_name(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(hub_is_name(bad[i]));
    assert_true(hub_is_revision("refs/pr/12"));
    assert_false(hub_is_revision("refs/../.."));
    assert_true(hub_is_commit("0123456789abcdef0123456789abcdef01234567"));
    assert_false(hub_is_commit("0123456789ABCDEF0123456789abcdef01234567"));
    assert_false(hub_is_commit("0123456789abcdef0123456789abcdef0123456"));
}

static void paths(void **state) {
    static const char *const good[] = {"a",          ".gitattributes",
                                       "a/b/c.txt",  "...",
                                       "..a",        "a..",
                                       "with space", "\xc3\xa9\xe2\x82\xac.json",
                                       "a\\b"},
                             *const bad[] = {"",         "/",   "/a",   "a/",      "a//b",
                                             ".",        "..",  "a/..", "../a",    "a/../b",
                                             "./a",      "a/.", "a\nb", "a\x1b[m", "\x7f",
                                             "\xc2\x9b", "a\tb"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_true(hub_is_path(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(hub_is_path(bad[i]));
    char longest[1100];
    memset(longest, 'a', sizeof longest);
    longest[255] = '\0';
    assert_true(hub_is_path(longest));
    longest[255] = 'a';
    longest[256] = '\0';
    assert_false(hub_is_path(longest));
    for (size_t i = 0; i < 1025; i++) longest[i] = i % 2 ? '/' : 'a';
    longest[1025] = '\0';
    assert_false(hub_is_path(longest));
    longest[1023] = '\0';
    assert_true(hub_is_path(longest));
}

/* Whom the token goes to is decided by this text. */
static void origins(void **state) {
    static const struct {
        const char *url, *origin;
    } cases[] = {
        {"https://host", "https://host:443"},
        {"https://HOST:443/a?b#c", "https://host:443"},
        {"http://host/a", "http://host:80"},
        {"http://host:8080", "http://host:8080"},
        {"https://host@evil/", "https://evil:443"},
        {"https://host:443@evil/", "https://evil:443"},
        {"https://evil/@host", "https://evil:443"},
        {"https://evil?@host", "https://evil:443"},
        {"https://evil#@host", "https://evil:443"},
        {"https://host.evil/", "https://host.evil:443"},
        {"http://[::1]:5/", "http://[::1]:5"},
        {"ftp://host/", "ftp://host:21"},
        {"file:///etc/passwd", "no address"},
        {"host/path", "no address"},
        {"", "no address"},
        {"https://ho st/", "no address"},
        {"https://host:99999/", "no address"},
    };
    char got[HTTP_ORIGIN];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(http_origin(cases[i].url, got));
        if (strcmp(got, cases[i].origin))
            fail_msg("%s: %s, wanted %s", cases[i].url, got, cases[i].origin);
    }
    char url[600] = "https://";
    memset(url + 8, 'a', 500);
    assert_ok(http_origin(url, got));
    assert_string_equal(got, "no address");
}

/* Against FIPS 180 and `git hash-object`. */
static void hashes(void **state) {
    char text[DIGEST_TEXT];
    digest d = {0};
    assert_ok(digest_begin(&d, true, 3));
    assert_ok(digest_add(&d, "ab", 2));
    assert_ok(digest_add(&d, "c", 1));
    assert_ok(digest_end(&d, text));
    assert_string_equal(text,
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_ok(digest_begin(&d, false, 0));
    assert_ok(digest_end(&d, text));
    assert_string_equal(text, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    assert_ok(digest_begin(&d, false, 6)); /* again, in the middle of another */
    assert_ok(digest_add(&d, "nothing", 7));
    assert_ok(digest_begin(&d, false, 6));
    assert_ok(digest_add(&d, "hello\n", 6));
    assert_ok(digest_end(&d, text));
    assert_string_equal(text, "ce013625030ba8dba906f756967f9e9ca394464a");
    digest_close(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(paths),
        cmocka_unit_test(origins),
        cmocka_unit_test(hashes),
    };
    return cmocka_run_group_tests_name("hub", tests, NULL, NULL);
}
