/* cache.c: see cache.h. */
#include "checkpoints/cache.h"
#include "checkpoints/hdf5_file.h"
#include "checkpoints/identity.h"
#include "common/alloc.h"
#include "common/checked.h"

#include <stdlib.h>
#include <string.h>

#define FORMAT "nibble-quantized-base"

enum {
    SAMPLES = 256,
    SAMPLE = 4096,              /* bytes */
    ROOM_EACH = 3 * CACHE_ALIGN /* object header and padding of an item */
};

/* ---- the quick hash ---- */

static status hash_range(hash_stream *h, const file *f, int64_t from, int64_t to) {
    unsigned char block[SAMPLE];
    for (int64_t n; from < to; from += n) {
        n = min_i64(to - from, SAMPLE);
        TRY(file_read_at(f, block, (size_t)n, from));
        hash_update(h, block, (size_t)n);
    }
    return STATUS_OK;
}

/* Everything between the items, then blocks spread evenly over the file. */
static status hash_quickly(hash_stream *h, const file *f, int64_t size,
                           const cache_item *items, size_t count) {
    int64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        TRY(hash_range(h, f, at, items[i].offset));
        at = items[i].offset + items[i].bytes;
    }
    TRY(hash_range(h, f, at, size));
    int64_t span = max_i64(size - SAMPLE, 0);
    for (int i = 0; i < SAMPLES; i++) {
        int64_t from =
            i == SAMPLES - 1 ? span : span / (SAMPLES - 1) * i; /* to the last byte */
        TRY(hash_range(h, f, from, min_i64(from + SAMPLE, size)));
    }
    return STATUS_OK;
}

static status quick_hash(const file *f, int64_t size, const cache_item *items, size_t count,
                         hash128 *out) {
    hash_stream *h = hash_open();
    if (!h) return STATUS_MEMORY;
    status s = hash_quickly(h, f, size, items, count);
    *out = hash_close(h);
    return s;
}

/* ---- writing ---- */

static void free_items(cache_item *items, size_t count) {
    for (size_t i = 0; i < count; i++) mem_free(items[i].name);
    mem_free(items);
}

static char *manifest_path(const char *path) {
    return mem_printf("%s.json", path);
}

static status copy_items(cache_writer *w, const cache_item *items, size_t count) {
    if (!(w->items = mem_alloc_array(count, sizeof *w->items, "a cache's items")))
        return STATUS_MEMORY;
    for (size_t i = 0; i < count; i++) {
        if (!(w->items[i].name = mem_strdup(items[i].name))) return STATUS_MEMORY;
        w->items[i].bytes = items[i].bytes;
        w->count++;
        if (items[i].bytes < 1 || !checked_add_i64(w->total, items[i].bytes, &w->total))
            return status_fail(STATUS_INTERNAL, "%s: item \"%s\" of %lld bytes", w->path,
                               items[i].name, (long long)items[i].bytes);
    }
    return STATUS_OK;
}

static status make_file(cache_writer *w) {
    hdf5_entry *entries = mem_alloc_array(w->count, sizeof *entries, "a cache's items");
    if (!entries) return STATUS_MEMORY;
    for (size_t i = 0; i < w->count; i++) {
        entries[i].name = w->items[i].name;
        entries[i].format = format_of(DTYPE_U8, 1, w->items[i].bytes);
    }
    status s = file_unlink(w->temporary); /* of a run that died: we hold the lock */
    if (s == STATUS_OK) s = hdf5_make(w->temporary, entries, w->count, CACHE_ALIGN);
    for (size_t i = 0; i < w->count && s == STATUS_OK; i++)
        w->items[i].offset = entries[i].offset;
    mem_free(entries);
    return s == STATUS_OK ? file_open_update(&w->file, w->temporary) : s;
}

static status make_folder(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path) return STATUS_OK;
    char *folder = mem_strndup(path, (size_t)(slash - path));
    if (!folder) return STATUS_MEMORY;
    status s = file_make_directories(folder);
    mem_free(folder);
    return s;
}

