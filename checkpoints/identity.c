/* identity.c: see identity.h. */
#include "checkpoints/identity.h"
#include "common/alloc.h"

#include <string.h>

enum { PIECE = 4 << 20, SAMPLE = 4096, SAMPLES = 4 }; /* bytes, bytes, blocks per tensor */

status identity_range(const file *f, int64_t offset, int64_t bytes, hash128 *out) {
    int64_t piece = bytes < PIECE ? bytes : PIECE;
    hash_stream *h = hash_open();
    void *buffer = mem_alloc((size_t)piece, "hashing a file");
    status s = h && buffer ? STATUS_OK : STATUS_MEMORY;
    for (int64_t at = 0; at < bytes && s == STATUS_OK; at += piece) {
        int64_t n = bytes - at < piece ? bytes - at : piece;
        s = file_read_at(f, buffer, (size_t)n, offset + at);
        if (s == STATUS_OK) hash_update(h, buffer, (size_t)n);
    }
    mem_free(buffer);
    if (h) *out = hash_close(h);
    return s;
}

status identity_tensor(const model_tensor *t, hash128 *out) {
    status s = identity_range(&t->file->file, t->entry->offset, t->entry->bytes, out);
    return s == STATUS_OK ? s : status_prefix(s, "tensor \"%.200s\"", t->entry->name);
}

status identity_add(json_t *tensors, const char *name, hash128 hash) {
    char text[HASH_TEXT];
    hash_format(hash, text);
    if (!json_object_set_new(tensors, name, json_string(text))) return STATUS_OK;
    return status_fail(STATUS_MEMORY, "out of memory for the identity of \"%.200s\"", name);
}

status identity_full(const model_files *m, json_t **tensors) {
    if (!(*tensors = json_object())) return status_fail(STATUS_MEMORY, "out of memory");
    status s = STATUS_OK;
    for (size_t i = 0; i < m->count && s == STATUS_OK; i++) {
        hash128 hash;
        s = identity_tensor(&m->tensors[i], &hash);
        if (s == STATUS_OK) s = identity_add(*tensors, m->tensors[i].entry->name, hash);
    }
    if (s == STATUS_OK) return s;
    json_decref(*tensors);
    *tensors = NULL;
    return s;
}

status identity_digest(const json_t *tensors, char text[HASH_TEXT]) {
    char *sorted = json_write_text(tensors, JSON_SORT_KEYS);
    if (!sorted) return status_fail(STATUS_MEMORY, "out of memory for a base's identity");
    hash_format(hash_bytes(sorted, strlen(sorted)), text);
    mem_free(sorted);
    return STATUS_OK;
}

/* ---- the quick check ---- */

static void hash_number(hash_stream *h, int64_t x) {
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)x >> 8 * i);
    hash_update(h, bytes, 8);
}

static void hash_text(hash_stream *h, const char *text) {
    hash_update(h, text, strlen(text) + 1);
}

static status hash_samples(hash_stream *h, const model_tensor *t) {
    unsigned char block[SAMPLE];
    int64_t bytes = t->entry->bytes, n = bytes < SAMPLE ? bytes : SAMPLE;
    for (int i = 0; i < SAMPLES; i++) { /* evenly from the first block to the last */
        int64_t at = (bytes - n) / (SAMPLES - 1) * i;
        if (i == SAMPLES - 1) at = bytes - n;
        TRY(model_tensor_read(t, at, n, block));
        hash_update(h, block, (size_t)n);
    }
    return STATUS_OK;
}

status identity_quick(const model_files *m, hash128 *out) {
    hash_stream *h = hash_open();
    if (!h) return STATUS_MEMORY;
    status s = STATUS_OK;
    for (size_t i = 0; i < m->count && s == STATUS_OK; i++) {
        const safetensors_entry *e = m->tensors[i].entry;
        hash_text(h, e->name);
        hash_text(h, e->type_name);
        hash_number(h, e->rank);
        for (int k = 0; k < e->rank; k++) hash_number(h, e->shape[k]);
        s = hash_samples(h, &m->tensors[i]);
    }
    *out = hash_close(h);
    return s;
}

/* ---- comparison ---- */

/* How many names of `a` have another value in `b`, or none; *first is one of them. */
static size_t count_differences(const json_t *a, const json_t *b, bool only_missing,
                                const char **first) {
    const char *name;
    json_t *value;
    size_t n = 0;
    json_object_foreach((json_t *)a, name, value) {
        const json_t *other = json_object_get(b, name);
        if (only_missing ? other != NULL : other && json_equal(value, (json_t *)other))
            continue;
        if (!n++ && !*first) *first = name;
    }
    return n;
}

status identity_compare(const json_t *expected, const json_t *found, const char *expected_of,
                        const char *found_in) {
    const char *first = NULL;
    size_t n = count_differences(expected, found, false, &first);
    n += count_differences(found, expected, true, &first);
    if (!n) return STATUS_OK;
    return status_fail(STATUS_MODEL,
                       "%s is not the base of %s: %zu of %zu tensors differ, first \"%.200s\"",
                       found_in, expected_of, n, json_object_size(expected), first);
}
