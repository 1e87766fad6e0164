/* scratch.h: what tests of files share: a scratch folder per program, bytes in and out of
 * files, a small generator of repeatable noise. Failing here fails the running test. */
#ifndef NIBBLE_TESTS_SCRATCH_H
#define NIBBLE_TESTS_SCRATCH_H

#include "common/alloc.h"
#include "common/file.h"
#include "common/status.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#ifndef assert_ok
/* Fails the running test with the message of a failed call. */
#define assert_ok(call)                                                                       \
    do {                                                                                      \
        if ((call) != STATUS_OK) fail_msg("%s: %s", #call, status_message());                 \
    } while (0)
#endif

/* The call fails with this code, and its message holds `part`. */
#define assert_fails(call, code, part)                                                        \
    do {                                                                                      \
        status got_ = (call);                                                                 \
        if (got_ != (code) || !strstr(status_message(), (part)))                              \
            fail_msg("%s: status %d, \"%s\"; wanted %d and \"%s\"", #call, got_,              \
                     got_ ? status_message() : "", (code), (part));                           \
    } while (0)

static char scratch_root[256];

/* A fresh folder for this program; group setup. In memory where that exists: thousands of
 * injected faults come with thousands of fsyncs. TMPDIR overrides. */
static inline int scratch_open(void **state) {
    const char *base = getenv("TMPDIR");
    if (!base) base = access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(scratch_root, sizeof scratch_root, "%s/nibble-test-XXXXXX", base);
    return mkdtemp(scratch_root) ? 0 : -1;
}

static inline int scratch_unlink(const char *path, const struct stat *st, int kind,
                                 struct FTW *where) {
    return remove(path);
}

/* Removes a folder with all that is in it, or nothing. */
static inline void scratch_remove(const char *path) {
    nftw(path, scratch_unlink, 16, FTW_DEPTH | FTW_PHYS);
}

/* Removes it with all that is in it; group teardown. */
static inline int scratch_close(void **state) {
    scratch_remove(scratch_root);
    return access(scratch_root, F_OK) == 0;
}

/* scratch_root/name in one of eight turning buffers. */
static inline const char *scratch(const char *name) {
    static char paths[8][512];
    static int turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", scratch_root, name);
    return path;
}

/* An empty folder scratch_root/name. */
static inline const char *scratch_folder(const char *name) {
    const char *path = scratch(name);
    scratch_remove(path);
    assert_ok(file_make_directories(path));
    return path;
}

static inline void put_file(const char *path, const void *data, size_t bytes) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

static inline void put_text(const char *path, const char *text) {
    put_file(path, text, strlen(text));
}

/* The whole file in malloc'ed memory. */
static inline char *get_file(const char *path, size_t *bytes) {
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("%s cannot be opened", path);
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    char *data = malloc((size_t)n + 1);
    assert_int_equal(fread(data, 1, (size_t)n, f), n);
    data[n] = 0;
    fclose(f);
    *bytes = (size_t)n;
    return data;
}

/* splitmix64: the same noise on every machine. */
static inline uint64_t noise(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* NIBBLE_FULL=1 asks for the full number of trials, else the fast one. */
static inline int trials(int fast, int full) {
    const char *env = getenv("NIBBLE_FULL");
    return env && *env == '1' ? full : fast;
}

/* The fixtures folder, or the running test is skipped, saying so. */
static inline void need_fixtures(void) {
    if (file_is_directory(FIXTURES)) return;
    print_message("skipped: %s is absent\n", FIXTURES);
    skip();
}

#endif
