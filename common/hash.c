/* hash.c: xxhash behind our allocator. */
#include "common/hash.h"
#include "common/alloc.h"
#include "common/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

struct hash_stream {
    XXH3_state_t *state;
};

static hash128 convert(XXH128_hash_t h) {
    return (hash128){h.low64, h.high64};
}

hash128 hash_bytes(const void *data, size_t bytes) {
    return convert(XXH3_128bits(data, bytes));
}

hash_stream *hash_open(void) {
    hash_stream *h = mem_alloc(sizeof *h, "a hash");
    if (!h) return NULL;
    h->state = XXH3_createState();
    if (!h->state) {
        mem_free(h);
        status_fail(STATUS_MEMORY, "out of memory for a hash");
        return NULL;
    }
    XXH3_128bits_reset(h->state);
    return h;
}

void hash_update(hash_stream *h, const void *data, size_t bytes) {
    XXH3_128bits_update(h->state, data, bytes);
}

hash128 hash_close(hash_stream *h) {
    hash128 out = convert(XXH3_128bits_digest(h->state));
    XXH3_freeState(h->state);
    mem_free(h);
    return out;
}

void hash_format(hash128 h, char text[HASH_TEXT]) {
    snprintf(text, HASH_TEXT, "%016" PRIx64 "%016" PRIx64, h.high, h.low);
}

int hash_parse(const char *text, hash128 *out) {
    if (strlen(text) != HASH_TEXT - 1) return -1;
    if (strspn(text, "0123456789abcdef") != HASH_TEXT - 1) return -1;
    return sscanf(text, "%16" SCNx64 "%16" SCNx64, &out->high, &out->low) == 2 ? 0 : -1;
}
