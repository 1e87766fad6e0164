/* base_cache.c: see base_cache.h. */
#include "trainer/run/base_cache.h"
#include "checkpoints/identity.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/log.h"

#include <stdio.h>
#include <string.h>

enum { ITEM_NAME = 64, PIECE = 8 << 20 /* bytes read at a time */ };

static bool is_cached(mem_class c) { return c == MEM_BASE || c == MEM_EMBEDDING; }

static void page_name(const page *p, char name[ITEM_NAME]) {
    snprintf(name, ITEM_NAME, "%s.%d", mem_class_name(p->class), p->group);
}

/* ---- what a cache must agree on ---- */

static status layout_hash(const parameter_table *t, char text[HASH_TEXT]) {
    hash_stream *h = hash_open();
    if (!h) return STATUS_MEMORY;
    for (size_t i = 0; i < t->count; i++) {
        const parameter *p = &t->items[i];
        if (!is_cached(t->pages[p->page].class)) continue;
        int64_t facts[] = {p->format.type, p->format.rows, p->format.cols, p->format.block,
                           p->format.nested, p->page, p->offset, p->bytes};
        hash_update(h, p->name, strlen(p->name) + 1);
        hash_update(h, facts, sizeof facts);
    }
    hash_format(hash_close(h), text);
    return STATUS_OK;
}

static status quick_hash(const session *s, char text[HASH_TEXT]) {
    hash128 quick;
    TRY(identity_quick(&s->w.files, &quick));
    hash_format(quick, text);
    return STATUS_OK;
}

/* ---- writing ---- */

typedef struct writing {
    session *s;
    cache_writer w;
    int32_t *item_of; /* [pages] */
} writing;

static status put(void *context, parameter_id id, int64_t offset, const void *data, int64_t n) {
    writing *g = context;
    const parameter *p = &g->s->d->table.items[id];
    return cache_write(&g->w, (size_t)g->item_of[p->page], p->offset + offset, data, n);
}

/* The gaps that alignment leaves between a page's parameters. */
static status put_gaps(writing *g) {
    static const char zeros[4096];
    const parameter_table *t = &g->s->d->table;
    int64_t *end = mem_alloc_array(t->page_count + 1, sizeof *end, "a cache");
    status r = end ? STATUS_OK : STATUS_MEMORY;
    for (size_t i = 0; i < t->count && r == STATUS_OK; i++) {
        const parameter *p = &t->items[i];
        if (!is_cached(t->pages[p->page].class)) continue;
        if (p->offset > end[p->page])
            r = cache_write(&g->w, (size_t)g->item_of[p->page], end[p->page], zeros, p->offset - end[p->page]);
        end[p->page] = p->offset + p->bytes;
    }
    mem_free(end);
    return r;
}

static status make_items(writing *g, cache_item **items, char (**names)[ITEM_NAME], size_t *count) {
    const parameter_table *t = &g->s->d->table;
    *count = 0;
    *items = mem_alloc_array(t->page_count + 1, sizeof **items, "a cache");
    *names = mem_alloc_array(t->page_count + 1, sizeof **names, "a cache");
    g->item_of = mem_alloc_array(t->page_count + 1, sizeof *g->item_of, "a cache");
    if (!*items || !*names || !g->item_of) return STATUS_MEMORY;
    for (size_t i = 0; i < t->page_count; i++) {
        if (!is_cached(t->pages[i].class)) continue;
        page_name(&t->pages[i], (*names)[*count]);
        (*items)[*count] = (cache_item){.name = (*names)[*count], .bytes = t->pages[i].bytes};
        g->item_of[i] = (int32_t)(*count)++;
    }
    return STATUS_OK;
}

static status finish(writing *g) {
    char layout[HASH_TEXT], quick[HASH_TEXT];
    json_t *tensors = NULL;
    TRY(put_gaps(g));
    TRY(layout_hash(&g->s->d->table, layout));
    TRY(quick_hash(g->s, quick));
    TRY(weights_identity(&g->s->w, &tensors));
    json_t *metadata = json_pack("{s:s, s:s, s:s, s:o}", "layout", layout, "source", quick, "compute",
                                 dtype_name(g->s->compute), "base", tensors);
    status r = metadata ? cache_finish(&g->w, metadata) : status_fail(STATUS_MEMORY, "out of memory for a cache");
    json_decref(metadata);
    return r;
}

status base_cache_write(session *s, const char *path, const load_progress *progress) {
    writing g = {.s = s};
    cache_item *items;
    char (*names)[ITEM_NAME];
    size_t count;
    status r = make_items(&g, &items, &names, &count);
    if (r == STATUS_OK) r = cache_create(&g.w, path, items, count);
    if (r == STATUS_OK) {
        base_sink sink = {put, &g};
        r = weights_stream(&s->w, s->d, &sink, progress);
        if (r == STATUS_OK) r = finish(&g);
        cache_abandon(&g.w);
    }
    mem_free(items);
    mem_free(names);
    mem_free(g.item_of);
    return r;
}

/* ---- reading ---- */

