/* model_config.c: see model_config.h. Reading is a list of checked getters in the order of the
 * struct's fields; what may be absent is the family table's knowledge. */
#include "trainer/model/model_config.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/file.h"
#include "trainer/model/synthetic.h"

#include <string.h>

enum {
    CONFIG_FILE_MAX = 4 << 20, /* bytes; real ones have about 1,000 */
    LAYERS_MAX = 512, /* published models have at most 126; placing their buffers is quadratic */
    WIDTH_MAX = 1 << 20,
    VOCAB_MAX = 1 << 24,
    HEAD_DIM_MAX = 256, /* the attention operation's limit */
};

/* ---- numbers ---- */

static status check_int(int64_t x, int64_t low, int64_t high, const char *key,
                        const char *where) {
    if (x >= low && x <= high) return STATUS_OK;
    return status_fail(STATUS_MODEL, "%s: %s is %lld; it must be in %lld .. %lld", where, key,
                       (long long)x, (long long)low, (long long)high);
}

static bool is_given(const json_t *j, const char *key) {
    const json_t *v = json_object_get(j, key);
    return v && !json_is_null(v);
}

static status read_size(const json_t *j, const char *key, int64_t high, int64_t *out,
                        const char *where) {
    if (!is_given(j, key))
        return status_fail(STATUS_MODEL, "%s: \"%s\" is missing", where, key);
    TRY(json_get_int(j, key, out, where, STATUS_MODEL));
    return check_int(*out, 1, high, key, where);
}

/* A size with a default. */
static status read_optional(const json_t *j, const char *key, int64_t absent, int64_t high,
                            int64_t *out, const char *where) {
    *out = absent;
    TRY(json_get_int(j, key, out, where, STATUS_MODEL));
    return check_int(*out, 1, high, key, where);
}

/* ---- the parts of config.json ---- */

static status read_sizes(model_config *c, const json_t *j, const char *where) {
    int64_t layers, heads;
    TRY(read_size(j, "vocab_size", VOCAB_MAX, &c->vocab, where));
    TRY(read_size(j, "hidden_size", WIDTH_MAX, &c->hidden, where));
    TRY(read_size(j, "intermediate_size", WIDTH_MAX, &c->feed_forward, where));
    TRY(read_size(j, "num_hidden_layers", LAYERS_MAX, &layers, where));
    TRY(read_size(j, "num_attention_heads", WIDTH_MAX, &heads, where));
    c->layers = (int32_t)layers;
    c->heads = (int32_t)heads;
    return read_optional(j, "max_position_embeddings", c->family->positions_absent, INT32_MAX,
                         &c->positions, where);
}

static status read_heads(model_config *c, const json_t *j, const char *where) {
    const family *f = c->family;
    bool null_kv = json_is_null(json_object_get(j, "num_key_value_heads"));
    int64_t kv_absent = f->kv_heads_absent && !null_kv ? f->kv_heads_absent : c->heads;
    int64_t kv, dim, dim_absent = f->head_dim_absent;
    TRY(read_optional(j, "num_key_value_heads", kv_absent, c->heads, &kv, where));
    if (c->heads % kv)
        return status_fail(
            STATUS_MODEL,
            "%s: num_attention_heads %d is not a multiple of num_key_value_heads "
            "%lld",
            where, c->heads, (long long)kv);
    if (!dim_absent && !is_given(j, "head_dim") && c->hidden % c->heads)
        return status_fail(STATUS_MODEL,
                           "%s: hidden_size %lld is not a multiple of num_attention_heads %d",
                           where, (long long)c->hidden, c->heads);
    if (!dim_absent) dim_absent = c->hidden / c->heads;
    TRY(read_optional(j, "head_dim", dim_absent, HEAD_DIM_MAX, &dim, where));
    if (dim % 2)
        return status_fail(STATUS_MODEL,
                           "%s: head_dim %lld is odd; rotary positions need pairs", where,
                           (long long)dim);
    c->kv_heads = (int32_t)kv;
    c->head_dim = (int32_t)dim;
    return check_int(c->heads * dim, 1, WIDTH_MAX, "heads * head_dim", where);
}

static status read_bias(bias_rule rule, const json_t *j, const char *key, bool *out,
                        const char *where) {
    *out = rule == BIAS_ALWAYS;
    if (rule != BIAS_BY_KEY) return STATUS_OK;
    return json_get_bool(j, key, out, where, STATUS_MODEL);
}

