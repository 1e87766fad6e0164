/* checks.c: rules between keys, one function per subject. Where the dialect has a rule, it is
 * that tool's; the message says the way out. */
#include "trainer/verbs/checks.h"

#include "common/alloc.h"
#include "data/row_maker.h"
#include "data/split.h"
#include "data/template.h"
#include "trainer/verbs/schema.h"
#include "trainer/verbs/values.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct context {
    config *c;
    const tree_node
        *table; /* the map whose keys are being checked: the file's, or a dataset's */
    const char *name;
    char prefix[48]; /* of keys in messages: "" or "datasets[0]." */
} context;

static bool given(const context *x, const char *key) {
    return !tree_is_unset(tree_get(x->table, key));
}

/* "FILE:LINE:COLUMN: KEY: why", with the key's position where it has one. */
static status __attribute__((format(printf, 3, 4)))
refuse(const context *x, const char *key, const char *format, ...) {
    char where[TREE_WHERE], why[1024];
    const tree_node *at = tree_get(x->table, key);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    if (at)
        tree_where(at, x->name, where);
    else
        snprintf(where, sizeof where, "%.400s", x->name);
    return status_fail(STATUS_USAGE, "%s: %s%s: %s", where, x->prefix, key, why);
}

static status check_adapter(context *x) {
    config *c = x->c;
    if (c->load_in_8bit)
        return refuse(x, "load_in_8bit",
                      "8-bit loading does not exist here; to go on in 4 bits add: "
                      "load_in_8bit=false load_in_4bit=true adapter=qlora");
    if (c->adapter == ADAPTER_FULL && c->load_in_4bit)
        return refuse(
            x, "load_in_4bit",
            "a 4-bit base is frozen, and no adapter is trained: set adapter: qlora, or "
            "load_in_4bit: false to train all parameters");
    if (c->adapter == ADAPTER_QLORA && given(x, "load_in_4bit") && !c->load_in_4bit)
        return refuse(
            x, "load_in_4bit",
            "false contradicts adapter: qlora: set it to true, or adapter: lora for a "
            "16-bit base");
    if (c->adapter == ADAPTER_LORA && c->load_in_4bit) c->adapter = ADAPTER_QLORA;
    c->load_in_4bit = c->adapter == ADAPTER_QLORA;
    if (c->lora_modules_to_save.count)
        return refuse(
            x, "lora_modules_to_save",
            "training whole modules beside adapters does not exist here: remove the key");
    return STATUS_OK;
}

/* `all-linear` is a word for lora_target_linear; patterns are not names. */
static status check_targets(context *x) {
    config *c = x->c;
    config_list *names = &c->lora_target_modules;
    if (names->count == 1 && !strcmp(names->items[0], "all-linear")) {
        config_list_free(names);
        c->lora_target_linear = true;
    }
    for (size_t i = 0; i < names->count; i++)
        if (strpbrk(names->items[i], "*+?()[]{}|^$\\, "))
            return refuse(x, "lora_target_modules",
                          "\"%.60s\" is a pattern: list the modules' names, [q_proj, v_proj]",
                          names->items[i]);
    if (c->lora_target_linear || names->count) return STATUS_OK;
    return refuse(x, "lora_target_modules",
                  "no module gets an adapter: set lora_target_linear: true or list modules");
}

static status check_lora(context *x) {
    config *c = x->c;
    if (c->adapter == ADAPTER_FULL) return STATUS_OK;
    if (c->lora_r == CONFIG_NOT_SET)
        return refuse(x, "lora_r", "the adapters' rank is missing (8 to 64 is usual)");
    if (c->lora_alpha == CONFIG_NOT_SET)
        return refuse(x, "lora_alpha", "is missing (once or twice lora_r is usual)");
    return check_targets(x);
}

/* batch_size = micro_batch_size x gradient_accumulation_steps, as in the dialect. */
static status check_batch(context *x) {
    config *c = x->c;
    int64_t whole = c->batch_size;
    if (whole == CONFIG_NOT_SET) return STATUS_OK;
    bool micro = given(x, "micro_batch_size"), steps = given(x, "gradient_accumulation_steps");
    if (steps && micro)
        return refuse(x, "batch_size",
                      "set micro_batch_size and gradient_accumulation_steps, or batch_size in "
                      "place of one of the two");
    int64_t part = steps ? c->gradient_accumulation_steps : c->micro_batch_size;
    if (whole % part)
        return refuse(x, "batch_size", "%lld is not a multiple of %s, %lld", (long long)whole,
                      steps ? "gradient_accumulation_steps" : "micro_batch_size",
                      (long long)part);
    if (steps)
        c->micro_batch_size = whole / part;
    else
        c->gradient_accumulation_steps = whole / part;
    c->batch_size = CONFIG_NOT_SET;
    return STATUS_OK;
}

