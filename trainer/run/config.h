/* config.h: a run's configuration as a plain struct: what the YAML file and the command line
 * said, after defaults, checks and the small translations that the dialect asks for.
 *
 * Every field has the name of its key (Axolotl's flat dialect, plus `memory:` and a few of our
 * own), so grep finds a key from the file to the code that obeys it. How text becomes this
 * struct (types, ranges, help) is the schema table's matter, in trainer/verbs/schema.c; run/
 * only reads.
 *
 * "Not set": strings NULL, integers CONFIG_NOT_SET, reals NAN, lists count 0, switches and
 * most enums `auto`. A struct that config_load returned keeps these promises, so that nobody
 * checks them again:
 *   - base_model, datasets (at least one) and learning_rate are there; numbers are in range;
 *   - micro_batch_size and gradient_accumulation_steps are >= 1 (batch_size is folded in);
 *   - adapter is ADAPTER_QLORA exactly when load_in_4bit; lora and qlora have lora_r >= 1,
 *     lora_alpha >= 1 and targets; load_in_8bit is false and lora_modules_to_save empty;
 *   - bf16 and fp16 are not both on, and say what bnb_4bit_compute_dtype, bfloat16, float16
 * and float32 asked for; memory.activations says what gradient_checkpointing asked for;
 *   - eval_sample_packing, train_on_eos and train_on_eot are resolved, never auto;
 *   - `resolved` is the whole configuration as YAML, to be printed and stored with the run. */
#ifndef NIBBLE_TRAINER_RUN_CONFIG_H
#define NIBBLE_TRAINER_RUN_CONFIG_H

#include "common/json.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CONFIG_NOT_SET = -1 };

typedef enum config_switch { SWITCH_OFF, SWITCH_ON, SWITCH_AUTO } config_switch;

typedef enum config_adapter { ADAPTER_FULL, ADAPTER_LORA, ADAPTER_QLORA } config_adapter;

typedef enum config_quant_type { CONFIG_NF4, CONFIG_FP4 } config_quant_type;

/* What the matrix products compute in; auto = bf16 where the hardware has it, else fp32. */
typedef enum config_precision {
    PRECISION_AUTO,
    PRECISION_BF16,
    PRECISION_FP16,
    PRECISION_FP32
} config_precision;

/* The names say whose code ran elsewhere; here there are two: 32-bit and 8-bit states. */
typedef enum config_optimizer {
    OPTIMIZER_ADAMW_TORCH,
    OPTIMIZER_ADAMW_TORCH_FUSED,
    OPTIMIZER_PAGED_ADAMW_32BIT,
    OPTIMIZER_PAGED_ADAMW_8BIT,
    OPTIMIZER_ADAMW_BNB_8BIT,
    OPTIMIZER_ADAMW_8BIT
} config_optimizer;

typedef enum config_scheduler {
    SCHEDULER_CONSTANT,
    SCHEDULER_CONSTANT_WITH_WARMUP,
    SCHEDULER_LINEAR,
    SCHEDULER_COSINE
} config_scheduler;

typedef enum config_strategy {
    STRATEGY_AUTO, /* by *_steps or *_per_epoch where given, else once per epoch */
    STRATEGY_NO,
    STRATEGY_STEPS,
    STRATEGY_EPOCH
} config_strategy;

typedef enum config_checkpointing {
    CHECKPOINTING_OFF,
    CHECKPOINTING_ON,
    CHECKPOINTING_OFFLOAD,
    CHECKPOINTING_OFFLOAD_DISK
} config_checkpointing;

typedef enum config_offloading {
    OFFLOADING_OFF,
    OFFLOADING_ON,
    OFFLOADING_LEGACY,
    OFFLOADING_DISK,
    OFFLOADING_HIDDEN_STATES
} config_offloading;

typedef enum config_activations {
    CONFIG_ACTIVATIONS_AUTO,
    CONFIG_ACTIVATIONS_KEEP,
    CONFIG_ACTIVATIONS_RECOMPUTE,
    CONFIG_ACTIVATIONS_OFFLOAD
} config_activations;

typedef enum config_base {
    CONFIG_BASE_AUTO,
    CONFIG_BASE_RESIDENT,
    CONFIG_BASE_HOST,
    CONFIG_BASE_DISK
} config_base;

typedef enum config_states { STATES_AUTO, STATES_RESIDENT, STATES_PAGED } config_states;

/* Which end tokens of a conversation are learned. */
typedef enum config_train_on {
    TRAIN_ON_AUTO, /* train_on_eos: turn; train_on_eot: as train_on_eos */
    TRAIN_ON_ALL,
    TRAIN_ON_TURN,
    TRAIN_ON_LAST,
    TRAIN_ON_NONE
} config_train_on;

/* A row longer than sequence_len. */
typedef enum config_excess { EXCESS_TRUNCATE, EXCESS_DROP, EXCESS_RAISE } config_excess;

