/* safetensors_made.h: safetensors files with any header, for tests of what reads them. */
#ifndef NIBBLE_TESTS_SAFETENSORS_MADE_H
#define NIBBLE_TESTS_SAFETENSORS_MADE_H

#include "checkpoints/bnb.h"
#include "checkpoints/model_files.h"
#include "checkpoints/peft.h"
#include "checkpoints/safetensors.h"
#include "checkpoints/safetensors_writer.h"
#include "quant/double.h"
#include "quant/dynamic.h"
#include "scratch.h"

#include <errno.h>
#include <math.h>

/* A file of this header and data; returns its path. */
static const char *make(const char *header, const void *data, size_t bytes) {
    size_t n = strlen(header);
    char *all = malloc(8 + n + bytes);
    for (int i = 0; i < 8; i++) all[i] = (char)(n >> 8 * i);
    memcpy(all + 8, header, n);
    memcpy(all + 8 + n, data, bytes);
    const char *path = scratch("made.safetensors");
    put_file(path, all, 8 + n + bytes);
    free(all);
    return path;
}

static inline void refuse(const char *header, size_t bytes, const char *part) {
    static const char zeros[256];
    safetensors st;
    assert_fails(safetensors_open(&st, make(header, zeros, bytes)), STATUS_MODEL, part);
}

static inline void accept(const char *header, size_t bytes) {
    static const char zeros[256];
    safetensors st;
    assert_ok(safetensors_open(&st, make(header, zeros, bytes)));
    safetensors_close(&st);
}

#endif