static status check_warmup(context *x) {
    config *c = x->c;
    if (c->warmup_steps == CONFIG_NOT_SET || isnan(c->warmup_ratio)) return STATUS_OK;
    if (c->warmup_steps > 0 && c->warmup_ratio > 0)
        return refuse(x, "warmup_ratio",
                      "warmup_steps is set too: warm-up is one or the other, remove one");
    if (c->warmup_ratio > 0)
        c->warmup_steps = CONFIG_NOT_SET;
    else
        c->warmup_ratio = NAN;
    return STATUS_OK;
}

/* How often to save, or to evaluate: three keys, of which one may decide. */
static status check_interval(context *x, const char *what, double steps, double per_epoch,
                             config_strategy strategy) {
    char name_steps[32], name_epoch[32], name_strategy[32];
    snprintf(name_steps, sizeof name_steps, "%s_steps", what);
    snprintf(name_epoch, sizeof name_epoch, "%ss_per_epoch", what);
    snprintf(name_strategy, sizeof name_strategy, "%s_strategy", what);
    bool by_steps = steps > 0, by_epoch = per_epoch > 0; /* false for NAN */
    if (by_steps && by_epoch)
        return refuse(x, name_epoch, "%s is set too: remove one of the two", name_steps);
    if (strategy == STRATEGY_STEPS && !by_steps && !by_epoch)
        return refuse(x, name_strategy, "steps, but %s is not set", name_steps);
    if ((strategy == STRATEGY_NO || strategy == STRATEGY_EPOCH) && (by_steps || by_epoch))
        return refuse(x, name_strategy, "contradicts %s: remove one of the two",
                      by_steps ? name_steps : name_epoch);
    return STATUS_OK;
}

static status check_evaluation(context *x) {
    config *c = x->c;
    if (c->val_set_size > 0 && c->test_datasets.count)
        return refuse(x, "val_set_size",
                      "test_datasets is set too: set this to 0 or remove one");
    bool held_out = c->val_set_size > 0 || c->test_datasets.count;
    if (c->early_stopping_patience != CONFIG_NOT_SET &&
        (!held_out || c->eval_strategy == STRATEGY_NO || c->evals_per_epoch == 0))
        return refuse(
            x, "early_stopping_patience",
            "nothing is evaluated: set val_set_size or test_datasets, or remove the key");
    TRY(check_interval(x, "eval", c->eval_steps, c->evals_per_epoch, c->eval_strategy));
    TRY(check_interval(x, "save", c->save_steps, c->saves_per_epoch, c->save_strategy));
    if (c->eval_sample_packing == SWITCH_AUTO)
        c->eval_sample_packing = c->sample_packing ? SWITCH_ON : SWITCH_OFF;
    return STATUS_OK;
}

/* A stream is read once, front to back, and nobody knows its length. */
static status check_streaming(context *x) {
    const config *c = x->c;
    if (!c->streaming) return STATUS_OK;
    if (c->max_steps == CONFIG_NOT_SET)
        return refuse(x, "streaming", "wants max_steps: nobody counts the rows before");
    if (c->datasets.count > 1)
        return refuse(x, "streaming",
                      "reads one dataset, there are %zu: join their files "
                      "with data_files or a pattern",
                      c->datasets.count);
    if (c->val_set_size > 0)
        return refuse(x, "val_set_size",
                      "a stream has no part to hold out: set this to 0 and "
                      "name test_datasets");
    if (c->dataset_exact_deduplication)
        return refuse(x, "dataset_exact_deduplication", "a stream does not remember its rows");
    return STATUS_OK;
}

/* All keys that ask for a compute format must ask for the same one. */
static status check_precision(context *x) {
    config *c = x->c;
    config_precision asked = c->bnb_config_kwargs.bnb_4bit_compute_dtype;
    if (c->bf16 == SWITCH_ON && c->fp16 == SWITCH_ON)
        return refuse(x, "fp16", "bf16 is true too: a run computes in one of the two");
    bool bf16 = c->bf16 == SWITCH_ON || c->bfloat16, fp16 = c->fp16 == SWITCH_ON || c->float16;
    bool fp32 = c->float32 || (c->bf16 == SWITCH_OFF && !bf16 && !fp16);
    if (bf16 + fp16 + fp32 > 1)
        return refuse(x,
                      c->float32   ? "float32"
                      : c->float16 ? "float16"
                                   : "bfloat16",
                      "contradicts bf16 and fp16: say the format once");
    config_precision said = bf16   ? PRECISION_BF16
                            : fp16 ? PRECISION_FP16
                            : fp32 ? PRECISION_FP32
                                   : PRECISION_AUTO;
    if (asked != PRECISION_AUTO && said != PRECISION_AUTO && asked != said)
        return refuse(
            x, "bnb_config_kwargs",
            "bnb_4bit_compute_dtype contradicts bf16 and fp16: a run computes in one "
            "format, remove it");
    if (asked != PRECISION_AUTO) said = asked;
    c->bf16 = said == PRECISION_AUTO   ? SWITCH_AUTO
              : said == PRECISION_BF16 ? SWITCH_ON
                                       : SWITCH_OFF;
    c->fp16 = said == PRECISION_FP16 ? SWITCH_ON : SWITCH_OFF;
    c->bnb_config_kwargs.bnb_4bit_compute_dtype = PRECISION_AUTO;
    c->bfloat16 = c->float16 = c->float32 = false;
    return STATUS_OK;
}

