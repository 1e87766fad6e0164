/* decoder.c: the decoder's parameters: names, formats, pages. The programs over them are
 * programs.c's matter, the values weights.c's and lora.c's. */
#include "trainer/model/decoder.h"
#include "common/alloc.h"
#include "quant/adamw.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { NAME_MAX_BYTES = 128 };

static status add(decoder *d, tensor_format f, mem_class class, int32_t group,
                  parameter_id *out, const char *format, ...)
    __attribute__((format(printf, 6, 7)));
static status add(decoder *d, tensor_format f, mem_class class, int32_t group,
                  parameter_id *out, const char *format, ...) {
    char name[NAME_MAX_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return parameter_add(&d->table, name, f, class, group, out);
}

/* ---- what is trained ---- */

static status add_moments(decoder *d, trainable *t, const char *name) {
    int64_t n = t->rows * t->cols; /* its format was checked */
    dtype type = t->bits == 8 ? DTYPE_U8 : DTYPE_F32;
    tensor_format moment = format_of(type, t->rows, t->cols);
    TRY(add(d, moment, MEM_OPTIMIZER, t->layer, &t->m, "%s.m", name));
    TRY(add(d, moment, MEM_OPTIMIZER, t->layer, &t->v, "%s.v", name));
    t->absmax1 = t->absmax2 = PARAMETER_NONE;
    if (t->bits == 32) return STATUS_OK;
    tensor_format scales = format_of(DTYPE_F32, 1, (n + ADAMW8_BLOCK - 1) / ADAMW8_BLOCK);
    TRY(add(d, scales, MEM_OPTIMIZER, t->layer, &t->absmax1, "%s.absmax1", name));
    return add(d, scales, MEM_OPTIMIZER, t->layer, &t->absmax2, "%s.absmax2", name);
}

/* Makes parameter `working` trainable: gradient, master, moments, sum of squares. */
static status add_trainable(decoder *d, parameter_id working, int32_t layer, bool decay) {
    const parameter *p = &d->table.items[working];
    char name[NAME_MAX_BYTES];
    snprintf(name, sizeof name, "%s", p->name); /* the table moves when it grows */
    trainable t = {.layer = layer,
                   .decay = decay,
                   .rows = p->format.rows,
                   .cols = p->format.cols,
                   .working = working};
    bool small = t.rows * t.cols < ADAMW8_LEAST;
    t.bits = d->options.optimizer_bits == 8 && !small ? 8 : 32;
    tensor_format f = format_of(DTYPE_F32, t.rows, t.cols);
    TRY(add(d, f, MEM_GRADIENT, -1, &t.gradient, "%s.grad", name));
    TRY(add(d, f, MEM_OPTIMIZER, layer, &t.master, "%s.master", name));
    TRY(add_moments(d, &t, name));
    TRY(add(d, format_of(DTYPE_F64, 1, 1), MEM_STATE, -1, &t.square, "%s.square", name));
    parameter_set_gradient(&d->table, working, t.gradient);
    if (mem_grow(&d->trainables, &d->trainable_capacity, d->trainable_count + 1,
                 sizeof *d->trainables, "trainable tensors"))
        return STATUS_MEMORY;
    d->trainables[d->trainable_count++] = t;
    return STATUS_OK;
}

static bool trains_everything(const decoder *d) {
    return d->options.training == TRAIN_EVERYTHING;
}

/* A tensor of the base in the compute type: frozen, or trained when everything is. */
static status add_base(decoder *d, int64_t rows, int64_t cols, int32_t layer, bool decay,
                       parameter_id *out, const char *name) {
    mem_class class = layer < 0              ? MEM_EMBEDDING
                      : trains_everything(d) ? MEM_ADAPTER
                                             : MEM_BASE;
    TRY(add(d, format_of(d->options.compute, rows, cols), class, layer, out, "%s", name));
    return trains_everything(d) ? add_trainable(d, *out, layer, decay) : STATUS_OK;
}

/* ---- a layer ---- */

static tensor_format weight_format(const decoder *d, int32_t layer, linear_module m) {
    const decoder_options *o = &d->options;
    int64_t rows = module_out(d->config, m), cols = module_in(d->config, m);
    if (o->stored && o->stored[layer * MODULE_COUNT + (int)m].rows)
        return o->stored[layer * MODULE_COUNT + (int)m];
    if (dtype_is_4bit(o->quantize)) return format_4bit(o->quantize, rows, cols, o->nested);
    return format_of(o->compute, rows, cols);
}

static status add_weight(decoder *d, int32_t layer, linear_module m) {
    decoder_layer *l = &d->layers[layer];
    char module[MODULE_NAME_MAX], name[NAME_MAX_BYTES];
    tensor_format f = weight_format(d, layer, m);
    module_full_name(module, layer, m);
    snprintf(name, sizeof name, "%s.weight", module);
    if (trains_everything(d)) return add_base(d, f.rows, f.cols, layer, true, &l->w[m], name);
    return add(d, f, MEM_BASE, layer, &l->w[m], "%s", name);
}

static status add_bias(decoder *d, int32_t layer, linear_module m) {
    char module[MODULE_NAME_MAX], name[NAME_MAX_BYTES];
    if (!module_has_bias(d->config, m)) return STATUS_OK;
    snprintf(name, sizeof name, "%s.bias", module_full_name(module, layer, m));
    return add_base(d, 1, module_out(d->config, m), layer, false, &d->layers[layer].bias[m],
                    name);
}

static status add_norm(decoder *d, int32_t layer, const char *path, int64_t width,
                       parameter_id *out) {
    char name[NAME_MAX_BYTES];
    snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, path);
    return add_base(d, 1, width, layer, false, out, name);
}

