/* lora_spec.h: which linear layers have an adapter, of what rank and scale. No values: those
 * are lora.h's matter.
 *
 * y += scale * B A drop(x), A [rank, in], B [out, rank]; scale = alpha / rank, with rsLoRA
 * alpha / sqrt(rank) (Hu et al. 2021; Kalajdzievski 2023). Names match as in PEFT: a target is
 * a whole module name ("model.layers.0.self_attn.q_proj") or the end of one after a dot. */
#ifndef NIBBLE_TRAINER_MODEL_LORA_SPEC_H
#define NIBBLE_TRAINER_MODEL_LORA_SPEC_H

#include "checkpoints/peft.h"
#include "trainer/model/model_config.h"

enum { LORA_RANK_MAX = 1 << 16 };

typedef struct lora_module {
    int32_t rank; /* 0: no adapter */
    float scale;
    double alpha; /* scale = alpha / rank, with rsLoRA alpha / sqrt(rank) */
} lora_module;

typedef struct lora_spec {
    lora_module *modules; /* [layers * MODULE_COUNT]; NULL: no adapter at all */
    int32_t layers;
    int64_t rank; /* as configured; single modules of a loaded adapter may differ */
    double alpha, dropout;
    bool rslora;
} lora_spec;

typedef struct lora_request {
    const char *const *targets; /* [target_count] names */
    size_t target_count;
    bool every_linear;     /* all seven, whatever the targets say ("all-linear") */
    const int64_t *layers; /* [layer_count] only these layers; NULL: all */
    size_t layer_count;
    int64_t rank;
    double alpha, dropout;
    bool rslora;
} lora_request;

/* STATUS_USAGE for a target that matches no linear layer (lm_head and embed_tokens with their
 * reason), a layer out of range, rank, alpha or dropout out of range. */
status lora_spec_make(lora_spec *out, const model_config *c, const lora_request *request);
/* What a PEFT adapter has. STATUS_MODEL, naming the module, if the model lacks it or its shape
 * differs. */
status lora_spec_from_peft(lora_spec *out, const model_config *c, const peft_adapter *p);
void lora_spec_free(lora_spec *s);

static inline lora_module lora_spec_at(const lora_spec *s, int32_t layer, linear_module m) {
    return s->modules ? s->modules[layer * MODULE_COUNT + (int)m] : (lora_module){0};
}

/* "model.layers.3.self_attn.q_proj" */
enum { MODULE_NAME_MAX = 64 };
char *module_full_name(char name[MODULE_NAME_MAX], int32_t layer, linear_module m);
/* The reverse; false when it names no linear layer of this model. */
bool module_parse(const char *name, const model_config *c, int32_t *layer, linear_module *m);

#endif
