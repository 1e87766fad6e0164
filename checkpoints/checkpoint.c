/* checkpoint.c: the reading half of checkpoint.h. */
#include "checkpoints/checkpoint.h"
#include "checkpoints/checkpoint_list.h"
#include "common/alloc.h"
#include "common/log.h"

#include <string.h>

enum { MAX_CONTENT = 256 << 20 }; /* bytes of the JSON part */

/* ---- opening one ---- */

static status read_content(checkpoint *c) {
    const hdf5_entry *e = hdf5_find(c->entries, c->count, "json");
    if (!e || e->format.type != DTYPE_U8 || e->bytes > MAX_CONTENT)
        return status_fail(STATUS_MODEL, "%s: has no dataset \"json\" of bytes", c->path);
    char *text = mem_alloc((size_t)e->bytes, "a checkpoint's state");
    if (!text) return STATUS_MEMORY;
    status s = file_read_at(&c->file, text, (size_t)e->bytes, e->offset);
    if (s == STATUS_OK)
        s = json_read_text(text, (size_t)e->bytes, c->path, STATUS_MODEL, &c->content);
    mem_free(text);
    if (s == STATUS_OK && !json_is_object(c->content))
        s = status_fail(STATUS_MODEL, "%s: its state must be an object", c->path);
    return s;
}

static status open_item(checkpoint *c, const checkpoint_item *item) {
    memset(c, 0, sizeof *c);
    if (item->fault) return status_fail(STATUS_MODEL, "%s", item->fault);
    status s = manifest_verify(&item->manifest); /* before libhdf5 sees a byte */
    if (s == STATUS_OK && !(c->path = mem_strdup(item->manifest.data_path))) s = STATUS_MEMORY;
    if (s == STATUS_OK) s = hdf5_list(c->path, &c->entries, &c->count);
    if (s == STATUS_OK) s = file_open(&c->file, c->path);
    if (s == STATUS_OK) s = read_content(c);
    if (s != STATUS_OK) checkpoint_close(c);
    c->step = item->step;
    return s;
}

/* The newest that opens; each one passed over is said. */
static status open_newest(const checkpoint_list *list, const char *folder, checkpoint *c,
                          bool *found) {
    for (size_t i = 0; i < list->count;
         i++) /* faulty manifests stand last, but are said first */
        if (list->items[i].fault)
            log_warn("%s; this checkpoint is passed over", list->items[i].fault);
    for (size_t i = 0; i < list->count && !list->items[i].fault; i++) {
        status s = open_item(c, &list->items[i]);
        *found = s == STATUS_OK;
        if (s == STATUS_OK || s == STATUS_MEMORY) return s;
        log_warn("%s; this checkpoint is passed over", status_message());
    }
    if (!list->count) return STATUS_OK;
    return status_fail(STATUS_MODEL, "%s: none of the %zu checkpoints there can be used",
                       folder, list->count);
}

static status find_in(const char *folder, checkpoint *c, bool *found) {
    checkpoint_list list;
    memset(c, 0, sizeof *c);
    *found = false;
    TRY(checkpoint_list_read(&list, folder));
    status s = open_newest(&list, folder, c, found);
    checkpoint_list_free(&list);
    return s;
}

status checkpoint_find(const char *output_dir, checkpoint *c, bool *found) {
    char *folder = checkpoint_folder(output_dir);
    if (!folder) return STATUS_MEMORY;
    status s = find_in(folder, c, found);
    mem_free(folder);
    return s;
}

static status open_folder(const char *path, checkpoint *c) {
    bool found = false;
    char *inner = checkpoint_folder(path);
    if (!inner) return STATUS_MEMORY;
    status s = find_in(file_is_directory(inner) ? inner : path, c, &found);
    mem_free(inner);
    if (s == STATUS_OK && !found)
        s = status_fail(STATUS_MODEL, "%s: holds no checkpoint (step-*.json)", path);
    return s;
}

status checkpoint_open(const char *path, checkpoint *c) {
    memset(c, 0, sizeof *c);
    if (file_is_directory(path)) return open_folder(path, c);
    if (!file_exists(path))
        return status_fail(STATUS_MODEL, "%s: there is no such checkpoint", path);
    /* step-000123.json, .h5, .2.h5: the manifest's name is what stands before the first dot */
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *manifest_path =
        mem_printf("%.*s.json", (int)(name - path + (ptrdiff_t)strcspn(name, ".")), path);
    if (!manifest_path) return STATUS_MEMORY;
    checkpoint_item item;
    status s = checkpoint_item_read(&item, manifest_path);
    mem_free(manifest_path);
    if (s == STATUS_OK) {
        s = open_item(c, &item);
        checkpoint_item_free(&item);
    }
    return s;
}

void checkpoint_close(checkpoint *c) {
    file_close(&c->file);
    hdf5_entries_free(c->entries, c->count);
    json_decref(c->content);
    mem_free(c->path);
    memset(c, 0, sizeof *c);
}

/* ---- reading tensors ---- */

bool checkpoint_has(const checkpoint *c, const char *name) {
    return hdf5_find(c->entries, c->count, name) != NULL;
}

static status find_tensor(const checkpoint *c, const char *name, const tensor_format *f,
                          const hdf5_entry **out) {
    const hdf5_entry *e = *out = hdf5_find(c->entries, c->count, name);
    if (!e) return status_fail(STATUS_MODEL, "%s: has no tensor \"%s\"", c->path, name);
    if (e->format.type == f->type && e->format.rows == f->rows && e->format.cols == f->cols)
        return STATUS_OK;
    return status_fail(STATUS_MODEL,
                       "%s: tensor \"%s\" is %s [%lld, %lld], this run wants %s [%lld, %lld]",
                       c->path, name, dtype_name(e->format.type), (long long)e->format.rows,
                       (long long)e->format.cols, dtype_name(f->type), (long long)f->rows,
                       (long long)f->cols);
}

status checkpoint_read_part(const checkpoint *c, const char *name,
                            const tensor_format *expected, int64_t first, int64_t bytes,
                            void *out) {
    const hdf5_entry *e;
    TRY(find_tensor(c, name, expected, &e));
    if (first < 0 || bytes < 0 || first > e->bytes || bytes > e->bytes - first)
        return status_fail(STATUS_INTERNAL, "%s: tensor \"%s\": bytes %lld + %lld of %lld",
                           c->path, name, (long long)first, (long long)bytes,
                           (long long)e->bytes);
    return file_read_at(&c->file, out, (size_t)bytes, e->offset + first);
}

status checkpoint_read(const checkpoint *c, const char *name, const tensor_format *expected,
                       void *out) {
    const hdf5_entry *e;
    TRY(find_tensor(c, name, expected, &e));
    return file_read_at(&c->file, out, (size_t)e->bytes, e->offset);
}