static status create(cache_writer *w, const char *path, const cache_item *items,
                     size_t count) {
    int64_t need;
    if (!(w->path = mem_strdup(path))) return STATUS_MEMORY;
    TRY(make_folder(path));
    TRY(copy_items(w, items, count));
    if (!checked_add_i64(w->total, ROOM_EACH * ((int64_t)count + 16), &need))
        return status_fail(STATUS_INTERNAL, "%s: more than 2^63 bytes", path);
    TRY(output_lock_take_file(&w->lock, path));
    if (!(w->temporary = mem_printf("%s.tmp", path))) return STATUS_MEMORY;
    TRY(file_require_space(path, need, "the quantized cache"));
    return make_file(w);
}

status cache_create(cache_writer *w, const char *path, const cache_item *items, size_t count) {
    memset(w, 0, sizeof *w);
    w->file.fd = -1;
    status s = create(w, path, items, count);
    if (s != STATUS_OK) cache_abandon(w);
    return s;
}

status cache_write(cache_writer *w, size_t item, int64_t at, const void *data, int64_t bytes) {
    const cache_item *c = item < w->count ? &w->items[item] : NULL;
    if (!c || at < 0 || bytes < 0 || at > c->bytes || bytes > c->bytes - at)
        return status_fail(STATUS_INTERNAL, "%s: item %zu: bytes %lld + %lld of %lld", w->path,
                           item, (long long)at, (long long)bytes, c ? (long long)c->bytes : 0);
    /* the file's own size field is not for threads to share: write through a copy */
    file f = w->file;
    TRY(file_write_at(&f, data, (size_t)bytes, c->offset + at));
    atomic_fetch_add(&w->written, bytes);
    return STATUS_OK;
}

static json_t *describe(const cache_writer *w, hash128 quick, const json_t *metadata) {
    char text[HASH_TEXT];
    hash_format(quick, text);
    json_t *items = json_array();
    int failed = !items;
    for (size_t i = 0; i < w->count && !failed; i++)
        failed = json_array_append_new(items, json_pack("[s, I, I]", w->items[i].name,
                                                        (json_int_t)w->items[i].offset,
                                                        (json_int_t)w->items[i].bytes));
    if (!failed)
        return json_pack("{s:s, s:O, s:o}", "quick", text, "metadata", metadata, "items",
                         items);
    json_decref(items);
    return NULL;
}

/* No data without a manifest, after a failure. The cause's message stays. */
static void take_back(const cache_writer *w, const char *manifest_file) {
    char cause[2048];
    snprintf(cause, sizeof cause, "%s", status_message());
    file_unlink(manifest_file);
    file_unlink(w->path);
    status_set(STATUS_IO, cause);
}

static status commit(cache_writer *w, const json_t *metadata, const char *manifest_file) {
    hash128 whole = {0, 0}, quick = {0, 0};
    file f;
    TRY(file_open(&f, w->temporary));
    file_forget(&f);
    int64_t size = f.size;
    status s = identity_range(&f, 0, size, &whole);
    if (s == STATUS_OK) s = quick_hash(&f, size, w->items, w->count, &quick);
    file_close(&f);
    TRY(s);
    json_t *more = describe(w, quick, metadata);
    if (!more)
        return status_fail(STATUS_MEMORY, "%s: out of memory for its manifest", w->path);
    const char *slash = strrchr(w->path, '/');
    s = file_unlink(manifest_file); /* of an older cache, whose data goes now */
    if (s == STATUS_OK) s = file_rename(w->temporary, w->path);
    bool named = s == STATUS_OK;
    if (s == STATUS_OK) s = file_sync_parent(w->path);
    if (s == STATUS_OK)
        s = manifest_write(manifest_file, FORMAT, CACHE_VERSION, slash ? slash + 1 : w->path,
                           size, whole, more);
    json_decref(more);
    if (s != STATUS_OK && named) take_back(w, manifest_file);
    return s;
}

