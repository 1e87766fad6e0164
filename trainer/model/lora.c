/* lora.c: see lora.h. */
#include "trainer/model/lora.h"
#include "common/alloc.h"
#include "common/philox.h"
#include "trainer/model/masters.h"
#include "trainer/model/weights.h"

#include <math.h>
#include <string.h>

/* ---- which matrices there are ---- */

/* One adapted module. */
typedef struct adapted {
    int32_t layer;
    linear_module module;
    parameter_id a, b;
    int64_t in, out, rank;
} adapted;

typedef status (*adapted_visit)(void *context, const adapted *x);

static status visit_adapted(const decoder *d, adapted_visit visit, void *context) {
    for (int32_t l = 0; l < d->config->layers; l++)
        for (int m = 0; m < MODULE_COUNT; m++) {
            adapted x = {.layer = l,
                         .module = (linear_module)m,
                         .a = d->layers[l].a[m],
                         .b = d->layers[l].b[m],
                         .in = module_in(d->config, (linear_module)m),
                         .out = module_out(d->config, (linear_module)m),
                         .rank = d->adapters[l * MODULE_COUNT + m].rank};
            if (x.rank) TRY(visit(context, &x));
        }
    return STATUS_OK;
}

/* ---- initialization ---- */

typedef struct initializer {
    const decoder *d;
    engine *e;
    uint64_t seed;
} initializer;

static void fill_uniform(float *x, int64_t n, const philox_stream *s, float bound) {
    for (int64_t i = 0; i < n; i += 4) {
        uint32_t w[4];
        philox_block(s, (uint32_t)(i / 4), w);
        for (int64_t k = i; k < n && k < i + 4; k++)
            x[k] = (2 * philox_uniform(w[k - i]) - 1) * bound;
    }
}

static status initialize_one(void *context, const adapted *x) {
    const initializer *q = context;
    int64_t a = x->rank * x->in, b = x->out * x->rank;
    float *values = mem_alloc_array((size_t)(a > b ? a : b), sizeof *values, "an adapter");
    if (!values) return STATUS_MEMORY;
    philox_stream stream =
        philox_open(q->seed, PHILOX_INIT, (uint32_t)x->module, (uint32_t)x->layer, 0);
    fill_uniform(values, a, &stream, (float)(1 / sqrt((double)x->in)));
    status s = masters_put(q->d, q->e, x->a, 0, a, values);
    memset(values, 0, (size_t)b * sizeof *values);
    if (s == STATUS_OK) s = masters_put(q->d, q->e, x->b, 0, b, values);
    mem_free(values);
    return s;
}

status lora_initialize(const decoder *d, engine *e, uint64_t seed) {
    initializer q = {d, e, seed};
    return visit_adapted(d, initialize_one, &q);
}

/* ---- loading ---- */

typedef struct reader {
    const decoder *d;
    engine *e;
    const peft_adapter *p;
    size_t found;
} reader;

static status read_matrix(const reader *q, const safetensors_entry *matrix, parameter_id to) {
    int64_t n = matrix->elements;
    float *values = mem_alloc_array((size_t)n, sizeof *values, "an adapter");
    if (!values) return STATUS_MEMORY;
    status s = peft_read(q->p, matrix, values);
    int64_t bad = s == STATUS_OK ? first_not_finite(values, DTYPE_F32, n) : -1;
    if (bad >= 0)
        s = status_fail(STATUS_MODEL,
                        "the adapter's %s: element %lld is not finite (NaN or infinity)",
                        matrix->name, (long long)bad);
    if (s == STATUS_OK) s = masters_put(q->d, q->e, to, 0, n, values);
    mem_free(values);
    return s;
}

static status load_one(void *context, const adapted *x) {
    reader *q = context;
    char name[MODULE_NAME_MAX];
    const peft_module *p = peft_find(q->p, module_full_name(name, x->layer, x->module));
    if (!p)
        return status_fail(STATUS_MODEL, "the adapter lacks %s, which is to be trained", name);
    if (p->rank != x->rank || p->in != x->in || p->out != x->out)
        return status_fail(
            STATUS_MODEL,
            "the adapter's %s is %lld x %lld of rank %lld; the configuration asks "
            "for %lld x %lld of rank %lld",
            name, (long long)p->out, (long long)p->in, (long long)p->rank, (long long)x->out,
            (long long)x->in, (long long)x->rank);
    float scale = q->d->adapters[x->layer * MODULE_COUNT + (int)x->module].scale;
    if (fabs(p->scale - scale) > 1e-5 * fabs(p->scale))
        return status_fail(
            STATUS_MODEL,
            "the adapter's %s is scaled by %g, the configuration by %g; give its "
            "lora_alpha (%g) and peft_use_rslora (%s)",
            name, p->scale, scale, p->alpha, q->p->config.rslora ? "true" : "false");
    q->found++;
    TRY(read_matrix(q, p->a, x->a));
    return read_matrix(q, p->b, x->b);
}

