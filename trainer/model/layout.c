/* layout.c: see layout.h. */
#include "trainer/model/layout.h"
#include "common/alloc.h"

#include <stdarg.h>
#include <stdio.h>

static status add(model_layout *l, layout_tensor t, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static status add(model_layout *l, layout_tensor t, const char *format, ...) {
    if (mem_grow(&l->tensors, &l->capacity, l->count + 1, sizeof *l->tensors, "tensor names"))
        return STATUS_MEMORY;
    va_list args;
    va_start(args, format);
    vsnprintf(t.name, sizeof t.name, format, args);
    va_end(args);
    l->tensors[l->count++] = t;
    return STATUS_OK;
}

static layout_tensor matrix(int64_t rows, int64_t cols, int32_t layer, int module) {
    return (layout_tensor){
        .rank = 2, .rows = rows, .cols = cols, .layer = layer, .module = module};
}

static layout_tensor vector(int64_t cols, int32_t layer) {
    return (layout_tensor){.rank = 1, .rows = 1, .cols = cols, .layer = layer, .module = -1};
}

static status add_layer(model_layout *l, const model_config *c, int32_t layer) {
    static const char form[] = "model.layers.%d.%s.%s";
    for (int m = 0; m < MODULE_COUNT; m++) {
        linear_module x = (linear_module)m;
        TRY(add(l, matrix(module_out(c, x), module_in(c, x), layer, m), form, layer,
                module_path(x), "weight"));
        if (module_has_bias(c, x))
            TRY(add(l, vector(module_out(c, x), layer), form, layer, module_path(x), "bias"));
    }
    TRY(add(l, vector(c->hidden, layer), form, layer, "input_layernorm", "weight"));
    TRY(add(l, vector(c->hidden, layer), form, layer, "post_attention_layernorm", "weight"));
    if (!c->family->qk_norm) return STATUS_OK;
    TRY(add(l, vector(c->head_dim, layer), form, layer, "self_attn.q_norm", "weight"));
    return add(l, vector(c->head_dim, layer), form, layer, "self_attn.k_norm", "weight");
}

static status add_all(model_layout *l, const model_config *c, bool tied) {
    TRY(add(l, matrix(c->vocab, c->hidden, -1, -1), LAYOUT_EMBEDDING));
    for (int32_t i = 0; i < c->layers; i++) TRY(add_layer(l, c, i));
    TRY(add(l, vector(c->hidden, -1), LAYOUT_NORM));
    return tied ? STATUS_OK : add(l, matrix(c->vocab, c->hidden, -1, -1), LAYOUT_HEAD);
}

status model_layout_make(model_layout *out, const model_config *c, bool tied) {
    *out = (model_layout){0};
    status s = add_all(out, c, tied);
    if (s != STATUS_OK) model_layout_free(out);
    return s;
}

void model_layout_free(model_layout *l) {
    mem_free(l->tensors);
    *l = (model_layout){0};
}
