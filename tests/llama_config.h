/* llama_config.h: a small valid config.json, changed key by key. */
#ifndef NIBBLE_TESTS_LLAMA_CONFIG_H
#define NIBBLE_TESTS_LLAMA_CONFIG_H

#include "golden.h"
#include "scratch.h"

#include "checkpoints/safetensors_writer.h"
#include "trainer/model/generate.h"
#include "trainer/model/layout.h"
#include "trainer/model/weights.h"

#include <math.h>

/* A small valid llama; `more` are further keys, the last of equal ones wins. */
#define LLAMA                                                                                 \
    "\"model_type\": \"llama\", \"vocab_size\": 40, \"hidden_size\": 16, "                    \
    "\"intermediate_size\": 24, \"num_hidden_layers\": 2, \"num_attention_heads\": 4"

static inline json_t *parse(const char *text) {
    json_t *j;
    assert_ok(json_read_text(text, strlen(text), "test", STATUS_MODEL, &j));
    return j;
}

/* The valid one with the keys of `more` put over it; a key "-x" takes x away. */
static inline json_t *llama_with(const char *more) {
    json_t *j = parse("{" LLAMA "}"), *over = parse(more), *value;
    const char *key;
    json_object_foreach(over, key, value) {
        if (*key == '-')
            json_object_del(j, key + 1);
        else
            json_object_set(j, key, value);
    }
    json_decref(over);
    return j;
}

static inline model_config read_config(const char *more) {
    model_config c;
    json_t *j = llama_with(more);
    assert_ok(model_config_read(&c, j, NULL, "config.json"));
    json_decref(j);
    return c;
}

#endif