static status add_layer(decoder *d, int32_t layer) {
    const model_config *c = d->config;
    decoder_layer *l = &d->layers[layer];
    l->q_norm = l->k_norm = PARAMETER_NONE;
    for (int m = 0; m < MODULE_COUNT; m++) l->bias[m] = l->a[m] = l->b[m] = PARAMETER_NONE;
    for (int m = 0; m < MODULE_COUNT; m++) TRY(add_weight(d, layer, (linear_module)m));
    for (int m = 0; m < MODULE_COUNT; m++) TRY(add_bias(d, layer, (linear_module)m));
    TRY(add_norm(d, layer, "input_layernorm", c->hidden, &l->norm1));
    TRY(add_norm(d, layer, "post_attention_layernorm", c->hidden, &l->norm2));
    if (!c->family->qk_norm) return STATUS_OK;
    TRY(add_norm(d, layer, "self_attn.q_norm", c->head_dim, &l->q_norm));
    return add_norm(d, layer, "self_attn.k_norm", c->head_dim, &l->k_norm);
}

/* ---- adapters ---- */

static status add_adapter(decoder *d, int32_t layer, linear_module m) {
    decoder_layer *l = &d->layers[layer];
    int64_t rank = d->adapters[layer * MODULE_COUNT + (int)m].rank;
    char module[MODULE_NAME_MAX];
    dtype c = d->options.compute;
    if (!rank) return STATUS_OK;
    module_full_name(module, layer, m);
    TRY(add(d, format_of(c, rank, module_in(d->config, m)), MEM_ADAPTER, layer, &l->a[m],
            "%s.lora_A.weight", module));
    TRY(add(d, format_of(c, module_out(d->config, m), rank), MEM_ADAPTER, layer, &l->b[m],
            "%s.lora_B.weight", module));
    if (d->options.training != TRAIN_ADAPTERS) return STATUS_OK;
    TRY(add_trainable(d, l->a[m], layer, true));
    return add_trainable(d, l->b[m], layer, true);
}

static status add_adapters(decoder *d, const lora_spec *spec) {
    size_t n = (size_t)d->config->layers * MODULE_COUNT;
    d->adapters = mem_alloc_array(n, sizeof *d->adapters, "adapters");
    if (!d->adapters) return STATUS_MEMORY;
    if (!spec || !spec->modules) return STATUS_OK;
    memcpy(d->adapters, spec->modules, n * sizeof *d->adapters);
    d->dropout = spec->dropout;
    for (int32_t l = 0; l < d->config->layers; l++)
        for (int m = 0; m < MODULE_COUNT; m++) TRY(add_adapter(d, l, (linear_module)m));
    return STATUS_OK;
}

/* ---- the whole ---- */