static status read_activation(model_config *c, const json_t *j, const char *where) {
    const char *name = "silu";
    TRY(json_get_text(j, "hidden_act", &name, where, STATUS_MODEL));
    if (!strcmp(name, "silu") || !strcmp(name, "swish"))
        c->act = ACT_SILU;
    else if (!strcmp(name, "gelu_pytorch_tanh"))
        c->act = ACT_GELU_TANH;
    else
        return status_fail(STATUS_MODEL,
                           "%s: hidden_act \"%.64s\" is not supported; supported are silu and "
                           "gelu_pytorch_tanh",
                           where, name);
    return STATUS_OK;
}

static status read_numbers(model_config *c, const json_t *j, const char *where) {
    double eps = c->family->eps_absent;
    TRY(json_get_real(j, "rms_norm_eps", &eps, where, STATUS_MODEL));
    if (!(eps > 0 && eps < 1))
        return status_fail(STATUS_MODEL, "%s: rms_norm_eps is %g; it must be in 0 .. 1", where,
                           eps);
    c->eps = (float)eps;
    c->tied = c->family->tied_absent;
    TRY(json_get_bool(j, "tie_word_embeddings", &c->tied, where, STATUS_MODEL));
    TRY(read_bias(c->family->qkv_bias, j, "attention_bias", &c->qkv_bias, where));
    TRY(read_bias(c->family->o_bias, j, "attention_bias", &c->o_bias, where));
    return read_bias(c->family->mlp_bias, j, "mlp_bias", &c->mlp_bias, where);
}

/* ---- windows ---- */

/* What layer_types says of a layer; false in *known when it says nothing. */
static status read_layer_type(const json_t *types, int32_t layer, bool *slides,
                              const char *where) {
    const json_t *v = json_array_get(types, (size_t)layer);
    const char *name = json_string_value(v);
    if (!name)
        return status_fail(STATUS_MODEL, "%s: layer_types[%d] must be a string, it is %s",
                           where, layer, json_type_name(v));
    *slides = !strcmp(name, "sliding_attention");
    if (*slides || !strcmp(name, "full_attention")) return STATUS_OK;
    return status_fail(STATUS_MODEL,
                       "%s: layer_types[%d] \"%.64s\" is not supported; supported are "
                       "full_attention and sliding_attention",
                       where, layer, name);
}

static status read_layer_types(model_config *c, const json_t *types, int64_t window,
                               const char *where) {
    if (!json_is_array(types) || json_array_size(types) != (size_t)c->layers)
        return status_fail(STATUS_MODEL, "%s: layer_types must be a list of %d names", where,
                           c->layers);
    for (int32_t l = 0; l < c->layers; l++) {
        bool slides;
        TRY(read_layer_type(types, l, &slides, where));
        if (slides && !window)
            return status_fail(STATUS_MODEL,
                               "%s: layer_types[%d] slides but there is no window "
                               "(use_sliding_window and sliding_window)",
                               where, l);
        c->windows[l] = slides ? (int32_t)window : 0;
    }
    return STATUS_OK;
}

static status read_windows(model_config *c, const json_t *j, const char *where) {
    const family *f = c->family;
    c->windows = mem_alloc_array((size_t)c->layers, sizeof *c->windows, "attention windows");
    if (!c->windows) return STATUS_MEMORY;
    if (f->window == WINDOW_NEVER) return STATUS_OK;
    int64_t window = f->window_absent, full = f->full_layers_absent;
    bool use = f->window == WINDOW_EVERY_LAYER;
    if (f->window == WINDOW_BY_LAYER)
        TRY(json_get_bool(j, "use_sliding_window", &use, where, STATUS_MODEL));
    if (json_is_null(json_object_get(j, "sliding_window"))) use = false;
    TRY(json_get_int(j, "sliding_window", &window, where, STATUS_MODEL));
    if (use) TRY(check_int(window, 1, INT32_MAX, "sliding_window", where));
    if (!use) window = 0;
    if (f->window == WINDOW_EVERY_LAYER) {
        for (int32_t l = 0; l < c->layers; l++) c->windows[l] = (int32_t)window;
        return STATUS_OK;
    }
    const json_t *types = json_object_get(j, "layer_types");
    if (types && !json_is_null(types)) return read_layer_types(c, types, window, where);
    TRY(json_get_int(j, "max_window_layers", &full, where, STATUS_MODEL));
    for (int32_t l = 0; l < c->layers; l++) c->windows[l] = l >= full ? (int32_t)window : 0;
    return STATUS_OK;
}

/* ---- what the weights are stored in ---- */

static status read_stored(model_config *c, const json_t *j, const char *where) {
    static const struct {
        const char *name;
        dtype type;
    } types[] = {{"float32", DTYPE_F32}, {"bfloat16", DTYPE_BF16}, {"float16", DTYPE_F16}};
    const char *name = "float32";
    TRY(json_get_text(j, "torch_dtype", &name, where, STATUS_MODEL));
    TRY(json_get_text(j, "dtype", &name, where, STATUS_MODEL));
    if (!strncmp(name, "torch.", 6)) name += 6;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].name, name)) {
            c->stored = types[i].type;
            return STATUS_OK;
        }
    return status_fail(
        STATUS_MODEL,
        "%s: dtype \"%.64s\" is not supported; supported are float32, bfloat16 and "
        "float16",
        where, name);
}

