/* family.c: the table of family.h. */
#include "trainer/model/family.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Llama 2, 3 and 3.x, and what copies their form (TinyLlama, SmolLM2): rope scaling is
 * config's. */
static const family families[] = {
    {.model_type = "llama",
     .qkv_bias = BIAS_BY_KEY,
     .o_bias = BIAS_BY_KEY,
     .mlp_bias = BIAS_BY_KEY,
     .window = WINDOW_NEVER,
     .positions_absent = 2048,
     .theta_absent = 10000,
     .eps_absent = 1e-6},
    {.model_type = "mistral",
     .window = WINDOW_EVERY_LAYER,
     .window_absent = 4096,
     .kv_heads_absent = 8,
     .positions_absent = 131072,
     .theta_absent = 10000,
     .eps_absent = 1e-6},
    /* Qwen2 and 2.5 */
    {.model_type = "qwen2",
     .qkv_bias = BIAS_ALWAYS,
     .window = WINDOW_BY_LAYER,
     .window_absent = 4096,
     .full_layers_absent = 28,
     .kv_heads_absent = 32,
     .positions_absent = 32768,
     .theta_absent = 10000,
     .eps_absent = 1e-6},
    {.model_type = "qwen3",
     .qkv_bias = BIAS_BY_KEY,
     .o_bias = BIAS_BY_KEY,
     .qk_norm = true,
     .window = WINDOW_BY_LAYER,
     .window_absent = 4096,
     .full_layers_absent = 28,
     .kv_heads_absent = 32,
     .head_dim_absent = 128,
     .positions_absent = 32768,
     .theta_absent = 10000,
     .eps_absent = 1e-6},
};

enum { FAMILIES = sizeof families / sizeof *families };

const family *family_at(int i) {
    return i >= 0 && i < FAMILIES ? &families[i] : NULL;
}

status family_find(const char *model_type, const family **out) {
    char known[128] = "";
    for (int i = 0; i < FAMILIES; i++) {
        if (!strcmp(families[i].model_type, model_type)) {
            *out = &families[i];
            return STATUS_OK;
        }
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "",
                 families[i].model_type);
    }
    return status_fail(STATUS_MODEL, "model_type \"%.64s\" is not supported; supported are %s",
                       model_type, known);
}