static status check_options(const decoder_options *o) {
    bool adapters = o->lora && o->lora->modules;
    if (o->compute != DTYPE_F32 && o->compute != DTYPE_BF16 && o->compute != DTYPE_F16)
        return status_fail(STATUS_USAGE, "a model cannot compute in %s",
                           dtype_name(o->compute));
    if (o->training == TRAIN_ADAPTERS && !adapters)
        return status_fail(STATUS_USAGE, "there is nothing to train: no adapter");
    if (o->training != TRAIN_EVERYTHING) return STATUS_OK;
    if (adapters) return status_fail(STATUS_USAGE, "adapter: full trains without adapters");
    if (dtype_is_4bit(o->quantize) || o->stored)
        return status_fail(STATUS_USAGE,
                           "adapter: full needs unquantized weights; a 4-bit base "
                           "can only be trained through an adapter");
    return STATUS_OK;
}

static status add_head(decoder *d) {
    const model_config *c = d->config;
    TRY(add_base(d, 1, c->hidden, -1, false, &d->final_norm, "model.norm.weight"));
    d->head = d->embedding;
    if (d->options.tied) return STATUS_OK;
    return add_base(d, c->vocab, c->hidden, -1, true, &d->head, "lm_head.weight");
}

/* A frozen one that is not the head as well has a page of its own: rows are gathered from it,
 * nothing else. */
static status add_embedding(decoder *d) {
    static const char name[] = "model.embed_tokens.weight";
    const model_config *c = d->config;
    if (d->options.tied || trains_everything(d))
        return add_base(d, c->vocab, c->hidden, -1, true, &d->embedding, name);
    TRY(add(d, format_of(d->options.compute, c->vocab, c->hidden), MEM_EMBEDDING,
            EMBEDDING_GROUP, &d->embedding, "%s", name));
    parameter_set_gathered(&d->table, d->embedding);
    return STATUS_OK;
}

static status add_all(decoder *d, const decoder_options *o) {
    const model_config *c = d->config;
    d->layers = mem_alloc_array((size_t)c->layers, sizeof *d->layers, "layers");
    if (!d->layers) return STATUS_MEMORY;
    TRY(add_embedding(d));
    for (int32_t l = 0; l < c->layers; l++) TRY(add_layer(d, l));
    TRY(add_head(d));
    TRY(add_adapters(d, o->lora));
    TRY(add(d, format_of(DTYPE_F32, 1, c->head_dim / 2), MEM_STATE, -1, &d->inv_freq,
            "rope.inv_freq"));
    return add(d, format_of(DTYPE_F64, 1, 2), MEM_STATE, -1, &d->total, "loss.total");
}

status decoder_open(decoder **out, const model_config *config,
                    const decoder_options *options) {
    *out = NULL;
    TRY(check_options(options));
    decoder *d = mem_alloc(sizeof *d, "the decoder");
    if (!d) return STATUS_MEMORY;
    d->config = config;
    d->options = *options;
    parameter_table_init(&d->table, options->alignment);
    status s = add_all(d, options);
    d->options.stored = NULL;
    d->options.lora = NULL;
    if (s != STATUS_OK) {
        decoder_close(d);
        return s;
    }
    *out = d;
    return STATUS_OK;
}

void decoder_close(decoder *d) {
    if (!d) return;
    parameter_table_free(&d->table);
    mem_free(d->layers);
    mem_free(d->adapters);
    mem_free(d->trainables);
    mem_free(d);
}

status decoder_read_sums(const decoder *d, engine *e, double total[2], double *squares) {
    TRY(engine_store(e, d->total, total, 0, 2 * sizeof(double)));
    for (size_t i = 0; squares && i < d->trainable_count; i++)
        TRY(engine_store(e, d->trainables[i].square, &squares[i], 0, sizeof(double)));
    return STATUS_OK;
}

status decoder_load_tables(const decoder *d, engine *e) {
    int64_t bytes = d->config->head_dim / 2 * (int64_t)sizeof(float);
    TRY(engine_load(e, d->inv_freq, d->config->inv_freq, 0, bytes));
    return decoder_clear_total(d, e);
}

status decoder_clear_total(const decoder *d, engine *e) {
    static const double zero[2] = {0, 0};
    return engine_load(e, d->total, zero, 0, sizeof zero);
}
