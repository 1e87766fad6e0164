/* lora.h: the values of adapters: initialized, loaded from a PEFT folder, written to one.
 *
 * Which modules have adapters is lora_spec.h's matter and fixed in the decoder. */
#ifndef NIBBLE_TRAINER_MODEL_LORA_H
#define NIBBLE_TRAINER_MODEL_LORA_H

#include "trainer/model/decoder.h"

/* A uniform in +-1/sqrt(in) (PEFT's kaiming_uniform(a = sqrt 5)), B = 0. Element i of a
 * module's A is word i of the Philox stream (seed, INIT, module, layer), whatever else is
 * adapted. */
status lora_initialize(const decoder *d, engine *e, uint64_t seed);

/* Values of an adapter that the decoder was made for (lora_spec_from_peft, or one whose
 * modules and ranks are those of the configuration). STATUS_MODEL, naming the module, when the
 * adapter has other modules or ranks than the decoder, or a value that is not finite. */
status lora_load(const decoder *d, engine *e, const peft_adapter *p);

typedef struct lora_export {
    const char *base_model; /* base_model_name_or_path; may be NULL */
    const char *base_hash;  /* identity_digest of the base; may be NULL */
    int64_t rank;           /* r, alpha, dropout, rslora as configured */
    double alpha, dropout;
    bool rslora;
    bool bake_scale; /* write rsLoRA as plain LoRA of the same scale (alpha * sqrt(r)): some
                        servers ignore use_rslora */
} lora_export;

/* Writes the masters as a PEFT adapter (F32) into `folder`. */
status lora_write(const decoder *d, engine *e, const char *folder, const lora_export *how);

#endif