typedef enum config_bad_row { BAD_ROW_FAIL, BAD_ROW_SKIP } config_bad_row;

typedef struct config_list {
    char **items;
    size_t count;
} config_list;

typedef struct config_pair {
    char *key, *value;
} config_pair;

typedef struct config_map { /* string -> string, in the file's order */
    config_pair *items;
    size_t count;
} config_map;

typedef struct config_group {
    char *key;
    config_list values;
} config_group;

typedef struct config_groups { /* string -> list of strings */
    config_group *items;
    size_t count;
} config_groups;

/* The custom prompt of `type:` when that is a mapping, or field names given beside a type
 * name. */
typedef struct dataset_prompt {
    char *system_prompt; /* text */
    char *system_format; /* with {system} */
    char *field_system;  /* names of the row's fields */
    char *field_instruction;
    char *field_input;
    char *field_output;
    char *format;          /* with {instruction} and {input} */
    char *no_input_format; /* with {instruction} only */
} dataset_prompt;

/* One entry of `datasets:` or `test_datasets:`. */
typedef struct dataset_config {
    char *path; /* file, folder or org/name of the Hugging Face cache */
    char *type; /* prompt style; NULL: rows are tokenized, or `prompt` describes it */
    bool type_is_mapping; /* `type:` was a mapping: `prompt` is the prompt style */
    dataset_prompt prompt;
    char *name;             /* sub-configuration of a hub dataset (a folder of it) */
    char *split;            /* "train", "train[:500]", "train[10%:]"; NULL: all there is */
    char *revision;         /* of a hub dataset */
    char *ds_type;          /* json | text ...; NULL: by the file's ending */
    config_list data_files; /* inside path */
    char *field;            /* completion: the text's field; NULL: "text" */
    char *field_messages; /* chat: the list's field; NULL: "messages", then "conversations" */
    config_map message_property_mappings; /* template's property -> row's property */
    /* older spellings, folded into the mapping */
    char *message_field_role, *message_field_content, *field_thinking;
    char *message_field_training; /* boolean in a message that decides whether it is learned */
    config_groups roles; /* role of the template -> names in the rows; empty: the usual ones */
    config_list roles_to_train; /* empty: assistant */
    config_train_on train_on_eos, train_on_eot;
    char *message_field_training_detail;       /* list of character ranges in a message */
    char *field_tools;                         /* beside the list; NULL: tools */
    char *template_thinking_key;               /* NULL: reasoning_content */
    char *chat_template, *chat_template_jinja; /* override the run's */
    bool drop_system_message;
    int64_t shards, shards_idx; /* CONFIG_NOT_SET, or part shards_idx of shards */
    char *text_column;          /* folded into `field` and `split` */
    int64_t skip;
} dataset_config;

typedef struct dataset_list {
    dataset_config *items;
    size_t count;
} dataset_list;

typedef struct special_tokens_config { /* NULL: as the tokenizer says */
    char *bos_token, *eos_token, *pad_token, *unk_token;
    config_list additional_special_tokens;
} special_tokens_config;

typedef struct bnb_config {
    config_quant_type bnb_4bit_quant_type;
    bool bnb_4bit_use_double_quant;
    config_precision bnb_4bit_compute_dtype; /* already folded into bf16 and fp16 */
} bnb_config;

typedef struct memory_config {
    int64_t device_budget; /* bytes; CONFIG_NOT_SET: what the device has */
    int64_t host_budget;   /* bytes; CONFIG_NOT_SET: what the machine has */
    config_activations activations;
    config_base base;
    int64_t slots; /* pages of a streamed class held at once; CONFIG_NOT_SET: 2 */
    config_states optimizer;
} memory_config;

