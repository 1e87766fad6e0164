/* peft.c: see peft.h. Writing is in peft_write.c. */
#include "checkpoints/peft.h"
#include "common/alloc.h"
#include "common/half.h"
#include "common/log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG = 16 << 20 }; /* bytes of adapter_config.json */

static const char prefix[] = "base_model.model.";

/* ---- adapter_config.json ---- */

/* Not plain LoRA when set: refused by name. */
static const char *const refused[] = {
    "use_dora",          "use_qalora",        "use_bdlora",
    "lora_bias",         "modules_to_save",   "trainable_token_indices",
    "layer_replication", "target_parameters", "alora_invocation_tokens",
    "fan_in_fan_out",    "arrow_config",      "kasa_config",
    "monteclora_config", "megatron_config",
};
/* Known, and without influence on what the two matrices mean. */
static const char *const harmless[] = {
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "eva_config",
    "ensure_weight_tying",
    "exclude_modules",
    "inference_mode",
    "lora_ga_config",
    "layers_pattern",
    "loftq_config",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "init_lora_weights",
    "peft_type",
    "peft_version",
    "r",
    "qalora_group_size",
    "rank_pattern",
    "alpha_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
    "velora_config",
};

static bool listed(const char *key, const char *const *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strcmp(key, list[i])) return true;
    return false;
}
#define LISTED(key, list) listed(key, list, sizeof list / sizeof *list)

static bool is_set(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return json_object_size(v) > 0;
    case JSON_ARRAY:
        return json_array_size(v) > 0;
    case JSON_STRING:
        return json_string_length(v) > 0;
    case JSON_INTEGER:
    case JSON_REAL:
        return json_number_value(v) != 0;
    default:
        return json_is_true(v);
    }
}

static status check_keys(const json_t *json, const char *path) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)json, key, value) {
        if (!is_set(value)) continue;
        if (LISTED(key, refused))
            return status_fail(STATUS_MODEL,
                               "%s: \"%s\" is set, which is not supported: only "
                               "plain LoRA adapters are",
                               path, key);
        if (!LISTED(key, harmless))
            log_warn("%s: \"%.100s\" is not known here and is ignored", path, key);
    }
    return STATUS_OK;
}

/* Initializations that leave another base behind: the matrices alone would be wrong. */
static status check_initialization(const json_t *json, const char *path) {
    static const char *const residual[] = {"pissa", "corda", "olora",
                                           "mica",  "loftq", "lora_ga"};
    const char *init = json_string_value(json_object_get(json, "init_lora_weights"));
    for (size_t i = 0; init && i < sizeof residual / sizeof *residual; i++)
        if (!strncasecmp(init, residual[i], strlen(residual[i])))
            return status_fail(STATUS_MODEL,
                               "%s: init_lora_weights \"%.40s\" changes the base "
                               "model; convert the adapter to plain LoRA in PEFT first",
                               path, init);
    return STATUS_OK;
}

static status expect_text(const json_t *json, const char *key, const char *wanted,
                          bool required, const char *path) {
    const char *text = NULL;
    TRY(json_get_text(json, key, &text, path, STATUS_MODEL));
    if (text ? !strcmp(text, wanted) : !required) return STATUS_OK;
    return status_fail(STATUS_MODEL, "%s: \"%s\" must be \"%s\", it is %s%.40s%s", path, key,
                       wanted, text ? "\"" : "", text ? text : "missing", text ? "\"" : "");
}

static status read_targets(peft_config *c, const json_t *json, const char *path) {
    const json_t *t = json_object_get(json, "target_modules");
    if (!t || json_is_null(t)) return STATUS_OK;
    if ((c->target_pattern = json_string_value(t))) return STATUS_OK;
    if (!json_is_array(t))
        return status_fail(STATUS_MODEL,
                           "%s: \"target_modules\" must be a string or a list, it is %s", path,
                           json_type_name(t));
    size_t n = json_array_size(t);
    if (!(c->targets = mem_alloc_array(n, sizeof *c->targets, "adapter targets")))
        return STATUS_MEMORY;
    for (size_t i = 0; i < n; i++)
        if (!(c->targets[c->target_count++] = json_string_value(json_array_get(t, i))))
            return status_fail(STATUS_MODEL, "%s: \"target_modules\" must hold strings", path);
    return STATUS_OK;
}

