/* weights.c: a base's files against its config.json: names, shapes, types; identity. Reads
 * headers (and two tensors where the head may be the embedding); the rest is load.c's. */
#include "trainer/model/weights.h"
#include "checkpoints/bnb.h"
#include "checkpoints/identity.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "trainer/model/layout.h"
#include "trainer/model/synthetic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COMPARE_BYTES = 1 << 20 };

typedef struct survey {
    weights *w;
    bool *known; /* [files.count] */
} survey;

static int compare_name(const void *key, const void *item) {
    return strcmp(key, ((const model_tensor *)item)->entry->name);
}

static const model_tensor *find(const weights *w, const char *name) {
    return bsearch(name, w->files.tensors, w->files.count, sizeof *w->files.tensors,
                   compare_name);
}

size_t weights_index(const weights *w, const char *name) {
    return (size_t)(find(w, name) - w->files.tensors);
}

static void mark_known(survey *s, const model_tensor *t) {
    if (t) s->known[t - s->w->files.tensors] = true;
}

/* ---- one expected tensor ---- */

static status check_shape(const survey *s, const layout_tensor *x, const model_tensor *t) {
    const safetensors_entry *e = t->entry;
    char text[128];
    bool right = e->rank == x->rank && e->shape[x->rank - 1] == x->cols &&
                 (x->rank == 1 || e->shape[0] == x->rows);
    if (!right) {
        safetensors_shape_text(e, text, sizeof text);
        if (x->rank == 1)
            return status_fail(STATUS_MODEL, "%s: %s is %s, config.json says [%lld]",
                               t->file->file.path, x->name, text, (long long)x->cols);
        return status_fail(STATUS_MODEL, "%s: %s is %s, config.json says [%lld, %lld]",
                           t->file->file.path, x->name, text, (long long)x->rows,
                           (long long)x->cols);
    }
    if (e->type == DTYPE_F32 || e->type == DTYPE_BF16 || e->type == DTYPE_F16)
        return STATUS_OK;
    return status_fail(STATUS_MODEL,
                       "%s: %s is stored as %s; weights must be F32, BF16 or F16",
                       t->file->file.path, x->name, e->type_name);
}

/* A linear in bitsandbytes' 4-bit form: its format, and its parts are known. */
static status take_stored(survey *s, const layout_tensor *x, const bnb_weight *q) {
    weights *w = s->w;
    const model_tensor *parts[] = {&q->codes, &q->absmax, &q->code, &q->absmax2, &q->map};
    char state[2 * LAYOUT_NAME_MAX];
    if (q->format.rows != x->rows || q->format.cols != x->cols)
        return status_fail(STATUS_MODEL,
                           "%s: %s holds %lld x %lld weights, config.json says %lld x %lld",
                           w->files.folder, x->name, (long long)q->format.rows,
                           (long long)q->format.cols, (long long)x->rows, (long long)x->cols);
    w->stored[x->layer * MODULE_COUNT + x->module] = q->format;
    w->any_stored = true;
    for (int i = 0; i < (q->format.nested ? 5 : 3); i++)
        mark_known(s, find(w, parts[i]->entry->name));
    snprintf(state, sizeof state, "%s.quant_state.bitsandbytes__%s", x->name,
             dtype_name(q->format.type));
    mark_known(s, find(w, state));
    return STATUS_OK;
}

static status check_expected(survey *s, const layout_tensor *x) {
    const model_tensor *t = find(s->w, x->name);
    if (!t)
        return status_fail(STATUS_MODEL, "%s: tensor %s is missing", s->w->files.folder,
                           x->name);
    mark_known(s, t);
    if (x->module >= 0) {
        bnb_weight q;
        bool stored;
        TRY(bnb_find(&s->w->files, x->name, &q, &stored));
        if (stored) return take_stored(s, x, &q);
    }
    return check_shape(s, x, t);
}

/* What old files carry along: the rope table, which config.json gives anyway. */
static bool is_ignorable(const char *name) {
    static const char suffix[] = ".rotary_emb.inv_freq";
    size_t n = strlen(name), k = sizeof suffix - 1;
    return n > k && !strcmp(name + n - k, suffix);
}

static status check_none_extra(const survey *s) {
    const model_files *f = &s->w->files;
    for (size_t i = 0; i < f->count; i++) {
        const char *name = f->tensors[i].entry->name;
        if (!s->known[i] && !is_ignorable(name))
            return status_fail(
                STATUS_MODEL,
                "%s: tensor %.128s is not part of a %s model with %d layers: the "
                "weights do not belong to this config.json",
                f->tensors[i].file->file.path, name, s->w->config->family->model_type,
                s->w->config->layers);
    }
    return STATUS_OK;
}

