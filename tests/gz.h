/* gz.h: JSON fixtures, plain and compressed. Failing here fails the running test. */
#ifndef NIBBLE_TESTS_GZ_H
#define NIBBLE_TESTS_GZ_H

#include "scratch.h"

#include "common/json.h"

#include <zlib.h>

static inline json_t *read_json(const char *path) {
    json_t *json;
    assert_ok(json_read_file(path, 1 << 28, STATUS_DATA, &json));
    return json;
}

static inline json_t *read_gz(const char *path) {
    gzFile f = gzopen(path, "rb");
    assert_non_null(f);
    size_t capacity = 8 << 20, n = 0;
    char *text = malloc(capacity);
    for (int got; (got = gzread(f, text + n, (unsigned)(capacity - n))) > 0;) {
        n += (size_t)got;
        if (n == capacity) text = realloc(text, capacity *= 2);
    }
    gzclose(f);
    json_t *json;
    assert_ok(json_read_text(text, n, path, STATUS_DATA, &json));
    free(text);
    return json;
}

#endif
