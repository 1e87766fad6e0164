/* model_config.h: config.json as a plain struct, in the forms that transformers 4 and 5 write.
 *
 * Everything in the file is untrusted and is checked here, at once: types, ranges, products. A
 * model_config that was returned keeps these promises, so that nobody checks them again:
 *   - 1 <= layers <= 512; hidden, feed_forward and heads * head_dim <= 2^20; vocab <= 2^24;
 *   - heads is a multiple of kv_heads; head_dim is even and <= 256;
 *   - windows[l] >= 0 for every layer; the rope frequencies are finite.
 * Weights are not looked at: they are weights.h's matter. Letters as in autograd/tensor.h. */
#ifndef NIBBLE_TRAINER_MODEL_MODEL_CONFIG_H
#define NIBBLE_TRAINER_MODEL_MODEL_CONFIG_H

#include "autograd/operation.h"
#include "trainer/model/family.h"
#include "trainer/model/rope.h"

enum { MODEL_EOS_MAX = 16 };

typedef struct model_config {
    const family *family;
    int64_t vocab, hidden, feed_forward; /* V, H, F */
    int32_t layers, heads, kv_heads, head_dim;
    int64_t
        positions; /* max_position_embeddings; longer sequences run, but were not learned */
    float eps;     /* of every RMSNorm */
    activation act;
    bool qkv_bias, o_bias, mlp_bias;
    bool tied;        /* as the file wishes; a different head among the weights overrides it */
    int32_t *windows; /* [layers] tokens a query sees, itself included; 0: all before it */
    rope_config rope;
    float *inv_freq;   /* [head_dim / 2] */
    float rope_factor; /* on cos and sin */
    dtype stored;      /* torch_dtype or dtype; DTYPE_F32 when absent */
    bool quantized;    /* quantization_config of bitsandbytes, 4 bit */
    dtype quant_type;  /* DTYPE_NF4 or DTYPE_FP4, when quantized */
    bool quant_nested;
    int32_t bos;                /* -1: none */
    int32_t eos[MODEL_EOS_MAX]; /* generation_config.json before config.json */
    int eos_count;
    json_t *json; /* the whole file, for export */
} model_config;

/* Reads folder/config.json and, where present, folder/generation_config.json. STATUS_MODEL for
 * anything absent, malformed, out of range or not supported; nothing is left in *out then. */
status model_config_open(model_config *out, const char *folder);
/* The same from parsed JSON; `generation` may be NULL. Takes no reference but its own. */
status model_config_read(model_config *out, json_t *config, const json_t *generation,
                         const char *where);
void model_config_close(model_config *c);

/* STATUS_USAGE if sequences of `tokens` cannot be computed exactly (dynamic rope scaling). */
status model_config_check_length(const model_config *c, int64_t tokens);

/* The linear layers of a block, in the order of their Philox module numbers. */
typedef enum linear_module {
    MODULE_Q,
    MODULE_K,
    MODULE_V,
    MODULE_O,
    MODULE_GATE,
    MODULE_UP,
    MODULE_DOWN,
    MODULE_COUNT
} linear_module;

/* "q_proj", and the path inside a layer: "self_attn.q_proj". */
const char *module_name(linear_module m);
const char *module_path(linear_module m);
/* Weight [out, in] of a module, and whether it has a bias. */
int64_t module_in(const model_config *c, linear_module m);
int64_t module_out(const model_config *c, linear_module m);
bool module_has_bias(const model_config *c, linear_module m);

/* Weights of the whole model, and of the linears of all blocks. */
int64_t model_config_parameters(const model_config *c, bool tied);
int64_t model_config_linear_weights(const model_config *c);

#endif
