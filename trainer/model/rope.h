/* rope.h: rotary position frequencies as transformers computes them (modeling_rope_utils.py).
 *
 * inv_freq[i] = 1 / theta^(2i/D), i < D/2, then changed by the kind of scaling:
 *   default  as it is
 *   linear   / factor
 *   llama3   wavelengths over original/low are divided by factor, those under original/high
 * are kept, in between a blend yarn     a ramp between inv_freq and inv_freq/factor over the
 * dimensions, and cos and sin grow by the attention factor (0.1 ln(factor) + 1 unless given)
 *   dynamic  as default up to max_position_embeddings; beyond it the frequencies would depend
 * on each sequence's length, so longer sequences are refused (rope_config.longest) In fp32
 * where transformers is; its powers come from a library within 1 ulp, ours are rounded from
 * double. */
#ifndef NIBBLE_TRAINER_MODEL_ROPE_H
#define NIBBLE_TRAINER_MODEL_ROPE_H

#include "common/json.h"
#include "common/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum rope_kind {
    ROPE_DEFAULT,
    ROPE_LINEAR,
    ROPE_LLAMA3,
    ROPE_YARN,
    ROPE_DYNAMIC
} rope_kind;

typedef struct rope_config {
    rope_kind kind;
    double theta;
    double factor;
    double low, high;            /* llama3: frequency factors */
    double original;             /* llama3, yarn: positions of the pre-training */
    double attention;            /* yarn: attention_factor; 0: by factor and the mscales */
    double mscale, mscale_all;   /* yarn; 0: not given */
    double beta_fast, beta_slow; /* yarn: rotations that bound the ramp */
    bool truncate;               /* yarn: the ramp's ends are whole dimensions */
    int64_t longest;             /* dynamic: tokens of a sequence at most; else INT64_MAX */
} rope_config;

/* Reads both forms out of config.json's object: rope_theta + rope_scaling {type | rope_type,
 * ...}, or rope_parameters {rope_theta, rope_type, ...}. `positions` is
 * max_position_embeddings, `theta_absent` the family's. STATUS_MODEL, prefixed by nothing, for
 * kinds that are not listed above and for numbers out of range. */
status rope_read(const json_t *config, double theta_absent, int64_t positions,
                 const char *where, rope_config *out);

/* inv_freq [head_dim / 2]; *factor multiplies cos and sin. STATUS_MODEL when the result is not
 * finite. */
status rope_frequencies(const rope_config *rope, int head_dim, float *inv_freq, float *factor);

#endif