static void fold_memory(config *c) {
    memory_config *m = &c->memory;
    bool offload = c->gradient_checkpointing == CHECKPOINTING_OFFLOAD ||
                   c->gradient_checkpointing == CHECKPOINTING_OFFLOAD_DISK ||
                   c->activation_offloading != OFFLOADING_OFF;
    if (m->activations != CONFIG_ACTIVATIONS_AUTO) return;
    if (offload)
        m->activations = CONFIG_ACTIVATIONS_OFFLOAD;
    else if (c->gradient_checkpointing == CHECKPOINTING_ON)
        m->activations = CONFIG_ACTIVATIONS_RECOMPUTE;
}

/* An entry's skip: 100  ->  split: train[100:] */
static status fold_skip(context *x, dataset_config *d) {
    int64_t skip = d->skip;
    d->skip = CONFIG_NOT_SET;
    if (skip == CONFIG_NOT_SET || !skip) return STATUS_OK;
    if (d->split && strchr(d->split, '['))
        return refuse(x, "pretraining_dataset", "skip and a slice: name one of them");
    char *split = mem_printf("%s[%lld:]", d->split ? d->split : "train", (long long)skip);
    if (!split) return STATUS_MEMORY;
    mem_free(d->split);
    d->split = split;
    return STATUS_OK;
}

/* type: pretrain, text_column: body  ->  type: completion, field: body */
static status fold_text(context *x, dataset_config *d) {
    bool text = !d->type_is_mapping && (!d->type || !strcmp(d->type, "pretrain"));
    if (!text) return STATUS_OK;
    mem_free(d->type);
    if (!(d->type = mem_strdup("completion"))) return STATUS_MEMORY;
    if (!d->text_column) return STATUS_OK;
    mem_free(d->field);
    d->field = d->text_column;
    d->text_column = NULL;
    return STATUS_OK;
}

/* pretraining_dataset  ->  datasets and streaming */
static status fold_pretraining(context *x) {
    config *c = x->c;
    if (!c->datasets.count && !c->pretraining_dataset.count)
        return status_fail(STATUS_USAGE, "%s: datasets is missing: %s", x->name,
                           schema_find(&schema_config, "datasets")->doc);
    if (!c->pretraining_dataset.count) return STATUS_OK;
    if (c->datasets.count)
        return refuse(x, "pretraining_dataset", "datasets is set too: remove one");
    for (size_t i = 0; i < c->pretraining_dataset.count; i++) {
        TRY(fold_skip(x, &c->pretraining_dataset.items[i]));
        TRY(fold_text(x, &c->pretraining_dataset.items[i]));
    }
    mem_free(c->datasets.items);
    c->datasets = c->pretraining_dataset;
    c->pretraining_dataset = (dataset_list){0};
    c->streaming = true;
    return STATUS_OK;
}

/* message_field_role: from  ->  message_property_mappings: {role: from} */
static status fold_mapping(context *x, config_map *map, const char *property, const char *key,
                           char **value) {
    if (!*value) return STATUS_OK;
    for (size_t i = 0; i < map->count; i++) {
        if (strcmp(map->items[i].key, property)) continue;
        if (strcmp(map->items[i].value, *value))
            return refuse(x, key,
                          "message_property_mappings.%s says otherwise: remove this key",
                          property);
        mem_free(*value);
        *value = NULL;
        return STATUS_OK;
    }
    config_pair *items =
        mem_resize(map->items, (map->count + 1) * sizeof *items, "configuration");
    if (!items) return STATUS_MEMORY;
    map->items = items;
    char *copy = mem_strdup(property);
    if (!copy) return STATUS_MEMORY;
    items[map->count++] = (config_pair){copy, *value};
    *value = NULL;
    return STATUS_OK;
}

/* Refuses with the data layer's reason. */
static status refuse_as_data(context *x, const char *key, status s) {
    if (s == STATUS_OK) return STATUS_OK;
    char why[512];
    snprintf(why, sizeof why, "%s", status_message());
    return refuse(x, key, "%s", why);
}

