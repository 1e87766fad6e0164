/* family.h: the model families, a row each: what config.json leaves unsaid.
 *
 * All of them are the same decoder (RMSNorm before attention and before a gated feed-forward,
 * rotary positions, grouped-query attention) and differ in what this table holds: biases,
 * norms on query and key heads, windows, and the values that an absent key means in
 * transformers (configuration_*.py of each). A family that is not here is refused by name: a
 * wrong guess trains a wrong model without a word. */
#ifndef NIBBLE_TRAINER_MODEL_FAMILY_H
#define NIBBLE_TRAINER_MODEL_FAMILY_H

#include "common/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum bias_rule {
    BIAS_NEVER,
    BIAS_ALWAYS,
    BIAS_BY_KEY, /* attention_bias or mlp_bias says it; absent: no */
} bias_rule;

/* Which layers look back over a window only. */
typedef enum window_rule {
    WINDOW_NEVER,
    WINDOW_EVERY_LAYER, /* sliding_window: absent = window_absent, null = none */
    WINDOW_BY_LAYER, /* use_sliding_window, from max_window_layers on, or as layer_types says
                      */
} window_rule;

typedef struct family {
    const char *model_type; /* in config.json */
    bias_rule qkv_bias, o_bias, mlp_bias;
    bool qk_norm; /* RMSNorm over every query and key head before the rotation */
    window_rule window;
    /* What an absent key means. */
    int64_t window_absent;      /* sliding_window, tokens */
    int64_t full_layers_absent; /* max_window_layers */
    int64_t kv_heads_absent;    /* 0: as many as heads; null means that everywhere */
    int64_t head_dim_absent;    /* 0: hidden / heads */
    int64_t positions_absent;   /* max_position_embeddings */
    double theta_absent, eps_absent;
    bool tied_absent;
} family;

/* STATUS_MODEL, naming the supported families, for any other model_type. */
status family_find(const char *model_type, const family **out);
/* The i-th family, NULL behind the last. */
const family *family_at(int i);

#endif