/* Only bitsandbytes' 4-bit form; everything else is named in the refusal. */
static status read_quantization(model_config *c, const json_t *j, const char *where) {
    const json_t *q = json_object_get(j, "quantization_config");
    if (!q || json_is_null(q)) return STATUS_OK;
    if (!json_is_object(q))
        return status_fail(STATUS_MODEL, "%s: quantization_config must be an object, it is %s",
                           where, json_type_name(q));
    const char *method = "bitsandbytes", *type = "fp4"; /* bitsandbytes' own defaults */
    bool four = false;
    TRY(json_get_text(q, "quant_method", &method, where, STATUS_MODEL));
    TRY(json_get_text(q, "bnb_4bit_quant_type", &type, where, STATUS_MODEL));
    TRY(json_get_bool(q, "load_in_4bit", &four, where, STATUS_MODEL));
    TRY(json_get_bool(q, "bnb_4bit_use_double_quant", &c->quant_nested, where, STATUS_MODEL));
    if (strcmp(method, "bitsandbytes") || !four)
        return status_fail(STATUS_MODEL,
                           "%s: weights quantized by %.64s%s are not supported, only "
                           "bitsandbytes in 4 bits; use the 16-bit model",
                           where, method, strcmp(method, "bitsandbytes") ? "" : " in 8 bits");
    if (strcmp(type, "nf4") && strcmp(type, "fp4"))
        return status_fail(STATUS_MODEL, "%s: bnb_4bit_quant_type \"%.64s\" is not nf4 or fp4",
                           where, type);
    c->quantized = true;
    c->quant_type = strcmp(type, "nf4") ? DTYPE_FP4 : DTYPE_NF4;
    return STATUS_OK;
}

/* ---- tokens that begin and end a text ---- */

static status read_eos_item(model_config *c, const json_t *v, const char *where) {
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= c->vocab)
        return status_fail(STATUS_MODEL,
                           "%s: eos_token_id must hold ids below vocab_size %lld", where,
                           (long long)c->vocab);
    if (c->eos_count == MODEL_EOS_MAX)
        return status_fail(STATUS_MODEL, "%s: eos_token_id has more than %d ids", where,
                           MODEL_EOS_MAX);
    c->eos[c->eos_count++] = (int32_t)json_integer_value(v);
    return STATUS_OK;
}

static status read_eos(model_config *c, const json_t *j, const char *where) {
    const json_t *v = json_object_get(j, "eos_token_id");
    if (!v || json_is_null(v)) return STATUS_OK;
    c->eos_count = 0;
    if (!json_is_array(v)) return read_eos_item(c, v, where);
    size_t i;
    json_t *item;
    json_array_foreach((json_t *)v, i, item) TRY(read_eos_item(c, item, where));
    return STATUS_OK;
}

static status read_bos(model_config *c, const json_t *j, const char *where) {
    int64_t bos = -1;
    const json_t *v = json_object_get(j, "bos_token_id");
    if (json_is_array(v)) return STATUS_OK; /* seen in multi-modal files: no single one */
    TRY(json_get_int(j, "bos_token_id", &bos, where, STATUS_MODEL));
    TRY(check_int(bos, -1, c->vocab - 1, "bos_token_id", where));
    c->bos = (int32_t)bos;
    return STATUS_OK;
}

/* ---- the whole ---- */

static status read_rope(model_config *c, const json_t *j, const char *where) {
    TRY(rope_read(j, c->family->theta_absent, c->positions, where, &c->rope));
    c->inv_freq = mem_alloc_array((size_t)c->head_dim / 2, sizeof *c->inv_freq, "rope table");
    if (!c->inv_freq) return STATUS_MEMORY;
    status s = rope_frequencies(&c->rope, c->head_dim, c->inv_freq, &c->rope_factor);
    return s == STATUS_OK ? s : status_prefix(s, "%s", where);
}

static status read_all(model_config *c, const json_t *j, const json_t *generation,
                       const char *where) {
    const char *type = NULL;
    if (!json_is_object(j))
        return status_fail(STATUS_MODEL, "%s: must be an object, it is %s", where,
                           json_type_name(j));
    TRY(json_get_text(j, "model_type", &type, where, STATUS_MODEL));
    if (!type) return status_fail(STATUS_MODEL, "%s: \"model_type\" is missing", where);
    status s = family_find(type, &c->family);
    if (s != STATUS_OK) return status_prefix(s, "%s", where);
    TRY(read_sizes(c, j, where));
    TRY(read_heads(c, j, where));
    TRY(read_activation(c, j, where));
    TRY(read_numbers(c, j, where));
    TRY(read_windows(c, j, where));
    TRY(read_stored(c, j, where));
    TRY(read_quantization(c, j, where));
    TRY(read_bos(c, j, where));
    TRY(read_eos(c, j, where));
    if (generation) TRY(read_eos(c, generation, "generation_config.json"));
    return read_rope(c, j, where);
}