/* What the data layer would refuse too, but only after the model was looked at. */
static status check_type(context *x, const dataset_config *d) {
    source_kind kind;
    record_format format;
    TRY(refuse_as_data(x, "type", source_kind_of(d->type, &kind)));
    if (d->type_is_mapping && !d->prompt.format)
        return refuse(x, "type",
                      "a prompt of one's own needs format, with {instruction} in it");
    return refuse_as_data(x, "ds_type", source_format(d->ds_type, &format));
}

static status check_split(context *x, const dataset_config *d) {
    row_split split;
    return refuse_as_data(x, "split", split_parse(&split, d->split));
}

static status check_template(context *x, const char *name) {
    static const char fallback[] = "tokenizer_default_fallback_";
    if (!name || !strcmp(name, "tokenizer_default")) return STATUS_OK;
    const char *word =
        strncmp(name, fallback, sizeof fallback - 1) ? name : name + sizeof fallback - 1;
    size_t length = strlen(word);
    size_t bytes = strlen(name);
    bool file = strchr(name, '/') || (bytes > 6 && !strcmp(name + bytes - 6, ".jinja"));
    if (file || !strcmp(name, "jinja")) return STATUS_OK; /* the template's opening looks */
    for (const char *p = chat_template_names(); *p; p += strspn(p, ", ")) {
        size_t n = strcspn(p, ", ");
        if (n == length && !strncmp(p, word, n)) return STATUS_OK;
        p += n;
    }
    return refuse(x, "chat_template",
                  "\"%.60s\" does not exist here; there are tokenizer_default, a "
                  "file with a template, jinja, and %s",
                  name, chat_template_names());
}

static status check_shards(context *x, dataset_config *d) {
    if (d->shards == CONFIG_NOT_SET && d->shards_idx != CONFIG_NOT_SET)
        return refuse(x, "shards_idx", "shards is not set");
    if (d->shards != CONFIG_NOT_SET && d->shards_idx == CONFIG_NOT_SET) d->shards_idx = 0;
    if (d->shards != CONFIG_NOT_SET && d->shards_idx >= d->shards)
        return refuse(x, "shards_idx", "must be below shards, %lld", (long long)d->shards);
    return STATUS_OK;
}

static status check_dataset(context *x, dataset_config *d) {
    config_map *map = &d->message_property_mappings;
    TRY(fold_mapping(x, map, "role", "message_field_role", &d->message_field_role));
    TRY(fold_mapping(x, map, "content", "message_field_content", &d->message_field_content));
    TRY(fold_mapping(x, map, "reasoning_content", "field_thinking", &d->field_thinking));
    if (d->train_on_eos == TRAIN_ON_AUTO) d->train_on_eos = TRAIN_ON_TURN;
    if (d->train_on_eot == TRAIN_ON_AUTO) d->train_on_eot = d->train_on_eos;
    TRY(check_type(x, d));
    TRY(check_split(x, d));
    TRY(check_template(x, d->chat_template));
    if (d->text_column)
        return refuse(x, "text_column",
                      "belongs to pretraining_dataset; with type: completion it is `field`");
    if (d->skip != CONFIG_NOT_SET)
        return refuse(x, "skip",
                      "belongs to pretraining_dataset; here it is split: train[%lld:]",
                      (long long)d->skip);
    return check_shards(x, d);
}

static status check_datasets(const context *x, const char *key, const dataset_list *list) {
    const tree_node *node = tree_get(x->table, key);
    const tree_node *entry = node ? node->first : NULL;
    for (size_t i = 0; i < list->count; i++, entry = entry->next) {
        context inner = {.c = x->c, .table = entry, .name = x->name};
        snprintf(inner.prefix, sizeof inner.prefix, "%s[%zu].", key, i);
        TRY(check_dataset(&inner, &list->items[i]));
    }
    return STATUS_OK;
}

status config_check(config *c, const tree_node *root, const char *name) {
    context x = {.c = c, .table = root, .name = name};
    TRY(fold_pretraining(&x));
    TRY(check_adapter(&x));
    TRY(check_lora(&x));
    TRY(check_batch(&x));
    TRY(check_warmup(&x));
    TRY(check_evaluation(&x));
    TRY(check_streaming(&x));
    TRY(check_precision(&x));
    TRY(check_template(&x, c->chat_template));
    bool pretraining = given(&x, "pretraining_dataset");
    TRY(check_datasets(&x, pretraining ? "pretraining_dataset" : "datasets", &c->datasets));
    TRY(check_datasets(&x, "test_datasets", &c->test_datasets));
    fold_memory(c);
    return STATUS_OK;
}
