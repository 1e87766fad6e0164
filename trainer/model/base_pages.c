/* base_pages.c: see base_pages.h. */
#include "trainer/model/base_pages.h"
#include "checkpoints/identity.h"
#include "common/alloc.h"
#include "common/checked.h"

#include <stdio.h>
#include <string.h>

enum { PIECE = 8 << 20 }; /* bytes read at a time */

/* ---- pages and their items ---- */

static bool is_base(const page *p) {
    return p->class == MEM_BASE || p->class == MEM_EMBEDDING;
}

static void item_name(const page *p, char name[32]) {
    if (p->class == MEM_EMBEDDING)
        snprintf(name, 32, p->group == EMBEDDING_GROUP ? "embedding" : "head");
    else
        snprintf(name, 32, "layer.%d", p->group);
}

/* The place of each page's item; -1 for pages that are not the base's. */
typedef struct page_items {
    cache_item *items;
    size_t count;
    int32_t *item_of; /* [page_count] */
} page_items;

static void free_items(page_items *m) {
    for (size_t i = 0; i < m->count; i++) mem_free(m->items[i].name);
    mem_free(m->items);
    mem_free(m->item_of);
}

static status list_items(page_items *m, const parameter_table *t) {
    *m = (page_items){.items = mem_alloc_array(t->page_count, sizeof *m->items, "pages"),
                      .item_of = mem_alloc_array(t->page_count, sizeof *m->item_of, "pages")};
    if (!m->items || !m->item_of) return STATUS_MEMORY;
    for (size_t i = 0; i < t->page_count; i++) {
        char name[32];
        m->item_of[i] = -1;
        if (!is_base(&t->pages[i])) continue;
        item_name(&t->pages[i], name);
        char *copy = mem_strdup(name);
        if (!copy) return STATUS_MEMORY;
        m->item_of[i] = (int32_t)m->count;
        m->items[m->count++] = (cache_item){.name = copy, .bytes = t->pages[i].bytes};
    }
    return STATUS_OK;
}

/* ---- what must agree ---- */

/* Names, formats and places of all parameters in the base's pages. */
static status hash_layout(const parameter_table *t, hash128 *out) {
    hash_stream *h = hash_open();
    if (!h) return STATUS_MEMORY;
    for (size_t i = 0; i < t->count; i++) {
        const parameter *p = &t->items[i];
        const page *q = &t->pages[p->page];
        if (!is_base(q)) continue;
        const int64_t numbers[] = {q->class,         q->group,       p->format.type,
                                   p->format.rows,   p->format.cols, p->format.block,
                                   p->format.nested, p->offset,      p->bytes};
        hash_update(h, p->name, strlen(p->name) + 1);
        hash_update(h, numbers, sizeof numbers);
    }
    *out = hash_close(h);
    return STATUS_OK;
}

/* "bf16, nf4, double quantization": for a person who must see what differs. */
static void describe(const decoder *d, char text[64]) {
    const decoder_options *o = &d->options;
    const tensor_format *f = &d->table.items[d->layers[0].w[0]].format;
    if (dtype_is_4bit(f->type))
        snprintf(text, 64, "%s, %s%s", dtype_name(o->compute), dtype_name(f->type),
                 f->nested ? ", double quantization" : "");
    else
        snprintf(text, 64, "%s, not quantized", dtype_name(o->compute));
}

static status make_metadata(const weights *w, const decoder *d, json_t **out) {
    hash128 layout, source;
    char layout_text[HASH_TEXT], source_text[HASH_TEXT], form[64];
    json_t *tensors;
    TRY(hash_layout(&d->table, &layout));
    TRY(identity_quick(&w->files, &source));
    TRY(weights_identity(w, &tensors));
    hash_format(layout, layout_text);
    hash_format(source, source_text);
    describe(d, form);
    *out = json_pack("{s:s, s:s, s:s, s:s, s:o}", "model_type", w->config->family->model_type,
                     "form", form, "layout", layout_text, "source", source_text, "tensors",
                     tensors);
    return *out ? STATUS_OK
                : status_fail(STATUS_MEMORY, "out of memory for the cache's metadata");
}

static status check_text(const cache *c, const char *key, const char *wanted,
                         const char *what) {
    const char *text = "";
    TRY(json_get_text(c->metadata, key, &text, c->file.path, STATUS_MODEL));
    if (!strcmp(text, wanted)) return STATUS_OK;
    return status_fail(STATUS_MODEL,
                       "%s: %s (\"%.64s\", wanted \"%.64s\"); remove it to make it anew",
                       c->file.path, what, text, wanted);
}

/* ---- writing ---- */

typedef struct page_writer {
    cache_writer *w;
    const parameter_table *table;
    const page_items *items;
} page_writer;

static status put_page_bytes(void *context, parameter_id id, int64_t offset, const void *data,
                             int64_t n) {
    const page_writer *q = context;
    const parameter *p = &q->table->items[id];
    return cache_write(q->w, (size_t)q->items->item_of[p->page], p->offset + offset, data, n);
}

/* Zeroes between a page's parameters, which alignment leaves there. */
static status write_gaps(const page_writer *q, int64_t *ends) {
    const parameter_table *t = q->table;
    static const char zeros[4096];
    for (size_t i = 0; i < t->count;
         i++) { /* a page's parameters come in the order of offsets */
        const parameter *p = &t->items[i];
        int32_t item = q->items->item_of[p->page];
        if (item < 0) continue;
        for (int64_t at = ends[item], n; at < p->offset; at += n) {
            n = min_i64((int64_t)sizeof zeros, p->offset - at);
            TRY(cache_write(q->w, (size_t)item, at, zeros, n));
        }
        ends[item] = p->offset + p->bytes;
    }
    return STATUS_OK;
}

