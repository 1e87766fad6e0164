/* model.c: the random model that the benchmark trains: config.json and bf16 weights in a folder,
 * from a fixed pool of numbers, so that nothing is downloaded and every run has the same. */
#include "common/alloc.h"
#include "common/checked.h"
#include "common/half.h"
#include "common/philox.h"
#include "checkpoints/safetensors_writer.h"
#include "trainer/bench/bench.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { POOL = 32749 /* numbers, repeated; a prime, so that rows differ */, NAME = 96 };

typedef struct maker {
    safetensors_writer w;
    float pool[POOL];
    uint16_t piece[POOL];
    bool writing; /* the second pass */
} maker;

static status tensor_named(maker *m, const char *name, int64_t rows, int64_t cols) {
    int64_t shape[2] = {rows, cols};
    bool norm = rows == 1;
    if (!m->writing)
        return norm ? safetensors_declare(&m->w, name, DTYPE_BF16, 1, &shape[1])
                    : safetensors_declare(&m->w, name, DTYPE_BF16, 2, shape);
    float middle = norm ? 1 : 0, wide = norm ? 0.2f : 1.9f / sqrtf((float)cols);
    for (int i = 0; i < POOL; i++) m->piece[i] = f32_to_bf16(middle + wide * m->pool[i]);
    for (int64_t left = rows * cols, n; left; left -= n) {
        n = min_i64(left, POOL);
        TRY(safetensors_write(&m->w, name, m->piece, (size_t)n * sizeof *m->piece));
    }
    return STATUS_OK;
}

static status layer_tensor(maker *m, int64_t layer, const char *part, int64_t rows,
                           int64_t cols) {
    char name[NAME];
    snprintf(name, sizeof name, "model.layers.%lld.%s.weight", (long long)layer, part);
    return tensor_named(m, name, rows, cols);
}

static status all_tensors(maker *m, const bench_shape *s) {
    int64_t h = s->hidden, q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    TRY(tensor_named(m, "model.embed_tokens.weight", s->vocab, h));
    TRY(tensor_named(m, "model.norm.weight", 1, h));
    for (int64_t i = 0; i < s->layers; i++) {
        TRY(layer_tensor(m, i, "input_layernorm", 1, h));
        TRY(layer_tensor(m, i, "self_attn.q_proj", q, h));
        TRY(layer_tensor(m, i, "self_attn.k_proj", kv, h));
        TRY(layer_tensor(m, i, "self_attn.v_proj", kv, h));
        TRY(layer_tensor(m, i, "self_attn.o_proj", h, q));
        TRY(layer_tensor(m, i, "post_attention_layernorm", 1, h));
        TRY(layer_tensor(m, i, "mlp.gate_proj", s->ffn, h));
        TRY(layer_tensor(m, i, "mlp.up_proj", s->ffn, h));
        TRY(layer_tensor(m, i, "mlp.down_proj", h, s->ffn));
    }
    return STATUS_OK;
}

static status write_weights(maker *m, const char *path, const bench_shape *s) {
    philox_stream random = philox_open(1, PHILOX_INIT, 0, 0, 0);
    for (int i = 0; i < POOL; i++)
        m->pool[i] = philox_uniform(philox_word(&random, (uint64_t)(2 * i))) +
                     philox_uniform(philox_word(&random, (uint64_t)(2 * i + 1))) - 1;
    TRY(safetensors_create(&m->w, path));
    TRY(all_tensors(m, s));
    TRY(safetensors_begin(&m->w, "pt"));
    m->writing = true;
    TRY(all_tensors(m, s));
    return safetensors_finish(&m->w);
}

static char *config_text(const bench_shape *s) {
    return mem_printf(
        "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", "
        "\"hidden_size\": %lld, \"intermediate_size\": %lld, "
        "\"num_hidden_layers\": %lld, \"num_attention_heads\": %lld, "
        "\"num_key_value_heads\": %lld, \"head_dim\": %lld, \"vocab_size\": %lld, "
        "\"max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-05, "
        "\"rope_theta\": 10000.0, \"hidden_act\": \"silu\", "
        "\"tie_word_embeddings\": true, \"torch_dtype\": \"bfloat16\"}\n",
        (long long)s->hidden, (long long)s->ffn, (long long)s->layers, (long long)s->heads,
        (long long)s->kv_heads, (long long)s->head_dim, (long long)s->vocab);
}

status bench_write_model(const char *folder, const bench_shape *s) {
    char *text = config_text(s), *config = file_join(folder, "config.json"),
         *weights = file_join(folder, "model.safetensors");
    maker *m = mem_alloc(sizeof *m, "the benchmark's weights");
    status r = text && config && weights && m ? STATUS_OK : STATUS_MEMORY;
    if (r == STATUS_OK) r = file_write_all(config, text, strlen(text));
    if (r == STATUS_OK) r = write_weights(m, weights, s);
    if (m) safetensors_abandon(&m->w);
    mem_free(m);
    mem_free(text);
    mem_free(config);
    mem_free(weights);
    return r;
}
