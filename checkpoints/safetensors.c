/* safetensors.c: see safetensors.h. */
#include "checkpoints/safetensors.h"
#include "common/alloc.h"
#include "common/checked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every type that the format knows, in the reference's order. */
static const struct {
    const char *name;
    int bits;
    dtype type;
} types[] = {
    {"BOOL", 8, DTYPE_COUNT},
    {"F4", 4, DTYPE_COUNT},
    {"F6_E2M3", 6, DTYPE_COUNT},
    {"F6_E3M2", 6, DTYPE_COUNT},
    {"U8", 8, DTYPE_U8},
    {"I8", 8, DTYPE_COUNT},
    {"F8_E5M2", 8, DTYPE_COUNT},
    {"F8_E4M3", 8, DTYPE_COUNT},
    {"F8_E8M0", 8, DTYPE_COUNT},
    {"F8_E4M3FNUZ", 8, DTYPE_COUNT},
    {"F8_E5M2FNUZ", 8, DTYPE_COUNT},
    {"I16", 16, DTYPE_COUNT},
    {"U16", 16, DTYPE_COUNT},
    {"F16", 16, DTYPE_F16},
    {"BF16", 16, DTYPE_BF16},
    {"I32", 32, DTYPE_I32},
    {"U32", 32, DTYPE_COUNT},
    {"F32", 32, DTYPE_F32},
    {"C64", 64, DTYPE_COUNT},
    {"F64", 64, DTYPE_F64},
    {"I64", 64, DTYPE_COUNT},
    {"U64", 64, DTYPE_COUNT},
};
enum { TYPES = sizeof types / sizeof *types };

int safetensors_type_order(dtype type) {
    for (int i = 0; i < TYPES && type != DTYPE_COUNT; i++)
        if (types[i].type == type) return i;
    return -1;
}

const char *safetensors_type_name(dtype type) {
    int i = safetensors_type_order(type);
    return i < 0 ? NULL : types[i].name;
}

static int find_type(const char *name) {
    for (int i = 0; name && i < TYPES; i++)
        if (!strcmp(name, types[i].name)) return i;
    return -1;
}

char *safetensors_shape_text(const safetensors_entry *e, char *text, size_t bytes) {
    size_t n = (size_t)snprintf(text, bytes, "[");
    for (int i = 0; i < e->rank && n < bytes; i++)
        n += (size_t)snprintf(text + n, bytes - n, "%s%lld", i ? ", " : "",
                              (long long)e->shape[i]);
    if (n < bytes) snprintf(text + n, bytes - n, "]");
    return text;
}

/* ---- the header ---- */

static status read_header(safetensors *st) {
    unsigned char head[8];
    const char *path = st->file.path;
    if (st->file.size < 8)
        return status_fail(STATUS_MODEL, "%s: %lld bytes are too few for a safetensors file",
                           path, (long long)st->file.size);
    TRY(file_read_at(&st->file, head, 8, 0));
    if (!memcmp(head, "version ", 8))
        return status_fail(
            STATUS_MODEL,
            "%s: is a Git-LFS pointer, not the tensors themselves: run `git lfs "
            "pull` in its folder, or download it again",
            path);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | head[i];
    if (n > SAFETENSORS_MAX_HEADER)
        return status_fail(STATUS_MODEL,
                           "%s: claims a header of %llu bytes (at most %d): not a safetensors "
                           "file, or damaged",
                           path, (unsigned long long)n, SAFETENSORS_MAX_HEADER);
    if ((int64_t)n > st->file.size - 8)
        return status_fail(STATUS_MODEL,
                           "%s: ends at byte %lld inside its header of %llu bytes: truncated, "
                           "download it again",
                           path, (long long)st->file.size, (unsigned long long)n);
    char *text = mem_alloc(n + 1, "a safetensors header");
    if (!text) return STATUS_MEMORY;
    status s = file_read_at(&st->file, text, n, 8);
    if (s == STATUS_OK) s = json_read_text(text, n, path, STATUS_MODEL, &st->header);
    mem_free(text);
    st->header_bytes = 8 + (int64_t)n;
    if (s == STATUS_OK && !json_is_object(st->header))
        s = status_fail(STATUS_MODEL, "%s: the header must be an object, it is %s", path,
                        json_type_name(st->header));
    return s;
}