static status write_pages(weights *w, const decoder *d, page_writer *q,
                          const load_progress *progress) {
    base_sink sink = {put_page_bytes, q};
    int64_t *ends = mem_alloc_array(q->items->count + 1, sizeof *ends, "pages");
    if (!ends) return STATUS_MEMORY;
    status s = write_gaps(q, ends);
    mem_free(ends);
    return s == STATUS_OK ? weights_stream(w, d, &sink, progress) : s;
}

static status write_cache(weights *w, const decoder *d, const page_items *items,
                          const char *path, const load_progress *progress) {
    cache_writer writer;
    json_t *metadata = NULL;
    TRY(cache_create(&writer, path, items->items, items->count));
    page_writer q = {&writer, &d->table, items};
    status s = write_pages(w, d, &q, progress);
    if (s == STATUS_OK) s = make_metadata(w, d, &metadata);
    if (s == STATUS_OK)
        s = cache_finish(&writer, metadata);
    else
        cache_abandon(&writer);
    json_decref(metadata);
    return s;
}

status base_pages_write(weights *w, const decoder *d, const char *path,
                        const load_progress *progress) {
    page_items items;
    if (d->options.training == TRAIN_EVERYTHING)
        return status_fail(STATUS_USAGE,
                           "adapter: full changes the base; it cannot be cached");
    status s = list_items(&items, &d->table);
    if (s == STATUS_OK) s = write_cache(w, d, &items, path, progress);
    free_items(&items);
    return s;
}

/* ---- reading ---- */

/* The identity that was taken while writing becomes w's. */
static status take_identity(const cache *c, weights *w) {
    const json_t *tensors = json_object_get(c->metadata, "tensors");
    for (size_t i = 0; i < w->files.count; i++) {
        const char *name = w->files.tensors[i].entry->name;
        const char *text = json_string_value(json_object_get(tensors, name));
        if (!text || hash_parse(text, &w->hashes[i]))
            return status_fail(STATUS_MODEL,
                               "%s: has no hash of %s; remove it to make it anew",
                               c->file.path, name);
        w->hashed[i] = true;
    }
    return STATUS_OK;
}

static status check_pages(const cache *c, const parameter_table *t) {
    for (size_t i = 0; i < t->page_count; i++) {
        char name[32];
        if (!is_base(&t->pages[i])) continue;
        item_name(&t->pages[i], name);
        const cache_item *item = cache_find(c, name);
        if (!item || item->bytes != t->pages[i].bytes)
            return status_fail(STATUS_MODEL, "%s: page %s is missing or has another size",
                               c->file.path, name);
    }
    return STATUS_OK;
}

static status check_cache(const cache *c, weights *w, const decoder *d) {
    hash128 layout, source;
    char text[HASH_TEXT], form[64];
    TRY(hash_layout(&d->table, &layout));
    TRY(identity_quick(&w->files, &source));
    describe(d, form);
    TRY(check_text(c, "form", form, "is quantized for another configuration"));
    hash_format(source, text);
    TRY(check_text(c, "source", text, "was made from other weights than base_model's"));
    hash_format(layout, text);
    TRY(check_text(c, "layout", text, "has another layout"));
    TRY(check_pages(c, &d->table));
    return take_identity(c, w);
}

status base_pages_open(cache *c, const char *path, weights *w, const decoder *d) {
    TRY(cache_open(c, path));
    status s = check_cache(c, w, d);
    if (s != STATUS_OK) cache_close(c);
    return s;
}

static const cache_item *item_of_page(const cache *c, const page *p) {
    char name[32];
    item_name(p, name);
    return cache_find(c, name);
}

void base_pages_place(const cache *c, const decoder *d, plan *p) {
    for (size_t i = 0; i < d->table.page_count; i++)
        if (is_base(&d->table.pages[i]) && p->pages[i].tier == TIER_DISK)
            plan_set_disk(p, (int32_t)i, item_of_page(c, &d->table.pages[i])->offset);
}

static status load_parameter(const cache *c, const decoder *d, engine *e, parameter_id id,
                             void *piece) {
    const parameter *p = &d->table.items[id];
    const cache_item *item = item_of_page(c, &d->table.pages[p->page]);
    for (int64_t at = 0; at < p->bytes; at += PIECE) {
        int64_t n = min_i64(PIECE, p->bytes - at);
        TRY(cache_read(c, item, p->offset + at, n, piece));
        TRY(engine_load(e, id, piece, at, n));
    }
    return STATUS_OK;
}

static bool is_loaded(const decoder *d, const plan *p, size_t id) {
    int32_t page = d->table.items[id].page;
    return is_base(&d->table.pages[page]) && p->pages[page].tier != TIER_DISK;
}

static status load_all(const cache *c, const decoder *d, const plan *p, engine *e,
                       const load_progress *progress, void *piece) {
    int64_t done = 0, total = 0;
    for (size_t i = 0; i < d->table.count; i++)
        if (is_loaded(d, p, i)) total += d->table.items[i].bytes;
    for (size_t i = 0; i < d->table.count; i++) {
        if (!is_loaded(d, p, i)) continue;
        TRY(load_parameter(c, d, e, (parameter_id)i, piece));
        done += d->table.items[i].bytes;
        if (progress) TRY(progress->report(progress->context, done, total));
    }
    return STATUS_OK;
}

status base_pages_load(const cache *c, const decoder *d, const plan *p, engine *e,
                       const load_progress *progress) {
    void *piece = mem_alloc(PIECE, "staging of the cache");
    if (!piece) return STATUS_MEMORY;
    status s = load_all(c, d, p, e, progress, piece);
    mem_free(piece);
    return s;
}
