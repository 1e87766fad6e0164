/* safetensors_writer.c: see safetensors_writer.h. */
#include "checkpoints/safetensors_writer.h"
#include "checkpoints/safetensors.h"
#include "common/alloc.h"
#include "common/checked.h"

#include <stdlib.h>
#include <string.h>

status safetensors_create(safetensors_writer *w, const char *path) {
    memset(w, 0, sizeof *w);
    w->file.fd = -1;
    w->path = mem_strdup(path);
    w->temporary = mem_printf("%s.tmp", path);
    if (w->path && w->temporary) return STATUS_OK;
    safetensors_abandon(w);
    return STATUS_MEMORY;
}

status safetensors_declare(safetensors_writer *w, const char *name, dtype type, int rank,
                           const int64_t *shape) {
    safetensors_item item = {.type = type, .rank = rank};
    if (w->data_start || !safetensors_type_name(type) || rank < 0 || rank > 8)
        return status_fail(STATUS_INTERNAL, "%s: tensor \"%s\" cannot be declared", w->path,
                           name);
    item.bytes = dtype_bytes(type);
    for (int i = 0; i < rank; i++) {
        item.shape[i] = shape[i];
        if (shape[i] < 0 || !checked_mul_i64(item.bytes, shape[i], &item.bytes))
            return status_fail(STATUS_INTERNAL, "%s: tensor \"%s\" is too large", w->path,
                               name);
    }
    if (mem_grow(&w->items, &w->capacity, w->count + 1, sizeof item, "tensors to write"))
        return STATUS_MEMORY;
    if (!(item.name = mem_strdup(name))) return STATUS_MEMORY;
    w->items[w->count++] = item;
    return STATUS_OK;
}

/* ---- layout and header ---- */

static int by_place(const void *a, const void *b) {
    const safetensors_item *x = a, *y = b;
    int p = safetensors_type_order(x->type), q = safetensors_type_order(y->type);
    return p != q ? q - p : strcmp(x->name, y->name);
}

static status lay_out(safetensors_writer *w) {
    if (w->count) qsort(w->items, w->count, sizeof *w->items, by_place);
    int64_t at = 0;
    for (size_t i = 0; i < w->count; i++) {
        w->items[i].offset = at;
        if (!checked_add_i64(at, w->items[i].bytes, &at))
            return status_fail(STATUS_INTERNAL, "%s: more than 2^63 bytes", w->path);
    }
    return STATUS_OK;
}

static json_t *describe(const safetensors_item *item) {
    json_t *shape = json_array();
    for (int i = 0; shape && i < item->rank; i++)
        if (json_array_append_new(shape, json_integer(item->shape[i]))) {
            json_decref(shape);
            return NULL;
        }
    /* "o" takes the list over, also when packing fails */
    return shape
               ? json_pack("{s:s, s:o, s:[I, I]}", "dtype", safetensors_type_name(item->type),
                           "shape", shape, "data_offsets", (json_int_t)item->offset,
                           (json_int_t)(item->offset + item->bytes))
               : NULL;
}

/* The header as the reference prints it: compact, metadata first. */
static status header_text(const safetensors_writer *w, const char *format, char **text) {
    json_t *header = json_object(), *metadata = json_object();
    if (format) json_put(&metadata, "format", json_string(format));
    if (w->base_hash) json_put(&metadata, "base_xxh3_128", json_string(w->base_hash));
    if (format || w->base_hash)
        json_put(&header, "__metadata__", metadata);
    else
        json_decref(metadata);
    status s = STATUS_OK;
    for (size_t i = 0; i < w->count && header && s == STATUS_OK; i++) {
        if (json_object_get(header, w->items[i].name))
            s = status_fail(STATUS_INTERNAL, "%s: two tensors \"%s\"", w->path,
                            w->items[i].name);
        else
            json_put(&header, w->items[i].name, describe(&w->items[i]));
    }
    *text = header && s == STATUS_OK ? json_write_text(header, 0) : NULL;
    if (!*text && s == STATUS_OK)
        s = status_fail(STATUS_MEMORY, "%s: out of memory for its header", w->path);
    json_decref(header);
    return s;
}

static status write_header(safetensors_writer *w, const char *text) {
    size_t n = strlen(text), padded = (size_t)round_up_i64((int64_t)n, 8);
    if (padded > SAFETENSORS_MAX_HEADER)
        return status_fail(STATUS_INTERNAL, "%s: a header of %zu bytes", w->path, padded);
    char *head = mem_alloc(8 + padded, "a safetensors header");
    if (!head) return STATUS_MEMORY;
    for (int i = 0; i < 8; i++) head[i] = (char)(padded >> 8 * i);
    memcpy(head + 8, text, n);
    memset(head + 8 + n, ' ', padded - n);
    status s = file_write_at(&w->file, head, 8 + padded, 0);
    mem_free(head);
    w->data_start = 8 + (int64_t)padded;
    return s;
}

status safetensors_begin(safetensors_writer *w, const char *format) {
    TRY(lay_out(w));
    char *text;
    TRY(header_text(w, format, &text));
    status s = file_create(&w->file, w->temporary, false);
    if (s == STATUS_OK) s = write_header(w, text);
    mem_free(text);
    return s;
}

/* ---- data ---- */

static safetensors_item *find(safetensors_writer *w, const char *name) {
    for (size_t i = 0; i < w->count; i++)
        if (!strcmp(w->items[i].name, name)) return &w->items[i];
    return NULL;
}

status safetensors_write(safetensors_writer *w, const char *name, const void *data,
                         size_t bytes) {
    safetensors_item *item = w->data_start ? find(w, name) : NULL;
    if (!item || (int64_t)bytes > item->bytes - item->written)
        return status_fail(STATUS_INTERNAL, "%s: %zu bytes of \"%s\" were not declared",
                           w->path, bytes, name);
    TRY(file_write_at(&w->file, data, bytes, w->data_start + item->offset + item->written));
    item->written += (int64_t)bytes;
    return STATUS_OK;
}

static status complete(const safetensors_writer *w) {
    if (!w->data_start) return status_fail(STATUS_INTERNAL, "%s: never begun", w->path);
    for (size_t i = 0; i < w->count; i++)
        if (w->items[i].written != w->items[i].bytes)
            return status_fail(STATUS_INTERNAL,
                               "%s: tensor \"%s\": %lld of %lld bytes written", w->path,
                               w->items[i].name, (long long)w->items[i].written,
                               (long long)w->items[i].bytes);
    return STATUS_OK;
}

status safetensors_finish(safetensors_writer *w) {
    status s = complete(w);
    if (s == STATUS_OK) s = file_sync(&w->file);
    status closed = file_close(&w->file);
    if (s == STATUS_OK) s = closed;
    if (s == STATUS_OK) s = file_rename(w->temporary, w->path);
    if (s == STATUS_OK) s = file_sync_parent(w->path);
    safetensors_abandon(w); /* unlinks nothing after a rename */
    return s;
}

void safetensors_abandon(safetensors_writer *w) {
    bool begun = w->data_start != 0 || w->file.path;
    file_close(&w->file);
    if (w->temporary && begun) file_unlink(w->temporary);
    for (size_t i = 0; i < w->count; i++) mem_free(w->items[i].name);
    mem_free(w->items);
    mem_free(w->path);
    mem_free(w->temporary);
    memset(w, 0, sizeof *w);
    w->file.fd = -1;
}
