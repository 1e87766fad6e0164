/* made_tokenizer.h: tokenizers from a text, and the ids that are expected of them. */
#ifndef NIBBLE_TESTS_MADE_TOKENIZER_H
#define NIBBLE_TESTS_MADE_TOKENIZER_H

#include "gz.h"
#include "sha256.h"

#include "data/tokenizer.h"

#include <pthread.h>
#include <time.h>

/* Sanitizers cost time. */
#ifdef __SANITIZE_ADDRESS__
enum { SLOWER = 10 };
#else
enum { SLOWER = 1 };
#endif

static inline double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* A folder with this tokenizer.json. */
static const char *folder_with(const char *name, const char *tokenizer_json) {
    const char *folder = scratch_folder(name);
    char path[700];
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    put_text(path, tokenizer_json);
    return folder;
}

static inline tokenizer *open_text(const char *tokenizer_json) {
    tokenizer *t;
    assert_ok(tokenizer_open(&t, folder_with("made", tokenizer_json)));
    return t;
}

static inline void expect_ids(const tokenizer *t, const char *text, unsigned flags,
                              const int32_t *ids, size_t n) {
    id_list got = {0};
    assert_ok(tokenizer_encode(t, text, strlen(text), flags, &got));
    if (got.count != n || (n && memcmp(got.items, ids, n * sizeof *ids))) {
        for (size_t i = 0; i < got.count; i++) print_error("%d ", got.items[i]);
        fail_msg("\"%s\": these %zu ids are not the %zu expected", text, got.count, n);
    }
    mem_free(got.items);
}
#define EXPECT(t, text, flags, ...)                                                           \
    expect_ids(t, text, flags, (int32_t[]){__VA_ARGS__},                                      \
               sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

#endif