typedef struct config {
    /* Base model */
    char *base_model;        /* folder or org/name of the Hugging Face cache */
    char *revision_of_model; /* for org/name: branch, tag or commit; NULL: main */
    bool load_in_4bit, load_in_8bit;
    bnb_config bnb_config_kwargs;
    char *quantized_cache; /* HDF5 file written at the first run and read at later ones */
    special_tokens_config special_tokens;

    /* Adapter */
    config_adapter adapter;
    int64_t lora_r, lora_alpha;
    double lora_dropout;     /* 0..1 */
    bool lora_target_linear; /* all linear layers but the head */
    config_list lora_target_modules;
    config_list lora_modules_to_save;
    char *lora_model_dir; /* adapter folder to start from */
    bool peft_use_rslora; /* scale alpha / sqrt(r) instead of alpha / r */

    /* Data */
    dataset_list datasets, test_datasets;
    dataset_list pretraining_dataset; /* folded into datasets */
    double val_set_size;              /* < 1: fraction of the rows, >= 1: rows, 0: none */
    char *dataset_prepared_path;
    char *chat_template;             /* NULL or "tokenizer_default": the tokenizer's own */
    char *chat_template_jinja;       /* a template's text or file */
    config_map chat_template_kwargs; /* variables of an interpreted template */
    config_list eot_tokens;          /* end-of-turn tokens beside EOS */
    bool train_on_inputs;
    bool shuffle_merged_datasets;
    bool curriculum_sampling; /* rows in the files' order during training */
    bool group_by_length;
    bool dataset_exact_deduplication;
    bool streaming; /* one dataset, read while training; max_steps is set then */
    int64_t streaming_multipack_buffer_size; /* rows of a window */
    int64_t sequence_len;                    /* tokens */
    config_excess excess_length_strategy;
    config_bad_row on_bad_row;
    bool sample_packing;
    bool sample_packing_sequentially;  /* bins are filled in the rows' order */
    config_switch eval_sample_packing; /* never auto after loading */

    /* Steps */
    int64_t micro_batch_size, gradient_accumulation_steps;
    int64_t batch_size; /* only as read: folded into the two above, then not set */
    double num_epochs;  /* may be fractional */
    int64_t max_steps;  /* CONFIG_NOT_SET, or overrides num_epochs */

    /* Optimizer and schedule */
    config_optimizer optimizer;
    double learning_rate;
    config_scheduler lr_scheduler;
    double cosine_min_lr_ratio; /* of the peak; NAN: 0 */
    int64_t warmup_steps;       /* use config_warmup_steps */
    double warmup_ratio;
    double weight_decay;
    double adam_beta1, adam_beta2, adam_epsilon;
    double max_grad_norm; /* 0: no clipping */
    int64_t seed;

    /* Numbers */
    config_switch bf16, fp16; /* use config_compute_precision */
    config_switch tf32;
    bool bfloat16, float16, float32; /* older spellings; folded into the above */
    double initial_loss_scale;       /* fp16: where dynamic loss scaling starts */

    /* Memory */
    config_checkpointing gradient_checkpointing; /* folded into memory.activations */
    config_offloading activation_offloading;     /* likewise */
    memory_config memory;

    /* Watching, evaluating, saving */
    char *output_dir;
    int64_t logging_steps; /* lines on the terminal; metrics.jsonl has every step */
    double
        eval_steps; /* >= 1: steps, < 1: fraction of the run; NAN; use config_eval_interval */
    double evals_per_epoch;
    config_strategy eval_strategy;
    double save_steps; /* as eval_steps; use config_save_interval */
    double saves_per_epoch;
    config_strategy save_strategy;
    int64_t save_total_limit;
    int64_t
        early_stopping_patience; /* evaluations without improvement; CONFIG_NOT_SET: never */
    double loss_watchdog_threshold;    /* NAN: none */
    int64_t loss_watchdog_patience;    /* steps in a row */
    char *resume_from_checkpoint;      /* a checkpoint's path */
    bool auto_resume_from_checkpoints; /* as --resume, and no error when there is none */

    /* Samples during training */
    bool generate_samples;      /* at every evaluation, or every sample_steps */
    int64_t sample_steps;       /* CONFIG_NOT_SET: with evaluations */
    config_list sample_prompts; /* empty: the first held-out rows' prompts */
    int64_t num_generation_samples;
    int64_t generation_max_new_tokens;
    bool generation_do_sample; /* false: greedy */
    double generation_temperature;
    int64_t generation_top_k; /* CONFIG_NOT_SET: all */
    double generation_top_p;  /* NAN: 1 */

    /* Not keys */
    char *resolved; /* this configuration as YAML text */
    config_list
        ignored; /* "key: reason" of accepted keys without effect, to be reported once */
} config;

/* Frees what a config owns and zeroes it. A zeroed config may be freed. */
void config_free(config *c);
void config_list_free(config_list *list);
void dataset_config_free(dataset_config *d);

/* chat_template_kwargs as an object: true, false, null and numbers by their look, other values
 * as texts. To be released with json_decref; NULL when out of memory. */
json_t *config_template_variables(const config *c);

/* What bf16, fp16 ask for. PRECISION_AUTO is left to whoever knows the hardware. */
config_precision config_compute_precision(const config *c);

/* Whether the optimizer's moments are kept in 8 bits. */
bool config_optimizer_8bit(const config *c);

/* Warm-up steps of a run of total_steps: warmup_steps, else floor(warmup_ratio * total_steps),
 * else 3 % of the run and at most 100, as Axolotl does. */
int64_t config_warmup_steps(const config *c, int64_t total_steps);

/* Every how many optimizer steps to save or evaluate; 0: only at the end (save) or never
 * (eval). steps_per_epoch >= 1. Evaluating needs held-out rows, which is the caller's to know.
 */
int64_t config_save_interval(const config *c, int64_t total_steps, int64_t steps_per_epoch);
int64_t config_eval_interval(const config *c, int64_t total_steps, int64_t steps_per_epoch);

#endif