static status check(const session *s, const cache *c, const char *path) {
    char layout[HASH_TEXT], quick[HASH_TEXT];
    const char *their_layout = "", *their_source = "";
    TRY(layout_hash(&s->d->table, layout));
    TRY(quick_hash(s, quick));
    TRY(json_get_text(c->metadata, "layout", &their_layout, path, STATUS_MODEL));
    TRY(json_get_text(c->metadata, "source", &their_source, path, STATUS_MODEL));
    if (strcmp(quick, their_source))
        return status_fail(STATUS_MODEL, "%s is the cache of another base model; remove it, or name another file", path);
    if (strcmp(layout, their_layout))
        return status_fail(STATUS_MODEL, "%s was quantized in another way (type, double quantization or compute "
                                         "type differ); remove it, or name another file", path);
    return STATUS_OK;
}

static status open_or_make(session *s, const char *path, bool ours, const load_progress *progress) {
    if (file_exists(path)) {
        status r = cache_open(&s->cache, path);
        if (r == STATUS_OK) {
            s->cache_open = true;
            r = check(s, &s->cache, path);
            if (r == STATUS_OK) return r;
            cache_close(&s->cache);
            s->cache_open = false;
        }
        if (!ours) return r;
        TRY(file_unlink(path)); /* a hidden one of an earlier run: made again */
    }
    TRY(base_cache_write(s, path, progress));
    TRY(cache_open(&s->cache, path));
    s->cache_open = true;
    return check(s, &s->cache, path);
}

static status give_offsets(session *s) {
    const parameter_table *t = &s->d->table;
    for (size_t i = 0; i < t->page_count; i++) {
        char name[ITEM_NAME];
        if (s->plan->pages[i].tier != TIER_DISK) continue;
        page_name(&t->pages[i], name);
        const cache_item *item = cache_find(&s->cache, name);
        if (!item || item->bytes != t->pages[i].bytes)
            return status_fail(STATUS_MODEL, "%s: page %s is missing or has another size", s->cache.file.path, name);
        plan_set_disk(s->plan, (int32_t)i, item->offset);
    }
    return STATUS_OK;
}

status base_cache_prepare(session *s, const load_progress *progress) {
    const config *c = s->c;
    bool disk = s->plan->policy.base == BASE_DISK;
    if (c->adapter == ADAPTER_FULL && s->request.train) return STATUS_OK; /* its base is what is trained */
    if (c->quantized_cache) TRY(open_or_make(s, c->quantized_cache, false, progress));
    else if (disk && s->request.train) {
        s->disk_path = file_join(c->output_dir, ".base-cache.h5");
        if (!s->disk_path) return STATUS_MEMORY;
        log_info("memory.base=disk without quantized_cache: the pages go to %s, which is removed at the end",
                 s->disk_path);
        TRY(open_or_make(s, s->disk_path, true, progress));
    } else if (disk)
        return status_fail(STATUS_USAGE, "memory.base=disk needs quantized_cache=FILE here");
    return disk ? give_offsets(s) : STATUS_OK;
}

static status load_parameter(session *s, parameter_id id, const cache_item *item, char *piece) {
    const parameter *p = &s->d->table.items[id];
    for (int64_t at = 0; at < p->bytes; at += PIECE) {
        int64_t n = min_i64(PIECE, p->bytes - at);
        TRY(cache_read(&s->cache, item, p->offset + at, n, piece));
        TRY(engine_load(s->e, id, piece, at, n));
    }
    return STATUS_OK;
}

static status load_from_cache(session *s, const load_progress *progress) {
    const parameter_table *t = &s->d->table;
    char *piece = mem_alloc(PIECE, "reading the cache"), name[ITEM_NAME];
    status r = piece ? STATUS_OK : STATUS_MEMORY;
    int64_t done = 0, total = 0;
    for (size_t i = 0; i < t->count; i++)
        if (is_cached(t->pages[t->items[i].page].class)) total += t->items[i].bytes;
    for (size_t i = 0; i < t->count && r == STATUS_OK; i++) {
        const page *g = &t->pages[t->items[i].page];
        if (!is_cached(g->class) || s->plan->pages[t->items[i].page].tier == TIER_DISK) continue;
        page_name(g, name);
        const cache_item *item = cache_find(&s->cache, name);
        if (!item || item->bytes != g->bytes)
            r = status_fail(STATUS_MODEL, "%s: page %s is missing or has another size", s->cache.file.path, name);
        if (r == STATUS_OK) r = load_parameter(s, (parameter_id)i, item, piece);
        done += t->items[i].bytes;
        if (r == STATUS_OK && progress) r = progress->report(progress->context, done, total);
    }
    mem_free(piece);
    s->base_identity = json_incref(json_object_get(s->cache.metadata, "base"));
    if (r == STATUS_OK && !json_is_object(s->base_identity))
        r = status_fail(STATUS_MODEL, "%s: the identity of its source is missing", s->cache.file.path);
    return r;
}

status base_cache_load(session *s, const load_progress *progress) {
    if (s->cache_open) return load_from_cache(s, progress);
    TRY(weights_load_base(&s->w, s->d, s->e, progress));
    return weights_identity(&s->w, &s->base_identity);
}