static status read_config(peft_adapter *p, const char *path) {
    peft_config *c = &p->config;
    TRY(json_read_file(path, MAX_CONFIG, STATUS_MODEL, &p->json));
    if (!json_is_object(p->json))
        return status_fail(STATUS_MODEL, "%s: must be an object", path);
    TRY(expect_text(p->json, "peft_type", "LORA", true, path));
    TRY(expect_text(p->json, "task_type", "CAUSAL_LM", false, path));
    TRY(expect_text(p->json, "bias", "none", false, path));
    TRY(check_keys(p->json, path));
    TRY(check_initialization(p->json, path));
    TRY(read_targets(c, p->json, path));
    c->r = c->alpha = 8; /* PEFT's defaults */
    TRY(json_get_text(p->json, "base_model_name_or_path", &c->base_model, path, STATUS_MODEL));
    TRY(json_get_int(p->json, "r", &c->r, path, STATUS_MODEL));
    TRY(json_get_real(p->json, "lora_alpha", &c->alpha, path, STATUS_MODEL));
    TRY(json_get_real(p->json, "lora_dropout", &c->dropout, path, STATUS_MODEL));
    TRY(json_get_bool(p->json, "use_rslora", &c->rslora, path, STATUS_MODEL));
    if (c->r < 1 || c->r > 65536)
        return status_fail(STATUS_MODEL, "%s: \"r\" is %lld", path, (long long)c->r);
    if (c->dropout < 0 || c->dropout >= 1)
        return status_fail(STATUS_MODEL, "%s: \"lora_dropout\" is %g, not in [0, 1)", path,
                           c->dropout);
    return STATUS_OK;
}

/* ---- which module has which rank and alpha ---- */

/* `ending` is the whole of `name` or follows a dot in it. */
static bool ends_in(const char *name, const char *ending) {
    size_t n = strlen(name), m = strlen(ending);
    return n >= m && !strcmp(name + n - m, ending) && (n == m || name[n - m - 1] == '.');
}

/* PEFT takes the first key that matches as a regular expression at the end of the module's
 * name; plain names, with or without ^ before them, are what is supported. NULL: none matches.
 */
static status find_pattern(const json_t *patterns, const char *module, const char *path,
                           const json_t **out) {
    const char *key;
    json_t *value;
    *out = NULL;
    json_object_foreach((json_t *)patterns, key, value) {
        bool whole = key[0] == '^';
        const char *plain = key + whole;
        for (const char *c = plain; *c; c++)
            if (!(*c >= '0' && *c <= '9') && !((*c | 32) >= 'a' && (*c | 32) <= 'z') &&
                !strchr("._-", *c))
                return status_fail(STATUS_MODEL,
                                   "%s: pattern \"%.200s\": only plain module names "
                                   "are supported in rank_pattern and alpha_pattern",
                                   path, key);
        if (!json_is_number(value))
            return status_fail(STATUS_MODEL, "%s: pattern \"%.200s\" must be a number", path,
                               key);
        if (!*out && (whole ? !strcmp(module, plain) : ends_in(module, plain))) *out = value;
    }
    return STATUS_OK;
}

static status resolve(const peft_adapter *p, peft_module *m, const char *path) {
    const json_t *rank, *alpha;
    TRY(find_pattern(json_object_get(p->json, "rank_pattern"), m->name, path, &rank));
    TRY(find_pattern(json_object_get(p->json, "alpha_pattern"), m->name, path, &alpha));
    double r = rank ? json_number_value(rank) : (double)p->config.r; /* any number, 1e19 too */
    if (r != (double)m->rank)
        return status_fail(STATUS_MODEL,
                           "%s: module \"%.200s\": the file has rank %lld, %s says %g",
                           p->weights.file.path, m->name, (long long)m->rank,
                           rank ? "rank_pattern" : "\"r\"", r);
    m->alpha = alpha ? json_number_value(alpha) : p->config.alpha;
    m->scale = m->alpha / (p->config.rslora ? sqrt(r) : r);
    bool targeted = !p->config.targets;
    for (size_t i = 0; i < p->config.target_count && !targeted; i++)
        targeted = ends_in(m->name, p->config.targets[i]);
    if (!targeted)
        return status_fail(STATUS_MODEL,
                           "%s: module \"%.200s\" is not among target_modules: PEFT "
                           "would ignore its weights",
                           p->weights.file.path, m->name);
    return STATUS_OK;
}

/* ---- the tensors ---- */

static status bad(const peft_adapter *p, const char *key, const char *what) {
    return status_fail(STATUS_MODEL, "%s: tensor \"%.300s\": %s", p->weights.file.path, key,
                       what);
}

/* Length of the module's name inside a key, and which matrix; 0 when the key is neither. */
static size_t parse_key(const char *key, bool *is_b) {
    static const char ends[2][16] = {".lora_A.weight", ".lora_B.weight"};
    size_t n = strlen(key), start = sizeof prefix - 1, end = sizeof ".lora_A.weight" - 1;
    if (n <= start + end || strncmp(key, prefix, start)) return 0;
    *is_b = !strcmp(key + n - end, ends[1]);
    return *is_b || !strcmp(key + n - end, ends[0]) ? n - start - end : 0;
}

