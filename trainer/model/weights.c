/* weights.c: a base's files against its config.json: names, shapes, types; identity. Reads
 * headers (and two tensors where the head may be the embedding); the rest is load.c's. */
#include "trainer/model/weights.h"
#include "checkpoints/bnb.h"
#include "checkpoints/identity.h"
#include "common/alloc.h"
#include "common/checked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TENSOR_NAME_MAX = 128,
    COMPARE_BYTES = 1 << 20,
};

static const char embedding_name[] = "model.embed_tokens.weight";
static const char head_name[] = "lm_head.weight";

/* A tensor that config.json promises. */
typedef struct expected {
    char name[TENSOR_NAME_MAX];
    int rank;
    int64_t rows, cols; /* rank 1: rows == 1 */
    int32_t layer;
    int module; /* linear_module of a weight; -1 */
} expected;

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

static status check_shape(const survey *s, const expected *x, const model_tensor *t) {
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
static status take_stored(survey *s, const expected *x, const bnb_weight *q) {
    weights *w = s->w;
    const model_tensor *parts[] = {&q->codes, &q->absmax, &q->code, &q->absmax2, &q->map};
    char state[2 * TENSOR_NAME_MAX];
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

static status check_expected(survey *s, const expected *x) {
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

/* ---- all expected tensors ---- */

static status check_vector(survey *s, int32_t layer, const char *path, int64_t width) {
    expected x = {.rank = 1, .rows = 1, .cols = width, .layer = layer, .module = -1};
    snprintf(x.name, sizeof x.name, "model.layers.%d.%s", layer, path);
    return check_expected(s, &x);
}

static status check_matrix(survey *s, const char *name, int64_t rows, int64_t cols) {
    expected x = {.rank = 2, .rows = rows, .cols = cols, .layer = -1, .module = -1};
    snprintf(x.name, sizeof x.name, "%s", name);
    return check_expected(s, &x);
}

static status check_linear(survey *s, int32_t layer, linear_module m) {
    const model_config *c = s->w->config;
    char bias[64];
    expected x = {.rank = 2,
                  .rows = module_out(c, m),
                  .cols = module_in(c, m),
                  .layer = layer,
                  .module = (int)m};
    snprintf(x.name, sizeof x.name, "model.layers.%d.%s.weight", layer, module_path(m));
    TRY(check_expected(s, &x));
    if (!module_has_bias(c, m)) return STATUS_OK;
    snprintf(bias, sizeof bias, "%s.bias", module_path(m));
    return check_vector(s, layer, bias, x.rows);
}

static status check_layer(survey *s, int32_t layer) {
    const model_config *c = s->w->config;
    for (int m = 0; m < MODULE_COUNT; m++) TRY(check_linear(s, layer, (linear_module)m));
    TRY(check_vector(s, layer, "input_layernorm.weight", c->hidden));
    TRY(check_vector(s, layer, "post_attention_layernorm.weight", c->hidden));
    if (!c->family->qk_norm) return STATUS_OK;
    TRY(check_vector(s, layer, "self_attn.q_norm.weight", c->head_dim));
    return check_vector(s, layer, "self_attn.k_norm.weight", c->head_dim);
}

static status check_outer(survey *s) {
    const model_config *c = s->w->config;
    expected norm = {.name = "model.norm.weight",
                     .rank = 1,
                     .rows = 1,
                     .cols = c->hidden,
                     .layer = -1,
                     .module = -1};
    TRY(check_matrix(s, embedding_name, c->vocab, c->hidden));
    TRY(check_expected(s, &norm));
    if (!s->w->tied) return check_matrix(s, head_name, c->vocab, c->hidden);
    mark_known(s, find(s->w, head_name)); /* a copy of the embedding */
    return STATUS_OK;
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
    const model_tensor *head = find(w, head_name), *embedding = find(w, embedding_name);
    w->tied = w->config->tied;
    if (!w->tied || !head || !embedding) return STATUS_OK;
    return same_bytes(head, embedding, &w->tied);
}

/* ---- open ---- */

static status check_all(survey *s) {
    TRY(decide_tied(s->w));
    for (int32_t l = 0; l < s->w->config->layers; l++) TRY(check_layer(s, l));
    TRY(check_outer(s));
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

status weights_open(weights *w, const char *folder, const model_config *config) {
    *w = (weights){.config = config};
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
    for (size_t i = 0; i < w->files.count; i++) {
        status s = identity_add(*tensors, w->files.tensors[i].entry->name, w->hashes[i]);
        if (s == STATUS_OK) continue;
        json_decref(*tensors);
        *tensors = NULL;
        return s;
    }
    return STATUS_OK;
}