static status check_metadata(safetensors *st) {
    const json_t *m = json_object_get(st->header, "__metadata__");
    if (!m || json_is_null(m)) return STATUS_OK;
    const char *key;
    json_t *value;
    if (!json_is_object(m))
        return status_fail(STATUS_MODEL, "%s: __metadata__ must be an object", st->file.path);
    json_object_foreach((json_t *)m, key, value) {
        if (!json_is_string(value))
            return status_fail(STATUS_MODEL,
                               "%s: __metadata__: \"%s\" must be a string, it is %s",
                               st->file.path, key, json_type_name(value));
    }
    st->metadata = m;
    return STATUS_OK;
}

static status bad(const safetensors *st, const char *name, const char *what) {
    return status_fail(STATUS_MODEL, "%s: tensor \"%.200s\": %s", st->file.path, name, what);
}

/* "shape" into *shape, advancing it, and the product into e->elements. */
static status parse_shape(safetensors *st, safetensors_entry *e, const json_t *dims,
                          int64_t **shape) {
    e->shape = *shape;
    e->rank = (int)json_array_size(dims);
    e->elements = 1;
    for (int i = 0; i < e->rank; i++) {
        const json_t *d = json_array_get(dims, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return bad(st, e->name, "a dimension of its shape is not a non-negative integer");
        *(*shape)++ = json_integer_value(d);
        if (!checked_mul_i64(e->elements, json_integer_value(d), &e->elements))
            return bad(st, e->name, "its shape has more elements than 64 bits can count");
    }
    return STATUS_OK;
}

static status parse_entry(safetensors *st, safetensors_entry *e, const json_t *value,
                          int64_t **shape) {
    const json_t *dims = json_object_get(value, "shape");
    const json_t *offsets = json_object_get(value, "data_offsets");
    const char *type_name = json_string_value(json_object_get(value, "dtype"));
    int type = find_type(type_name);
    if (type < 0)
        return status_fail(STATUS_MODEL,
                           "%s: tensor \"%.200s\": dtype \"%.40s\" is not one of the format's",
                           st->file.path, e->name, type_name ? type_name : "(none)");
    e->type_name = types[type].name;
    e->type = types[type].type;
    if (!json_is_array(dims)) return bad(st, e->name, "has no shape");
    TRY(parse_shape(st, e, dims, shape));
    const json_t *first = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(end))
        return bad(st, e->name, "data_offsets must be two integers");
    int64_t from = json_integer_value(first), to = json_integer_value(end), size_bits;
    int64_t room = st->file.size - st->header_bytes;
    if (from < 0 || from > to) return bad(st, e->name, "data_offsets are not in order");
    if (to > room)
        return status_fail(
            STATUS_MODEL,
            "%s: tensor \"%.200s\" ends at data byte %lld, the file holds %lld: "
            "truncated, download it again",
            st->file.path, e->name, (long long)to, (long long)room);
    e->offset = from;
    e->bytes = to - from;
    if (!checked_mul_i64(e->elements, types[type].bits, &size_bits))
        return bad(st, e->name, "its shape has more bits than 64 bits can count");
    if (size_bits % 8 || size_bits / 8 != e->bytes) {
        char text[200];
        return status_fail(STATUS_MODEL,
                           "%s: tensor \"%.200s\": %s %s does not take the %lld bytes "
                           "of its data_offsets",
                           st->file.path, e->name, e->type_name,
                           safetensors_shape_text(e, text, sizeof text), (long long)e->bytes);
    }
    e->offset += st->header_bytes;
    return STATUS_OK;
}

static int by_offset(const void *a, const void *b) {
    const safetensors_entry *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(safetensors_entry *const *)a)->name,
                  (*(safetensors_entry *const *)b)->name);
}