status lora_load(const decoder *d, engine *e, const peft_adapter *p) {
    reader q = {d, e, p, 0};
    TRY(visit_adapted(d, load_one, &q));
    if (q.found == p->count) return STATUS_OK;
    return status_fail(
        STATUS_MODEL,
        "the adapter changes %zu modules, the configuration only %zu of them; give "
        "the same lora_target_modules",
        p->count, q.found);
}

/* ---- writing ---- */

/* A matrix that peft_write fetches piece by piece from the engine. */
typedef struct written_matrix {
    const decoder *d;
    engine *e;
    parameter_id working;
} written_matrix;

typedef struct writer {
    const decoder *d;
    engine *e;
    named_tensor *tensors;
    written_matrix *matrices;
    size_t count;
    bool bake;
    const peft_config *config;
    peft_exception *exceptions; /* [modules] room for all */
    char (*names)[MODULE_NAME_MAX];
    size_t exception_count;
} writer;

static status read_master(void *context, int64_t first, int64_t bytes, void *out) {
    const written_matrix *w = context;
    return masters_get(w->d, w->e, w->working, first / 4, bytes / 4, out);
}

static void add_matrix(writer *q, parameter_id working) {
    const parameter *p = &q->d->table.items[working];
    q->matrices[q->count] = (written_matrix){q->d, q->e, working};
    q->tensors[q->count] =
        (named_tensor){.name = p->name,
                       .format = format_of(DTYPE_F32, p->format.rows, p->format.cols),
                       .read = read_master,
                       .context = &q->matrices[q->count]};
    q->count++;
}

/* A loaded adapter's modules may have ranks and alphas of their own. */
static void note_exception(writer *q, const adapted *x) {
    const lora_module *m = &q->d->adapters[x->layer * MODULE_COUNT + (int)x->module];
    double alpha = q->bake ? m->alpha * sqrt((double)m->rank) : m->alpha;
    if (m->rank == q->config->r && alpha == q->config->alpha) return;
    size_t i = q->exception_count++;
    q->exceptions[i] =
        (peft_exception){module_full_name(q->names[i], x->layer, x->module), m->rank, alpha};
}

static status write_one(void *context, const adapted *x) {
    add_matrix(context, x->a);
    add_matrix(context, x->b);
    note_exception(context, x);
    return STATUS_OK;
}

/* Whether every layer has the same modules: then short names say it in adapter_config.json. */
static bool layers_alike(const decoder *d) {
    for (int32_t i = MODULE_COUNT; i < d->config->layers * MODULE_COUNT; i++)
        if (!d->adapters[i].rank != !d->adapters[i % MODULE_COUNT].rank) return false;
    return true;
}

/* Full names of the adapted modules, from the tensors' (every other one is an A). */
static status list_modules(const writer *q, peft_config *config, char **names) {
    for (size_t i = 0; i < q->count; i += 2) {
        const char *name = q->tensors[i].name;
        char *module = mem_strndup(name, strlen(name) - strlen(".lora_A.weight"));
        if (!module) return STATUS_MEMORY;
        names[config->target_count++] = module;
    }
    config->targets = (const char **)names;
    return STATUS_OK;
}

static status write_all(writer *q, const char *folder, peft_config *config) {
    TRY(visit_adapted(q->d, write_one, q));
    config->exceptions = q->exceptions;
    config->exception_count = q->exception_count;
    if (layers_alike(q->d)) return peft_write(folder, config, q->tensors, q->count);
    char **names = mem_alloc_array(q->count, sizeof *names, "adapter targets");
    if (!names) return STATUS_MEMORY;
    status s = list_modules(q, config, names);
    if (s == STATUS_OK) s = peft_write(folder, config, q->tensors, q->count);
    for (size_t i = 0; i < q->count; i++) mem_free(names[i]);
    mem_free(names);
    return s;
}

status lora_write(const decoder *d, engine *e, const char *folder, const lora_export *how) {
    size_t most = (size_t)d->config->layers * MODULE_COUNT;
    bool bake = how->rslora && how->bake_scale;
    writer q = {.d = d,
                .e = e,
                .tensors = mem_alloc_array(2 * most, sizeof *q.tensors, "adapter tensors"),
                .matrices = mem_alloc_array(2 * most, sizeof *q.matrices, "adapter tensors"),
                .bake = bake,
                .exceptions = mem_alloc_array(most, sizeof *q.exceptions, "adapter ranks"),
                .names = mem_alloc_array(most, sizeof *q.names, "adapter ranks")};
    peft_config config = {.base_model = how->base_model,
                          .base_hash = how->base_hash,
                          .r = how->rank,
                          .alpha = bake ? how->alpha * sqrt((double)how->rank) : how->alpha,
                          .dropout = how->dropout,
                          .rslora = how->rslora && !bake};
    bool ready = q.tensors && q.matrices && q.exceptions && q.names;
    q.config = &config;
    status s = ready ? write_all(&q, folder, &config) : STATUS_MEMORY;
    mem_free(q.tensors);
    mem_free(q.matrices);
    mem_free(q.exceptions);
    mem_free(q.names);
    return s;
}
