/* golden.h: the tests' own small safetensors reader, apart from the one they test, and the way
 * to fixtures. Trusts its files. Include after nothing: it brings cmocka along. */
#ifndef NIBBLE_TESTS_GOLDEN_H
#define NIBBLE_TESTS_GOLDEN_H

#include "common/alloc.h"
#include "common/file.h"
#include "common/json.h"
#include "common/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Fails the running test with the message of a failed call. */
#define assert_ok(call)                                                                       \
    do {                                                                                      \
        if ((call) != STATUS_OK) fail_msg("%s: %s", #call, status_message());                 \
    } while (0)

typedef struct golden {
    json_t *header;
    char
        *data; /* all tensors, each moved to a multiple of 64 bytes: files do not align them */
} golden;

typedef struct golden_tensor {
    const char *dtype; /* "F32", "BF16", "U8" ... as in the file */
    int rank;
    int64_t shape[4];
    int64_t count;
    union { /* into the golden's data */
        const void *data;
        const float *f32;
        const uint16_t *u16;
        const uint8_t *u8;
        const int64_t *i64;
        const int32_t *i32;
    };
} golden_tensor;

/* Skips the running test, saying so, where the fixtures are absent: a user's clone. */
static inline void golden_require_fixtures(void) {
    if (file_is_directory(FIXTURES)) return;
    print_message("skipped: no fixtures at %s\n", FIXTURES);
    skip();
}

static inline int64_t golden_offset(const json_t *entry, size_t i) {
    return json_integer_value(json_array_get(json_object_get(entry, "data_offsets"), i));
}

/* Copies every tensor to its aligned place, which its entry remembers as "at". */
static inline void golden_align(golden *g, const char *bytes, int64_t size) {
    g->data = mem_alloc((size_t)size + 64 * json_object_size(g->header), "golden");
    assert_non_null(g->data);
    int64_t at = 0;
    const char *name;
    json_t *entry;
    json_object_foreach(g->header, name, entry) {
        if (!json_object_get(entry, "data_offsets")) continue; /* __metadata__ */
        int64_t begin = golden_offset(entry, 0), end = golden_offset(entry, 1);
        assert_true(begin >= 0 && begin <= end && end <= size);
        memcpy(g->data + at, bytes + begin, (size_t)(end - begin));
        json_object_set_new(entry, "at", json_integer(at));
        at += (end - begin + 63) / 64 * 64;
    }
}

/* `name` is a path under the fixtures. */
static inline void golden_open(golden *g, const char *name) {
    golden_require_fixtures();
    char *path = file_join(FIXTURES, name), *bytes;
    size_t total;
    uint64_t header;
    assert_non_null(path);
    assert_ok(file_read_all(path, (int64_t)1 << 30, &bytes, &total));
    memcpy(&header, bytes, 8);
    assert_true(header < total - 8);
    assert_ok(json_read_text(bytes + 8, header, path, STATUS_MODEL, &g->header));
    golden_align(g, bytes + 8 + header, (int64_t)(total - 8 - header));
    mem_free(bytes);
    mem_free(path);
}

static inline void golden_close(golden *g) {
    json_decref(g->header);
    mem_free(g->data);
}

/* Any JSON file under the fixtures; json_decref it. */
static inline json_t *golden_json(const char *name) {
    golden_require_fixtures();
    char *path = file_join(FIXTURES, name);
    json_t *value;
    assert_non_null(path);
    assert_ok(json_read_file(path, (int64_t)1 << 30, STATUS_DATA, &value));
    mem_free(path);
    return value;
}

static inline int golden_has(const golden *g, const char *name) {
    return json_object_get(g->header, name) != NULL;
}

/* The tensor of that name (printf format); the test fails if it is absent. */
__attribute__((format(printf, 2, 3))) static inline golden_tensor
golden_get(const golden *g, const char *format, ...) {
    char name[256];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    json_t *entry = json_object_get(g->header, name);
    if (!entry) fail_msg("golden has no tensor \"%s\"", name);
    json_t *shape = json_object_get(entry, "shape");
    golden_tensor t = {.dtype = json_string_value(json_object_get(entry, "dtype")),
                       .count = 1};
    t.rank = (int)json_array_size(shape);
    assert_true(t.rank <= 4);
    for (int i = 0; i < t.rank; i++) {
        t.shape[i] = json_integer_value(json_array_get(shape, (size_t)i));
        t.count *= t.shape[i];
    }
    t.data = g->data + json_integer_value(json_object_get(entry, "at"));
    return t;
}

#endif
