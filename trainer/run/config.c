/* config.c: freeing a configuration, and the few numbers that follow from it and from the
 * run's length. Nothing here parses or checks: see trainer/verbs/schema.c. */
#include "trainer/run/config.h"

#include "common/alloc.h"

#include <string.h>

void config_list_free(config_list *list) {
    for (size_t i = 0; i < list->count; i++) mem_free(list->items[i]);
    mem_free(list->items);
    *list = (config_list){0};
}

static void free_map(config_map *map) {
    for (size_t i = 0; i < map->count; i++) {
        mem_free(map->items[i].key);
        mem_free(map->items[i].value);
    }
    mem_free(map->items);
    *map = (config_map){0};
}

static void free_groups(config_groups *groups) {
    for (size_t i = 0; i < groups->count; i++) {
        mem_free(groups->items[i].key);
        config_list_free(&groups->items[i].values);
    }
    mem_free(groups->items);
    *groups = (config_groups){0};
}

static void free_texts(char **const *texts, size_t count) {
    for (size_t i = 0; i < count; i++) mem_free(*texts[i]);
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

void dataset_config_free(dataset_config *d) {
    dataset_prompt *p = &d->prompt;
    char **const texts[] = {
        &d->path,
        &d->type,
        &d->name,
        &d->split,
        &d->revision,
        &d->ds_type,
        &d->field,
        &d->field_messages,
        &d->message_field_role,
        &d->field_thinking,
        &d->message_field_content,
        &d->message_field_training,
        &d->chat_template,
        &d->chat_template_jinja,
        &d->message_field_training_detail,
        &d->field_tools,
        &d->template_thinking_key,
        &d->text_column,
        &p->system_prompt,
        &p->system_format,
        &p->field_system,
        &p->field_instruction,
        &p->field_input,
        &p->field_output,
        &p->format,
        &p->no_input_format,
    };
    free_texts(texts, COUNT(texts));
    config_list_free(&d->data_files);
    config_list_free(&d->roles_to_train);
    free_map(&d->message_property_mappings);
    free_groups(&d->roles);
    *d = (dataset_config){0};
}

static void free_datasets(dataset_list *list) {
    for (size_t i = 0; i < list->count; i++) dataset_config_free(&list->items[i]);
    mem_free(list->items);
    *list = (dataset_list){0};
}

void config_free(config *c) {
    special_tokens_config *s = &c->special_tokens;
    char **const texts[] = {
        &c->base_model,      &c->revision_of_model,
        &c->quantized_cache, &c->lora_model_dir,
        &c->chat_template,   &c->dataset_prepared_path,
        &c->output_dir,      &c->resume_from_checkpoint,
        &c->resolved,        &s->bos_token,
        &s->eos_token,       &s->pad_token,
        &s->unk_token,       &c->chat_template_jinja,
    };
    free_texts(texts, COUNT(texts));
    config_list_free(&s->additional_special_tokens);
    config_list_free(&c->lora_target_modules);
    config_list_free(&c->lora_modules_to_save);
    config_list_free(&c->eot_tokens);
    free_map(&c->chat_template_kwargs);
    config_list_free(&c->sample_prompts);
    config_list_free(&c->ignored);
    free_datasets(&c->datasets);
    free_datasets(&c->test_datasets);
    free_datasets(&c->pretraining_dataset);
    memset(c, 0, sizeof *c);
}

config_precision config_compute_precision(const config *c) {
    if (c->bf16 == SWITCH_ON) return PRECISION_BF16;
    if (c->fp16 == SWITCH_ON) return PRECISION_FP16;
    return c->bf16 == SWITCH_AUTO ? PRECISION_AUTO : PRECISION_FP32;
}

bool config_optimizer_8bit(const config *c) {
    return c->optimizer == OPTIMIZER_PAGED_ADAMW_8BIT ||
           c->optimizer == OPTIMIZER_ADAMW_BNB_8BIT || c->optimizer == OPTIMIZER_ADAMW_8BIT;
}

int64_t config_warmup_steps(const config *c, int64_t total_steps) {
    if (c->warmup_steps != CONFIG_NOT_SET) return c->warmup_steps;
    if (!isnan(c->warmup_ratio)) return (int64_t)(c->warmup_ratio * (double)total_steps);
    int64_t steps = (int64_t)(0.03 * (double)total_steps);
    return steps < 100 ? steps : 100;
}

/* One rule for both: an explicit interval, else so many times per epoch, else once per epoch.
 */
static int64_t interval(config_strategy strategy, double steps, double per_epoch,
                        int64_t total_steps, int64_t steps_per_epoch) {
    if (strategy == STRATEGY_NO) return 0;
    if (strategy == STRATEGY_EPOCH) return steps_per_epoch;
    if (steps > 0) return (int64_t)ceil(steps < 1 ? steps * (double)total_steps : steps);
    if (per_epoch > 0) return (int64_t)ceil((double)steps_per_epoch / per_epoch);
    return steps == 0 || per_epoch == 0 ? 0 : steps_per_epoch; /* neither for NAN */
}

int64_t config_save_interval(const config *c, int64_t total_steps, int64_t steps_per_epoch) {
    return interval(c->save_strategy, c->save_steps, c->saves_per_epoch, total_steps,
                    steps_per_epoch);
}

int64_t config_eval_interval(const config *c, int64_t total_steps, int64_t steps_per_epoch) {
    return interval(c->eval_strategy, c->eval_steps, c->evals_per_epoch, total_steps,
                    steps_per_epoch);
}

static json_t *variable(const char *text) {
    json_error_t e;
    json_t *v = json_loads(text, JSON_DECODE_ANY, &e);
    bool word = json_is_boolean(v) || json_is_null(v) || json_is_number(v);
    if (word) return v;
    json_decref(v);
    if (!strcmp(text, "True") || !strcmp(text, "False")) return json_boolean(*text == 'T');
    return json_string(text);
}

json_t *config_template_variables(const config *c) {
    json_t *o = json_object();
    for (size_t i = 0; i < c->chat_template_kwargs.count; i++)
        json_put(&o, c->chat_template_kwargs.items[i].key,
                 variable(c->chat_template_kwargs.items[i].value));
    return o;
}
