/* peft.h: a LoRA adapter as Hugging Face PEFT keeps it: adapter_config.json and
 * adapter_model.safetensors with the keys base_model.model.<module>.lora_A.weight and lora_B.
 *
 * A wrong key loads in PEFT as B = 0 with only a warning, so here every key is either
 * understood or refused. What changes the result and is not plain LoRA (DoRA, saved modules,
 * PiSSA's residual base, ...) is refused by name. Whether the base has such modules is the
 * trainer's matter. Matched: peft 0.21, tuners/lora. */
#ifndef NIBBLE_CHECKPOINTS_PEFT_H
#define NIBBLE_CHECKPOINTS_PEFT_H

#include "checkpoints/named_tensor.h"
#include "checkpoints/safetensors.h"

typedef struct peft_config {
    const char *base_model; /* base_model_name_or_path; may be NULL */
    const char *base_hash;  /* identity_digest of the base it was trained on, in the weights'
                               metadata; NULL: not known */
    int64_t r;
    double alpha;
    double dropout;
    bool rslora;                /* scale alpha / sqrt(r) instead of alpha / r */
    const char *target_pattern; /* target_modules as a regular expression or "all-linear" */
    const char **targets;       /* or as a list of names and name endings */
    size_t target_count;
    const struct peft_exception *exceptions; /* [exception_count] for writing only */
    size_t exception_count;
} peft_config;

/* A module whose rank or alpha is not the configuration's: rank_pattern, alpha_pattern. */
typedef struct peft_exception {
    const char *module; /* whole name */
    int64_t rank;
    double alpha;
} peft_exception;

typedef struct peft_module {
    char *name; /* "model.layers.0.self_attn.q_proj" */
    int64_t in, out, rank;
    double alpha;               /* its own where rank_pattern or alpha_pattern say so */
    double scale;               /* what B A x is multiplied by */
    const safetensors_entry *a; /* [rank, in] */
    const safetensors_entry *b; /* [out, rank] */
} peft_module;

typedef struct peft_adapter {
    peft_config config;
    peft_module *modules; /* [count], sorted by name */
    size_t count;
    safetensors weights;
    json_t *json; /* owns config's strings */
} peft_adapter;

/* STATUS_MODEL with the file and the key for anything missing, malformed or not supported. On
 * failure there is nothing to close. */
status peft_open(peft_adapter *p, const char *folder);
void peft_close(peft_adapter *p);
/* NULL when the adapter leaves this module alone. */
const peft_module *peft_find(const peft_adapter *p, const char *module);
/* One matrix (module->a or module->b) as fp32, from F32, BF16 or F16; out [elements]. */
status peft_read(const peft_adapter *p, const safetensors_entry *matrix, float *out);

/* Writes an adapter into `folder` (made when absent). `tensors` are F32 and named
 * "<module>.lora_A.weight" [r, in] and "<module>.lora_B.weight" [out, r], any order. Without
 * targets and pattern, target_modules becomes the list of the modules' last names. The config
 * is written last; each file appears complete or not at all. */
status peft_write(const char *folder, const peft_config *config, const named_tensor *tensors,
                  size_t count);

#endif