status model_config_read(model_config *out, json_t *config, const json_t *generation,
                         const char *where) {
    model_config c = {.bos = -1, .json = json_incref(config)};
    status s = read_all(&c, config, generation, where);
    if (s != STATUS_OK) {
        model_config_close(&c);
        memset(out, 0, sizeof *out);
        return s;
    }
    *out = c;
    return STATUS_OK;
}

static status read_files(const char *config, const char *generation, json_t **j, json_t **g) {
    TRY(json_read_file(config, CONFIG_FILE_MAX, STATUS_MODEL, j));
    if (!file_exists(generation)) return STATUS_OK;
    TRY(json_read_file(generation, CONFIG_FILE_MAX, STATUS_MODEL, g));
    if (json_is_object(*g)) return STATUS_OK;
    return status_fail(STATUS_MODEL, "%s: must be an object, it is %s", generation,
                       json_type_name(*g));
}

static status open_synthetic(model_config *out, const char *folder) {
    json_t *j;
    memset(out, 0, sizeof *out);
    TRY(synthetic_config(folder, &j));
    status s = model_config_read(out, j, NULL, folder);
    json_decref(j);
    return s;
}

status model_config_open(model_config *out, const char *folder) {
    json_t *j = NULL, *g = NULL;
    if (synthetic_is(folder)) return open_synthetic(out, folder);
    char *config = file_join(folder, "config.json");
    char *generation = file_join(folder, "generation_config.json");
    status s = config && generation ? STATUS_OK : STATUS_MEMORY;
    memset(out, 0, sizeof *out);
    if (s == STATUS_OK) s = read_files(config, generation, &j, &g);
    if (s == STATUS_OK) s = model_config_read(out, j, g, config);
    json_decref(j);
    json_decref(g);
    mem_free(config);
    mem_free(generation);
    return s;
}

void model_config_close(model_config *c) {
    mem_free(c->windows);
    mem_free(c->inv_freq);
    json_decref(c->json);
    memset(c, 0, sizeof *c);
}

status model_config_check_length(const model_config *c, int64_t tokens) {
    if (tokens <= c->rope.longest) return STATUS_OK;
    return status_fail(
        STATUS_USAGE,
        "sequence_len %lld is beyond the model's %lld positions, where its dynamic "
        "rope scaling would depend on each sequence's length; use at most %lld",
        (long long)tokens, (long long)c->rope.longest, (long long)c->rope.longest);
}

/* ---- modules ---- */

static const char *const paths[MODULE_COUNT] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
};

const char *module_path(linear_module m) {
    return paths[m];
}
const char *module_name(linear_module m) {
    return strchr(paths[m], '.') + 1;
}

int64_t module_in(const model_config *c, linear_module m) {
    if (m == MODULE_O) return (int64_t)c->heads * c->head_dim;
    return m == MODULE_DOWN ? c->feed_forward : c->hidden;
}

int64_t module_out(const model_config *c, linear_module m) {
    switch (m) {
    case MODULE_Q:
        return (int64_t)c->heads * c->head_dim;
    case MODULE_K:
    case MODULE_V:
        return (int64_t)c->kv_heads * c->head_dim;
    case MODULE_GATE:
    case MODULE_UP:
        return c->feed_forward;
    default:
        return c->hidden;
    }
}

bool module_has_bias(const model_config *c, linear_module m) {
    if (m <= MODULE_V) return c->qkv_bias;
    return m == MODULE_O ? c->o_bias : c->mlp_bias;
}

int64_t model_config_linear_weights(const model_config *c) {
    int64_t n = 0;
    for (int m = 0; m < MODULE_COUNT; m++) n += module_in(c, m) * module_out(c, m);
    return n * c->layers; /* at most 7 * 2^40 * 2^9 */
}

int64_t model_config_parameters(const model_config *c, bool tied) {
    int64_t layer = 2 * c->hidden + (c->family->qk_norm ? 2 * c->head_dim : 0);
    for (int m = 0; m < MODULE_COUNT; m++)
        if (module_has_bias(c, m)) layer += module_out(c, m);
    return model_config_linear_weights(c) + layer * c->layers + c->hidden +
           c->vocab * c->hidden * (tied ? 1 : 2);
}