/* Files come sorted by offset, so A and B of a module may be apart: look for it by name. */
static peft_module *module_of(peft_adapter *p, const char *name, size_t n) {
    for (size_t i = p->count; i-- > 0;)
        if (!strncmp(p->modules[i].name, name, n) && !p->modules[i].name[n])
            return &p->modules[i];
    peft_module *m = &p->modules[p->count];
    if (!(m->name = mem_strndup(name, n))) return NULL;
    p->count++;
    return m;
}

static status add_tensor(peft_adapter *p, const safetensors_entry *e) {
    bool is_b;
    size_t n = parse_key(e->name, &is_b);
    if (!n)
        return bad(p, e->name,
                   "is not base_model.model.<module>.lora_A.weight or lora_B.weight");
    if (e->type != DTYPE_F32 && e->type != DTYPE_BF16 && e->type != DTYPE_F16)
        return bad(p, e->name, "must be F32, BF16 or F16");
    if (e->rank != 2 || !e->elements) return bad(p, e->name, "must be a matrix");
    peft_module *m = module_of(p, e->name + sizeof prefix - 1, n);
    if (!m) return STATUS_MEMORY;
    *(is_b ? &m->b : &m->a) = e;
    return STATUS_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const peft_module *)a)->name, ((const peft_module *)b)->name);
}

static status read_modules(peft_adapter *p, const char *config_path) {
    if (!p->weights.count)
        return status_fail(STATUS_MODEL, "%s: holds no tensors", p->weights.file.path);
    if (!(p->modules =
              mem_alloc_array(p->weights.count, sizeof *p->modules, "adapter modules")))
        return STATUS_MEMORY;
    for (size_t i = 0; i < p->weights.count; i++) TRY(add_tensor(p, &p->weights.entries[i]));
    qsort(p->modules, p->count, sizeof *p->modules, by_name);
    for (size_t i = 0; i < p->count; i++) {
        peft_module *m = &p->modules[i];
        if (!m->a || !m->b) return bad(p, m->name, "has only one of lora_A and lora_B");
        m->rank = m->a->shape[0];
        m->in = m->a->shape[1];
        m->out = m->b->shape[0];
        if (m->b->shape[1] != m->rank)
            return bad(p, m->b->name, "has another rank than its lora_A");
        TRY(resolve(p, m, config_path));
    }
    return STATUS_OK;
}

/* ---- the interface ---- */

static status open_weights(peft_adapter *p, const char *folder, const char *path) {
    if (file_exists(path)) return safetensors_open(&p->weights, path);
    char *old = file_join(folder, "adapter_model.bin");
    if (!old) return STATUS_MEMORY;
    bool there = file_exists(old);
    mem_free(old);
    return status_fail(STATUS_MODEL, "%s: %s", path,
                       there
                           ? "is missing; adapter_model.bin is there, but only safetensors is "
                             "read: save the adapter again with safe_serialization=True"
                           : "is missing");
}

status peft_open(peft_adapter *p, const char *folder) {
    memset(p, 0, sizeof *p);
    char *config = file_join(folder, "adapter_config.json");
    char *weights = file_join(folder, "adapter_model.safetensors");
    status s = config && weights ? read_config(p, config) : STATUS_MEMORY;
    if (s == STATUS_OK) s = open_weights(p, folder, weights);
    if (s == STATUS_OK)
        s = json_get_text(p->weights.metadata, "base_xxh3_128", &p->config.base_hash, weights,
                          STATUS_MODEL);
    if (s == STATUS_OK) s = read_modules(p, config);
    mem_free(config);
    mem_free(weights);
    if (s != STATUS_OK) peft_close(p);
    return s;
}

void peft_close(peft_adapter *p) {
    for (size_t i = 0; i < p->count; i++) mem_free(p->modules[i].name);
    mem_free(p->modules);
    mem_free(p->config.targets);
    safetensors_close(&p->weights);
    json_decref(p->json);
    memset(p, 0, sizeof *p);
}

const peft_module *peft_find(const peft_adapter *p, const char *module) {
    peft_module key = {.name = (char *)module};
    return p->count ? bsearch(&key, p->modules, p->count, sizeof key, by_name) : NULL;
}

status peft_read(const peft_adapter *p, const safetensors_entry *e, float *out) {
    /* 16-bit values go to the upper half of the buffer and are widened in place from the front
     */
    void *raw = (char *)out + (e->elements * 4 - e->bytes);
    TRY(safetensors_read(&p->weights, e, 0, e->bytes, raw));
    for (int64_t i = 0; i < e->elements && e->type != DTYPE_F32; i++) {
        uint16_t h;
        memcpy(&h, (char *)raw + 2 * i, 2);
        out[i] = e->type == DTYPE_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
    }
    return STATUS_OK;
}
