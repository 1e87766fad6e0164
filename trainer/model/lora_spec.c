/* lora_spec.c: see lora_spec.h. */
#include "trainer/model/lora_spec.h"
#include "common/alloc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *module_full_name(char name[MODULE_NAME_MAX], int32_t layer, linear_module m) {
    snprintf(name, MODULE_NAME_MAX, "model.layers.%d.%s", layer, module_path(m));
    return name;
}

bool module_parse(const char *name, const model_config *c, int32_t *layer, linear_module *m) {
    char canonical[MODULE_NAME_MAX];
    static const char prefix[] = "model.layers.";
    if (strncmp(name, prefix, sizeof prefix - 1)) return false;
    long l = strtol(name + sizeof prefix - 1, NULL, 10);
    if (l < 0 || l >= c->layers) return false;
    for (int i = 0; i < MODULE_COUNT; i++)
        if (!strcmp(name, module_full_name(canonical, (int32_t)l, (linear_module)i))) {
            *layer = (int32_t)l;
            *m = (linear_module)i;
            return true;
        }
    return false;
}

static bool name_matches(const char *name, const char *target) {
    size_t n = strlen(name), t = strlen(target);
    if (t > n || strcmp(name + n - t, target)) return false;
    return t == n || name[n - t - 1] == '.';
}

static status check_request(const lora_request *r) {
    if (r->rank < 1 || r->rank > LORA_RANK_MAX)
        return status_fail(STATUS_USAGE, "lora_r is %lld; it must be in 1 .. %d",
                           (long long)r->rank, LORA_RANK_MAX);
    if (!(r->alpha > 0 && r->alpha < 1e9))
        return status_fail(STATUS_USAGE, "lora_alpha is %g; it must be positive", r->alpha);
    if (!(r->dropout >= 0 && r->dropout < 1))
        return status_fail(STATUS_USAGE, "lora_dropout is %g; it must be in [0, 1)",
                           r->dropout);
    if (!r->every_linear && !r->target_count)
        return status_fail(STATUS_USAGE,
                           "no linear layer has an adapter: give lora_target_linear: "
                           "true or lora_target_modules");
    return STATUS_OK;
}

static bool layer_chosen(const lora_request *r, int32_t layer) {
    for (size_t i = 0; i < r->layer_count; i++)
        if (r->layers[i] == layer) return true;
    return !r->layers;
}

static status refuse_target(const char *target) {
    bool outer = name_matches(target, "lm_head") || name_matches(target, "embed_tokens");
    return status_fail(STATUS_USAGE,
                       "lora_target_modules: \"%.64s\" %s; there are q_proj, k_proj, v_proj, "
                       "o_proj, gate_proj, up_proj and down_proj",
                       target,
                       outer ? "cannot have an adapter (head and embedding stay as they are)"
                             : "is no linear layer of this model");
}

/* Gives every chosen layer's matching modules the rank. */
static status apply_target(lora_spec *s, const lora_request *r, const char *target) {
    char name[MODULE_NAME_MAX];
    bool found = false;
    double scale = r->rslora ? r->alpha / sqrt((double)r->rank) : r->alpha / (double)r->rank;
    for (int32_t l = 0; l < s->layers; l++)
        for (int m = 0; m < MODULE_COUNT; m++) {
            if (target && !name_matches(module_full_name(name, l, (linear_module)m), target))
                continue;
            found = true;
            if (layer_chosen(r, l))
                s->modules[l * MODULE_COUNT + m] =
                    (lora_module){(int32_t)r->rank, (float)scale, r->alpha};
        }
    return found ? STATUS_OK : refuse_target(target);
}

static status allocate(lora_spec *s, const model_config *c) {
    s->layers = c->layers;
    s->modules =
        mem_alloc_array((size_t)c->layers * MODULE_COUNT, sizeof *s->modules, "adapters");
    return s->modules ? STATUS_OK : STATUS_MEMORY;
}

static status fill(lora_spec *s, const model_config *c, const lora_request *r) {
    TRY(check_request(r));
    for (size_t i = 0; i < r->layer_count; i++)
        if (r->layers[i] < 0 || r->layers[i] >= c->layers)
            return status_fail(STATUS_USAGE, "layer %lld to adapt is not in 0 .. %d",
                               (long long)r->layers[i], c->layers - 1);
    TRY(allocate(s, c));
    if (r->every_linear) return apply_target(s, r, NULL);
    for (size_t i = 0; i < r->target_count; i++) TRY(apply_target(s, r, r->targets[i]));
    return STATUS_OK;
}

status lora_spec_make(lora_spec *out, const model_config *c, const lora_request *request) {
    *out = (lora_spec){.rank = request->rank,
                       .alpha = request->alpha,
                       .dropout = request->dropout,
                       .rslora = request->rslora};
    status s = fill(out, c, request);
    if (s != STATUS_OK) lora_spec_free(out);
    return s;
}

static status add_peft_module(lora_spec *s, const model_config *c, const peft_module *p) {
    int32_t layer;
    linear_module m;
    if (!module_parse(p->name, c, &layer, &m))
        return status_fail(STATUS_MODEL,
                           "the adapter changes %s, which is no linear layer of this "
                           "model",
                           p->name);
    if (p->in != module_in(c, m) || p->out != module_out(c, m))
        return status_fail(STATUS_MODEL,
                           "the adapter's %s is for %lld x %lld weights, the model's are "
                           "%lld x %lld: it belongs to another model",
                           p->name, (long long)p->out, (long long)p->in,
                           (long long)module_out(c, m), (long long)module_in(c, m));
    if (p->rank < 1 || p->rank > LORA_RANK_MAX)
        return status_fail(STATUS_MODEL, "the adapter's %s has rank %lld", p->name,
                           (long long)p->rank);
    s->modules[layer * MODULE_COUNT + m] =
        (lora_module){(int32_t)p->rank, (float)p->scale, p->alpha};
    return STATUS_OK;
}

status lora_spec_from_peft(lora_spec *out, const model_config *c, const peft_adapter *p) {
    *out = (lora_spec){.rank = p->config.r,
                       .alpha = p->config.alpha,
                       .dropout = p->config.dropout,
                       .rslora = p->config.rslora};
    status s = allocate(out, c);
    for (size_t i = 0; s == STATUS_OK && i < p->count; i++)
        s = add_peft_module(out, c, &p->modules[i]);
    if (s != STATUS_OK) lora_spec_free(out);
    return s;
}

void lora_spec_free(lora_spec *s) {
    mem_free(s->modules);
    *s = (lora_spec){0};
}
