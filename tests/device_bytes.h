/* device_bytes.h: a piece of a back end's memory for a test: made, filled, compared, freed.
 * Each is an allocation of its own of exactly its bytes, so that the emulator sees what leaves
 * it. */
#ifndef NIBBLE_TESTS_DEVICE_BYTES_H
#define NIBBLE_TESTS_DEVICE_BYTES_H

#include "op_bench.h"

#include "autograd/backend.h"
#include "common/alloc.h"

#include <string.h>

typedef struct device_bytes {
    void *at; /* NULL: no bytes */
    int64_t bytes;
} device_bytes;

static inline device_bytes device_from(backend *b, const void *bytes, int64_t n) {
    device_bytes d = {NULL, n};
    if (n == 0) return d;
    assert_int_equal(b->table->reserve(b, false, n, &d.at), STATUS_OK);
    assert_int_equal(b->table->upload(b, d.at, bytes, n), STATUS_OK);
    return d;
}

static inline device_bytes device_filled(backend *b, int byte, int64_t n) {
    device_bytes d = {NULL, n};
    if (n == 0) return d;
    assert_int_equal(b->table->reserve(b, false, n, &d.at), STATUS_OK);
    assert_int_equal(b->table->fill(b, d.at, byte, n), STATUS_OK);
    return d;
}

/* A copy of them on the host, for mem_free. */
static inline char *device_fetch(backend *b, const device_bytes *d) {
    char *host = bench_alloc(d->bytes + 1);
    if (d->bytes && b->table->download(b, host, d->at, d->bytes) != STATUS_OK)
        fail_msg("download: %s", status_message());
    return host;
}

/* Fails unless they are `want`, naming the first byte that differs. */
static inline void device_check(backend *b, const device_bytes *d, const void *want,
                                const char *what) {
    char *got = device_fetch(b, d);
    for (int64_t i = 0; i < d->bytes; i++)
        if (got[i] != ((const char *)want)[i])
            fail_msg("%s: byte %lld of %lld is %02x, not %02x", what, (long long)i,
                     (long long)d->bytes, got[i] & 255, ((const char *)want)[i] & 255);
    mem_free(got);
}

static inline void device_free(backend *b, device_bytes *d) {
    if (d->at) b->table->release(b, false, d->at, d->bytes);
    *d = (device_bytes){0};
}

#endif