static int by_offset(const void *a, const void *b) {
    const cache_item *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static status finish(cache_writer *w, const json_t *metadata) {
    long long written = atomic_load(&w->written);
    if (written != w->total)
        return status_fail(STATUS_INTERNAL, "%s: %lld of %lld bytes written", w->path, written,
                           (long long)w->total);
    TRY(file_sync(&w->file));
    /* libhdf5 may put a small item into a gap before a large one; from here on only places
     * count */
    if (w->count) qsort(w->items, w->count, sizeof *w->items, by_offset);
    char *manifest_file = manifest_path(w->path);
    if (!manifest_file) return STATUS_MEMORY;
    status s = commit(w, metadata, manifest_file);
    mem_free(manifest_file);
    return s;
}

status cache_finish(cache_writer *w, const json_t *metadata) {
    status s = finish(w, metadata);
    cache_abandon(w);
    return s;
}

void cache_abandon(cache_writer *w) {
    file_close(&w->file);
    if (w->temporary) file_unlink(w->temporary); /* gone already when it was finished */
    free_items(w->items, w->count);
    mem_free(w->path);
    mem_free(w->temporary);
    output_lock_release(&w->lock);
    memset(w, 0, sizeof *w);
    w->file.fd = -1;
}

/* ---- reading ---- */

static status malformed(const cache *c) {
    return status_fail(STATUS_MODEL,
                       "%s: its manifest is malformed: remove both and quantize again",
                       c->manifest.data_path);
}

static status parse_item(cache *c, const json_t *value, int64_t *end) {
    cache_item *item = &c->items[c->count];
    const char *name = json_string_value(json_array_get(value, 0));
    const json_t *offset = json_array_get(value, 1), *bytes = json_array_get(value, 2);
    if (json_array_size(value) != 3 || !name || !json_is_integer(offset) ||
        !json_is_integer(bytes))
        return malformed(c);
    item->offset = json_integer_value(offset);
    item->bytes = json_integer_value(bytes);
    if (item->offset < *end || item->offset % CACHE_ALIGN || item->bytes < 1 ||
        item->offset > c->manifest.bytes || item->bytes > c->manifest.bytes - item->offset)
        return malformed(c);
    *end = item->offset + item->bytes;
    if (!(item->name = mem_strdup(name))) return STATUS_MEMORY;
    c->count++;
    return STATUS_OK;
}

static status parse_items(cache *c) {
    const json_t *list = json_object_get(c->manifest.json, "items");
    size_t n = json_array_size(list);
    int64_t end = 0;
    c->metadata = json_object_get(c->manifest.json, "metadata");
    if (!json_is_array(list) || !json_is_object(c->metadata)) return malformed(c);
    if (!(c->items = mem_alloc_array(n, sizeof *c->items, "a cache's items")))
        return STATUS_MEMORY;
    for (size_t i = 0; i < n; i++) TRY(parse_item(c, json_array_get(list, i), &end));
    return STATUS_OK;
}

static status check_quickly(const cache *c) {
    const char *text = json_string_value(json_object_get(c->manifest.json, "quick"));
    hash128 wanted, found;
    if (!text || hash_parse(text, &wanted)) return malformed(c);
    TRY(quick_hash(&c->file, c->file.size, c->items, c->count, &found));
    if (c->file.size == c->manifest.bytes && hash_equal(wanted, found)) return STATUS_OK;
    return status_fail(STATUS_MODEL, "%s: is damaged: remove it and quantize again",
                       c->file.path);
}

static status open_cache(cache *c, const char *manifest_file) {
    TRY(manifest_read(&c->manifest, manifest_file, FORMAT, CACHE_VERSION));
    TRY(file_open(&c->file, c->manifest.data_path));
    TRY(parse_items(c));
    return check_quickly(c);
}

status cache_open(cache *c, const char *path) {
    memset(c, 0, sizeof *c);
    char *manifest_file = manifest_path(path);
    if (!manifest_file) return STATUS_MEMORY;
    status s = open_cache(c, manifest_file);
    mem_free(manifest_file);
    if (s != STATUS_OK) cache_close(c);
    return s;
}

void cache_close(cache *c) {
    file_close(&c->file);
    free_items(c->items, c->count);
    manifest_close(&c->manifest);
    memset(c, 0, sizeof *c);
}

status cache_verify(const cache *c) {
    return manifest_verify(&c->manifest);
}

const cache_item *cache_find(const cache *c, const char *name) {
    for (size_t i = 0; i < c->count; i++)
        if (!strcmp(c->items[i].name, name)) return &c->items[i];
    return NULL;
}

status cache_read(const cache *c, const cache_item *item, int64_t at, int64_t bytes,
                  void *out) {
    if (at < 0 || bytes < 0 || at > item->bytes || bytes > item->bytes - at)
        return status_fail(STATUS_INTERNAL, "%s: item \"%s\": bytes %lld + %lld of %lld",
                           c->file.path, item->name, (long long)at, (long long)bytes,
                           (long long)item->bytes);
    return file_read_at(&c->file, out, (size_t)bytes, item->offset + at);
}