/* Each byte after the header belongs to one tensor: no holes, no overlaps, nothing behind. */
static status check_cover(const safetensors *st) {
    int64_t at = st->header_bytes;
    for (size_t i = 0; i < st->count; i++) {
        const safetensors_entry *e = &st->entries[i];
        if (e->offset != at)
            return status_fail(STATUS_MODEL,
                               "%s: tensor \"%.200s\" starts at byte %lld, the one "
                               "before ends at %lld: %s",
                               st->file.path, e->name, (long long)e->offset, (long long)at,
                               e->offset < at ? "they overlap" : "a hole between them");
        at += e->bytes;
    }
    if (at != st->file.size)
        return status_fail(STATUS_MODEL, "%s: the tensors end at byte %lld, the file at %lld",
                           st->file.path, (long long)at, (long long)st->file.size);
    return STATUS_OK;
}

static status count_dimensions(const safetensors *st, size_t *tensors, size_t *dimensions) {
    const char *key;
    json_t *value;
    *tensors = *dimensions = 0;
    json_object_foreach(st->header, key, value) {
        if (!strcmp(key, "__metadata__")) continue;
        if (!json_is_object(value)) return bad(st, key, "must be an object");
        *tensors += 1;
        *dimensions += json_array_size(json_object_get(value, "shape"));
    }
    return STATUS_OK;
}

static status parse_entries(safetensors *st) {
    size_t tensors, dimensions;
    TRY(count_dimensions(st, &tensors, &dimensions));
    st->entries = mem_alloc_array(tensors, sizeof *st->entries, "safetensors entries");
    st->by_name = mem_alloc_array(tensors, sizeof *st->by_name, "safetensors entries");
    st->shapes = mem_alloc_array(dimensions, sizeof *st->shapes, "safetensors shapes");
    if (!st->entries || !st->by_name || !st->shapes) return STATUS_MEMORY;
    int64_t *shape = st->shapes;
    const char *key;
    json_t *value;
    json_object_foreach(st->header, key, value) {
        if (!strcmp(key, "__metadata__")) continue;
        safetensors_entry *e = &st->entries[st->count++];
        e->name = key;
        TRY(parse_entry(st, e, value, &shape));
    }
    qsort(st->entries, st->count, sizeof *st->entries, by_offset);
    for (size_t i = 0; i < st->count; i++) st->by_name[i] = &st->entries[i];
    qsort(st->by_name, st->count, sizeof *st->by_name, by_name);
    return check_cover(st);
}

/* ---- the interface ---- */

status safetensors_open(safetensors *st, const char *path) {
    memset(st, 0, sizeof *st);
    status s = file_open(&st->file, path);
    if (s == STATUS_IO) return STATUS_MODEL; /* a missing model, not a failing disk */
    TRY(s);
    s = read_header(st);
    if (s == STATUS_OK) s = check_metadata(st);
    if (s == STATUS_OK) s = parse_entries(st);
    if (s != STATUS_OK) safetensors_close(st);
    return s;
}

void safetensors_close(safetensors *st) {
    file_close(&st->file);
    mem_free(st->entries);
    mem_free(st->by_name);
    mem_free(st->shapes);
    json_decref(st->header);
    memset(st, 0, sizeof *st);
}

const safetensors_entry *safetensors_find(const safetensors *st, const char *name) {
    safetensors_entry key = {.name = name}, *wanted = &key;
    const safetensors_entry *const *found =
        st->count ? bsearch(&wanted, st->by_name, st->count, sizeof *st->by_name, by_name)
                  : NULL;
    return found ? *found : NULL;
}

status safetensors_read(const safetensors *st, const safetensors_entry *e, int64_t first,
                        int64_t bytes, void *out) {
    if (first < 0 || bytes < 0 || first > e->bytes || bytes > e->bytes - first)
        return status_fail(STATUS_INTERNAL, "%s: tensor \"%s\": bytes %lld + %lld of %lld",
                           st->file.path, e->name, (long long)first, (long long)bytes,
                           (long long)e->bytes);
    status s = file_read_at(&st->file, out, (size_t)bytes, e->offset + first);
    return s == STATUS_OK ? s : status_prefix(s, "tensor \"%.200s\"", e->name);
}
