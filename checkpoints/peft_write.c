/* peft_write.c: the writing half of peft.h. */
#include "checkpoints/peft.h"
#include "checkpoints/safetensors_writer.h"
#include "common/alloc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 20 }; /* bytes copied at a time */

/* ---- adapter_model.safetensors ---- */

static char *key_of(const named_tensor *t) {
    return mem_printf("base_model.model.%s", t->name);
}

static status declare(safetensors_writer *w, const named_tensor *t) {
    size_t n = strlen(t->name), end = strlen(".lora_A.weight");
    if (n <= end ||
        (strcmp(t->name + n - end, ".lora_A.weight") &&
         strcmp(t->name + n - end, ".lora_B.weight")) ||
        t->format.type != DTYPE_F32)
        return status_fail(STATUS_INTERNAL, "\"%s\" is no fp32 LoRA matrix", t->name);
    char *key = key_of(t);
    if (!key) return STATUS_MEMORY;
    status s =
        safetensors_declare(w, key, DTYPE_F32, 2, (int64_t[]){t->format.rows, t->format.cols});
    mem_free(key);
    return s;
}

static status write_tensor(safetensors_writer *w, const named_tensor *t, void *piece) {
    int64_t bytes = t->format.rows * t->format.cols * 4;
    char *key = key_of(t);
    if (!key) return STATUS_MEMORY;
    status s = STATUS_OK;
    for (int64_t at = 0; at < bytes && s == STATUS_OK; at += PIECE) {
        int64_t n = bytes - at < PIECE ? bytes - at : PIECE;
        s = named_tensor_read(t, at, n, piece);
        if (s == STATUS_OK) s = safetensors_write(w, key, piece, (size_t)n);
    }
    mem_free(key);
    return s;
}

static status write_weights(const char *path, const char *base_hash,
                            const named_tensor *tensors, size_t count) {
    safetensors_writer w;
    TRY(safetensors_create(&w, path));
    w.base_hash = base_hash;
    void *piece = mem_alloc(PIECE, "an adapter's copy");
    status s = piece ? STATUS_OK : STATUS_MEMORY;
    for (size_t i = 0; i < count && s == STATUS_OK; i++) s = declare(&w, &tensors[i]);
    if (s == STATUS_OK) s = safetensors_begin(&w, "pt");
    for (size_t i = 0; i < count && s == STATUS_OK; i++)
        s = write_tensor(&w, &tensors[i], piece);
    mem_free(piece);
    if (s == STATUS_OK) return safetensors_finish(&w);
    safetensors_abandon(&w);
    return s;
}

/* ---- adapter_config.json ---- */

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The distinct last names of the modules ("q_proj"), sorted; NULL when out of memory. */
static json_t *last_names(const named_tensor *tensors, size_t count) {
    json_t *list = json_array();
    char **names = mem_alloc_array(count, sizeof *names, "adapter targets");
    int failed = !list || !names;
    size_t n = 0;
    for (; n < count && !failed; n++) {
        size_t length = strlen(tensors[n].name) - strlen(".lora_A.weight"), start = length;
        while (start && tensors[n].name[start - 1] != '.') start--;
        failed = !(names[n] = mem_strndup(tensors[n].name + start, length - start));
    }
    if (!failed && n) qsort(names, n, sizeof *names, by_text);
    for (size_t i = 0; i < n && !failed; i++)
        if (!i || strcmp(names[i], names[i - 1]))
            failed = json_array_append_new(list, json_string(names[i]));
    for (size_t i = 0; i < n; i++) mem_free(names[i]);
    mem_free(names);
    if (!failed) return list;
    json_decref(list);
    return NULL;
}

static json_t *target_modules(const peft_config *c, const named_tensor *tensors,
                              size_t count) {
    if (c->target_pattern) return json_string(c->target_pattern);
    if (!c->target_count) return last_names(tensors, count);
    json_t *list = json_array();
    for (size_t i = 0; list && i < c->target_count; i++)
        if (json_array_append_new(list, json_string(c->targets[i]))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* PEFT calls alpha an integer; a baked-in sqrt(r) need not be one. */
static json_t *number(double x) {
    return x == floor(x) && fabs(x) < 1e15 ? json_integer((json_int_t)x) : json_real(x);
}

static json_t *rank_pattern(const peft_config *c) {
    json_t *out = json_object();
    for (size_t i = 0; i < c->exception_count; i++)
        if (c->exceptions[i].rank != c->r)
            json_put(&out, c->exceptions[i].module, json_integer(c->exceptions[i].rank));
    return out;
}

static json_t *alpha_pattern(const peft_config *c) {
    json_t *out = json_object();
    for (size_t i = 0; i < c->exception_count; i++)
        if (c->exceptions[i].alpha != c->alpha)
            json_put(&out, c->exceptions[i].module, number(c->exceptions[i].alpha));
    return out;
}

/* The keys that every PEFT since 0.7 knows: older ones fail on keys that they do not. */
static json_t *config_json(const peft_config *c, const named_tensor *tensors, size_t count) {
    json_t *out = json_object();
    if (!out) return NULL;
    int bad = json_object_set_new(out, "alpha_pattern", alpha_pattern(c)) |
              json_object_set_new(out, "auto_mapping", json_null()) |
              json_object_set_new(out, "base_model_name_or_path",
                                  c->base_model ? json_string(c->base_model) : json_null()) |
              json_object_set_new(out, "bias", json_string("none")) |
              json_object_set_new(out, "fan_in_fan_out", json_false()) |
              json_object_set_new(out, "inference_mode", json_true()) |
              json_object_set_new(out, "init_lora_weights", json_true()) |
              json_object_set_new(out, "layers_pattern", json_null()) |
              json_object_set_new(out, "layers_to_transform", json_null()) |
              json_object_set_new(out, "lora_alpha", number(c->alpha)) |
              json_object_set_new(out, "lora_dropout", json_real(c->dropout)) |
              json_object_set_new(out, "modules_to_save", json_null()) |
              json_object_set_new(out, "peft_type", json_string("LORA")) |
              json_object_set_new(out, "r", json_integer(c->r)) |
              json_object_set_new(out, "rank_pattern", rank_pattern(c)) |
              json_object_set_new(out, "revision", json_null()) |
              json_object_set_new(out, "target_modules", target_modules(c, tensors, count)) |
              json_object_set_new(out, "task_type", json_string("CAUSAL_LM")) |
              json_object_set_new(out, "use_rslora", json_boolean(c->rslora));
    if (!bad) return out;
    json_decref(out);
    return NULL;
}

static status write_config(const char *path, const peft_config *c, const named_tensor *tensors,
                           size_t count) {
    json_t *json = config_json(c, tensors, count);
    char *text = json ? json_write_text(json, JSON_INDENT(2)) : NULL;
    char *line = text ? mem_printf("%s\n", text) : NULL;
    json_decref(json);
    mem_free(text);
    if (!line) return status_fail(STATUS_MEMORY, "%s: out of memory", path);
    status s = file_write_all(path, line, strlen(line));
    mem_free(line);
    return s;
}

status peft_write(const char *folder, const peft_config *config, const named_tensor *tensors,
                  size_t count) {
    TRY(file_make_directories(folder));
    char *weights = file_join(folder, "adapter_model.safetensors");
    char *json = file_join(folder, "adapter_config.json");
    status s = weights && json ? write_weights(weights, config->base_hash, tensors, count)
                               : STATUS_MEMORY;
    if (s == STATUS_OK) s = write_config(json, config, tensors, count);
    mem_free(weights);
    mem_free(json);
    return s;
}