/* ---- is the head the embedding? ---- */

static status same_bytes(const model_tensor *a, const model_tensor *b, bool *same) {
    const safetensors_entry *x = a->entry, *y = b->entry;
    *same = x->type == y->type && x->bytes == y->bytes;
    char *pieces = mem_alloc(2 * (size_t)COMPARE_BYTES, "comparing head and embedding");
    if (!pieces) return STATUS_MEMORY;
    status s = STATUS_OK;
    for (int64_t at = 0; s == STATUS_OK && *same && at < x->bytes; at += COMPARE_BYTES) {
        int64_t n = min_i64(COMPARE_BYTES, x->bytes - at);
        s = model_tensor_read(a, at, n, pieces);
        if (s == STATUS_OK) s = model_tensor_read(b, at, n, pieces + COMPARE_BYTES);
        if (s == STATUS_OK) *same = !memcmp(pieces, pieces + COMPARE_BYTES, (size_t)n);
    }
    mem_free(pieces);
    return s;
}

static status decide_tied(weights *w) {
    const model_tensor *head = find(w, LAYOUT_HEAD), *embedding = find(w, LAYOUT_EMBEDDING);
    w->tied = w->config->tied;
    if (!w->tied || !head || !embedding) return STATUS_OK;
    return same_bytes(head, embedding, &w->tied);
}

/* ---- open ---- */

static status check_all(survey *s) {
    model_layout layout;
    TRY(decide_tied(s->w));
    TRY(model_layout_make(&layout, s->w->config, s->w->tied));
    status r = STATUS_OK;
    for (size_t i = 0; r == STATUS_OK && i < layout.count; i++)
        r = check_expected(s, &layout.tensors[i]);
    model_layout_free(&layout);
    TRY(r);
    if (s->w->tied) mark_known(s, find(s->w, LAYOUT_HEAD)); /* a copy of the embedding */
    return check_none_extra(s);
}

static status survey_files(weights *w) {
    size_t linears = (size_t)w->config->layers * MODULE_COUNT;
    survey s = {.w = w, .known = mem_alloc_array(w->files.count + 1, sizeof(bool), "tensors")};
    w->stored = mem_alloc_array(linears, sizeof *w->stored, "formats");
    w->hashes = mem_alloc_array(w->files.count + 1, sizeof *w->hashes, "hashes");
    w->hashed = mem_alloc_array(w->files.count + 1, sizeof *w->hashed, "hashes");
    bool ready = s.known && w->stored && w->hashes && w->hashed;
    status result = ready ? check_all(&s) : STATUS_MEMORY;
    mem_free(s.known);
    return result;
}

static status open_synthetic(weights *w, const char *folder) {
    w->synthetic = true;
    w->tied = w->config->tied;
    w->files.folder = mem_strdup(folder);
    return w->files.folder ? STATUS_OK : STATUS_MEMORY;
}

status weights_open(weights *w, const char *folder, const model_config *config) {
    *w = (weights){.config = config};
    if (synthetic_is(folder)) return open_synthetic(w, folder);
    TRY(model_files_open(&w->files, folder));
    status s = survey_files(w);
    if (s != STATUS_OK) weights_close(w);
    return s;
}

void weights_close(weights *w) {
    model_files_close(&w->files);
    mem_free(w->stored);
    mem_free(w->hashes);
    mem_free(w->hashed);
    *w = (weights){0};
}

/* ---- identity ---- */

status weights_identity(const weights *w, json_t **tensors) {
    *tensors = json_object();
    if (!*tensors) return status_fail(STATUS_MEMORY, "out of memory for the base's identity");
    if (w->synthetic) { /* its name is all that it is */
        status s = identity_add(*tensors, w->files.folder,
                                hash_bytes(w->files.folder, strlen(w->files.folder)));
        if (s == STATUS_OK) return s;
        json_decref(*tensors);
        *tensors = NULL;
        return s;
    }
    for (size_t i = 0; i < w->files.count; i++) {
        const char *name = w->files.tensors[i].entry->name;
        status s = w->hashed[i] ? identity_add(*tensors, name, w->hashes[i])
                                : status_fail(STATUS_INTERNAL, "%s was not read", name);
        if (s == STATUS_OK) continue;
        json_decref(*tensors);
        *tensors = NULL;
        return s;
    }
    return STATUS_OK;
}
