/* tiny_folder.h: a job in a scratch folder, small enough to be done thousands of times: a
 * random one-layer Llama with the mini tokenizer, rows of ids, rows of text, a configuration.
 * Everything is a function of nothing: the same bytes each time. */
#ifndef NIBBLE_TESTS_TINY_FOLDER_H
#define NIBBLE_TESTS_TINY_FOLDER_H

#include "checkpoints/safetensors_writer.h"
#include "mini_tokenizer.h"

enum { TINY_HIDDEN = 32, TINY_FEED_FORWARD = 48, TINY_VOCABULARY = 264, TINY_WIDE = 20000 };

/* name, rows (0: the vocabulary), columns; one row: a vector */
static const struct {
    const char *name;
    int64_t rows, cols;
} tiny_tensors[] = {
    {"model.embed_tokens.weight", 0, TINY_HIDDEN},
    {"lm_head.weight", 0, TINY_HIDDEN},
    {"model.norm.weight", 1, TINY_HIDDEN},
    {"model.layers.0.input_layernorm.weight", 1, TINY_HIDDEN},
    {"model.layers.0.post_attention_layernorm.weight", 1, TINY_HIDDEN},
    {"model.layers.0.self_attn.q_proj.weight", TINY_HIDDEN, TINY_HIDDEN},
    {"model.layers.0.self_attn.k_proj.weight", TINY_HIDDEN / 2, TINY_HIDDEN},
    {"model.layers.0.self_attn.v_proj.weight", TINY_HIDDEN / 2, TINY_HIDDEN},
    {"model.layers.0.self_attn.o_proj.weight", TINY_HIDDEN, TINY_HIDDEN},
    {"model.layers.0.mlp.gate_proj.weight", TINY_FEED_FORWARD, TINY_HIDDEN},
    {"model.layers.0.mlp.up_proj.weight", TINY_FEED_FORWARD, TINY_HIDDEN},
    {"model.layers.0.mlp.down_proj.weight", TINY_HIDDEN, TINY_FEED_FORWARD},
};
enum { TINY_TENSORS = sizeof tiny_tensors / sizeof *tiny_tensors };

static inline void tiny_weights_write(const char *path, int64_t vocabulary) {
    safetensors_writer w;
    static float values[TINY_WIDE * TINY_HIDDEN];
    uint64_t seed = 3;
    assert_ok(safetensors_create(&w, path));
    for (int i = 0; i < TINY_TENSORS; i++) {
        int64_t rows = tiny_tensors[i].rows ? tiny_tensors[i].rows : vocabulary;
        const int64_t shape[] = {rows, tiny_tensors[i].cols};
        bool vector = rows == 1;
        assert_ok(safetensors_declare(&w, tiny_tensors[i].name, DTYPE_F32, vector ? 1 : 2,
                                      vector ? shape + 1 : shape));
    }
    assert_ok(safetensors_begin(&w, "pt"));
    for (int i = 0; i < TINY_TENSORS; i++) {
        int64_t rows = tiny_tensors[i].rows ? tiny_tensors[i].rows : vocabulary;
        int64_t n = rows * tiny_tensors[i].cols;
        float middle = rows == 1 ? 1 : 0;
        for (int64_t k = 0; k < n; k++)
            values[k] = middle + 0.3f * ((float)(noise(&seed) >> 40) * 0x1p-23f - 1);
        assert_ok(safetensors_write(&w, tiny_tensors[i].name, values, (size_t)n * 4));
    }
    assert_ok(safetensors_finish(&w));
}

static inline void tiny_rows_write(const char *path) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int row = 0; row < 6; row++) {
        fprintf(f, "{\"input_ids\": [256");
        for (int i = 0; i < 6 + row; i++) fprintf(f, ", %d", 97 + (row * 7 + i * 3) % 26);
        fprintf(f, ", 257], \"labels\": [-100");
        for (int i = 0; i < 6 + row; i++) fprintf(f, ", %d", 97 + (row * 7 + i * 3) % 26);
        fprintf(f, ", 257]}\n");
    }
    fclose(f);
}

static inline void tiny_model_write(const char *folder, int64_t vocabulary) {
    char text[1000];
    snprintf(text, sizeof text,
             "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\",\n"
             " \"hidden_size\": 32, \"intermediate_size\": 48, \"num_hidden_layers\": 1,\n"
             " \"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"head_dim\": 16,\n"
             " \"vocab_size\": %d, \"max_position_embeddings\": 64,\n"
             " \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\",\n"
             " \"tie_word_embeddings\": false, \"torch_dtype\": \"float32\",\n"
             " \"bos_token_id\": 256, \"eos_token_id\": 257}\n",
             (int)vocabulary);
    assert_ok(file_make_directories(folder));
    mini_tokenizer_write(folder, NULL, true);
    char path[300];
    snprintf(path, sizeof path, "%s/config.json", folder);
    put_text(path, text);
    snprintf(path, sizeof path, "%s/generation_config.json", folder);
    put_text(path, "{\"eos_token_id\": 257}\n");
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    tiny_weights_write(path, vocabulary);
}

/* Writes base/, rows.jsonl, chats.jsonl and config.yaml into the current folder. */
static inline void tiny_folder_write(void) {
    tiny_model_write("base", TINY_VOCABULARY);
    tiny_rows_write("rows.jsonl");
    put_text("chats.jsonl",
             "{\"instruction\": \"Add.\", \"input\": \"1 1\", \"output\": \"2\"}\n"
             "{\"instruction\": \"Add.\", \"input\": \"1 2\", \"output\": \"3\"}\n"
             "{\"instruction\": \"Name a colour.\", \"input\": \"\", \"output\": \"red\"}\n");
    put_text("config.yaml",
             "base_model: base\nadapter: qlora\nload_in_4bit: true\nlora_r: 2\n"
             "lora_alpha: 4\nlora_target_linear: true\noutput_dir: out\n"
             "datasets:\n  - path: rows.jsonl\n    type:\n"
             "val_set_size: 2\neval_steps: 2\nsequence_len: 16\nmicro_batch_size: 2\n"
             "gradient_accumulation_steps: 1\nmax_steps: 2\nsave_steps: 1\n"
             "optimizer: adamw_torch\nlr_scheduler: constant\nlearning_rate: 0.01\n"
             "bf16: false\nseed: 7\n");
}

#endif
