/* dialect.c: the judgement on each key of the dialect that is not implemented, grouped by
 * reason. A key is written name or name=harmless|harmless. */
#include "trainer/verbs/dialect.h"

#include "trainer/verbs/values.h"

#include <stdio.h>
#include <string.h>

typedef struct group {
    const char *scope;
    dialect_effect effect;
    const char *reason;
    const char *keys;
} group;

#define IGNORED(why, names)                                                                   \
    { "configuration", DIALECT_IGNORED, why, names }
#define REFUSED(why, names)                                                                   \
    { "configuration", DIALECT_REFUSED, why, names }

static const group groups[] = {
    IGNORED(
        "logging goes to metrics.jsonl and TensorBoard files",
        "wandb_project wandb_entity wandb_name wandb_log_model wandb_mode wandb_run_id "
        "wandb_watch use_wandb comet_api_key comet_experiment_config comet_experiment_key "
        "comet_mode comet_online comet_project_name comet_workspace use_comet "
        "mlflow_experiment_name mlflow_run_name mlflow_tracking_uri hf_mlflow_log_artifacts "
        "use_mlflow trackio_project_name trackio_run_name trackio_space_id use_trackio "
        "otel_metrics_host otel_metrics_port use_otel_metrics use_tensorboard "
        "swanlab_completion_log_interval swanlab_completion_max_buffer swanlab_description "
        "swanlab_experiment_name swanlab_log_completions swanlab_log_model swanlab_mode "
        "swanlab_project swanlab_workspace use_swanlab include_tkps "
        "include_tokens_per_second profiler_steps profiler_steps_start"),
    IGNORED("benchmarks during training are not run",
            "bench_dataset bench_split do_bench_eval do_causal_lm_eval eval_causal_lm_metrics "
            "eval_table_size eval_table_max_new_tokens "
            "eval_max_new_tokens generation_prompt_ratio"),
    IGNORED("speed; attention is exact and documents stay apart in any case",
            "attention attn_implementation flash_attention sdp_attention xformers_attention "
            "flex_attention "
            "eager_attention sage_attention flash_attn_cross_entropy flash_attn_d512 "
            "flash_attn_fuse_mlp flash_attn_fuse_qkv flash_attn_rms_norm flash_optimum "
            "flex_attn_compile_kwargs fused_attn_kernel gemma4_hybrid_attn_impl "
            "large_head_attention sdpa_varlen heads_k_stride ring_attn_func batch_flattening"),
    IGNORED(
        "speed",
        "lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel "
        "liger_fused_linear_cross_entropy liger_cross_entropy liger_glu_activation "
        "liger_layer_norm liger_rms_norm liger_rms_norm_gated liger_rope cut_cross_entropy "
        "chunked_cross_entropy chunked_cross_entropy_num_chunks unsloth_cross_entropy_loss "
        "unsloth_lora_mlp unsloth_lora_qkv unsloth_lora_o unsloth_rms_norm unsloth_rope "
        "use_kernels use_scattermoe use_sonicmoe use_dsv4_kernels use_glm_dsa_kernels "
        "dsv4_fp4_grouped_mode experts_implementation llama4_linearized_experts "
        "torch_compile torch_compile_backend torch_compile_mode torch_compile_options "
        "deepcompile tiled_mlp tiled_mlp_num_shards tiled_mlp_use_original_mlp "
        "gc_collect_steps gc_steps torch_empty_cache_steps auto_find_batch_size "
        "eval_batch_size gptq_disable_exllama torchdistx_path"),
    IGNORED(
        "memory; see memory: and gradient_checkpointing",
        "gradient_checkpointing_kwargs selective_checkpointing layer_offloading max_memory "
        "gpu_memory_limit low_cpu_mem_usage lora_on_cpu relora_cpu_offload "
        "experimental_skip_move_to_device embeddings_skip_upcast"),
    IGNORED(
        "one device, one process; an optimizer step is micro_batch_size x "
        "gradient_accumulation_steps",
        "fsdp fsdp_config fsdp_final_state_dict_type fsdp_version deepspeed ddp "
        "ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_timeout "
        "device device_map local_rank world_size accelerator_config "
        "qlora_sharded_model_loading context_parallel_size context_parapllel_size "
        "sequence_parallel_degree tensor_parallel_size expert_parallel_size "
        "expert_parallel_num_nvl_bytes expert_parallel_token_capacity use_ray ray_num_workers "
        "ray_run_name resources_per_worker fp8_enable_fsdp_float8_all_gather"),
    IGNORED("config.json and tokenizer.json decide; no code from elsewhere is run",
            "model_type type_of_model tokenizer_type processor_type processor_kwargs "
            "is_falcon_derived_model is_llama_derived_model is_mistral_derived_model "
            "is_qwen_derived_model trust_remote_code tokenizer_legacy tokenizer_use_fast "
            "tokenizer_use_mistral_common tokenizer_save_jinja_files quantize_moe_experts "
            "freeze_mm_modules image_size image_resize_algorithm nvfp4_merge_aware "
            "mean_resizing_embeddings"),
    IGNORED(
        "datasets are read in the background and packed up front",
        "dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor "
        "dataset_keep_in_memory dataset_num_proc dataset_processes num_dataset_shards_to_save "
        "skip_prepare_dataset remove_unused_columns sample_packing_bin_size "
        "sample_packing_eff_est sample_packing_group_size sample_packing_mp_start_method "
        "multipack_real_batches pretrain_multipack_buffer_size "
        "preprocess_iterable is_preprocess total_num_tokens "
        "total_supervised_tokens axolotl_config_path"),
    IGNORED("nothing is padded: rows cost what they hold",
            "pad_to_sequence_len pad_to_multiple_of"),
    IGNORED("nothing reads it", "debug test_value"),
    IGNORED("keys are always checked", "strict"),
    IGNORED("nothing is sent anywhere",
            "hub_model_id hub_revision hub_strategy push_dataset_to_hub hf_use_auth_token"),
    IGNORED("checkpoints are complete, adapters are safetensors",
            "save_safetensors save_only_model save_first_step dynamic_checkpoint"),
    IGNORED(
        "see train export and train generate",
        "merge_lora merge_method gradio_max_new_tokens gradio_server_name gradio_server_port "
        "gradio_share gradio_temperature gradio_title"),

    REFUSED("training from preferences or rewards does not exist here",
            "rl rl_beta dpo_beta dpo_generate_during_eval dpo_label_smoothing dpo_loss_type "
            "dpo_loss_weights dpo_norm_loss dpo_padding_free dpo_use_liger_kernel "
            "dpo_use_logits_to_keep dpo_use_weighting cpo_alpha kto_desirable_weight "
            "kto_undesirable_weight orpo_alpha rpo_alpha simpo_gamma precompute_ref_log_probs "
            "max_prompt_len=512 trl vllm ebft reward_model process_reward_model "
            "center_rewards_coefficient num_labels"),
    REFUSED("rows are packed as documents that do not see each other",
            "pretraining_sample_concatenation pretrain_multipack_attn=true"),
    REFUSED(
        "the optimizer is AdamW without groups or extra arguments",
        "optim_args optim_target_modules adam_beta3 adam_epsilon2 adam_eps=1e-8 lr_groups "
        "embedding_lr embedding_lr_scale loraplus_lr_ratio loraplus_lr_embedding=1e-6 dion_lr "
        "dion_momentum dion_rank_fraction=1.0 dion_rank_multiple_of=1 "
        "qgalore_cos_threshold=0.4 qgalore_gamma_proj=2 qgalore_proj_bits=4 "
        "qgalore_proj_group_size=256 qgalore_proj_quant=true qgalore_proj_type=std "
        "qgalore_queue_size=5 qgalore_rank=256 qgalore_scale=0.25 "
        "qgalore_update_proj_gap=200"),
    REFUSED(
        "schedules are constant, constant_with_warmup, linear and cosine, without arguments",
        "lr_scheduler_kwargs lr_quadratic_warmup lr_div_factor cosine_constant_lr_ratio "
        "jagged_restart_steps jagged_restart_warmup_steps jagged_restart_anneal_steps"),
    REFUSED("adapters are plain LoRA or rsLoRA on linear layers",
            "peft peft_use_dora peft_init_lora_weights=true peft_layer_replication "
            "peft_layers_pattern peft_layers_to_transform peft_trainable_token_indices "
            "peft_autocast_adapter_dtype=true peft_ensure_weight_tying lora_alpha_pattern "
            "lora_rank_pattern lora_target_parameters lora_fan_in_fan_out relora "
            "relora_prune_method=magnitude relora_prune_ratio reinit_weights"),
    REFUSED("either all parameters are trained (adapter: full) or adapters",
            "unfrozen_parameters lisa_layers_attribute=model.layers lisa_n_layers "
            "lisa_step_interval"),
    REFUSED("the 4-bit formats are NF4 and FP4",
            "gptq gptq_groupsize gptq_model_v1 fp8 qat quantization model_quantization_config "
            "model_quantization_config_kwargs use_onebitllms"),
    REFUSED("norms keep the file's format and compute in fp32",
            "fp32_norms fp32_norm_classes"),
    REFUSED("say bf16: true or fp16: true", "torch_dtype=auto"),
    REFUSED("the vocabulary is the tokenizer's",
            "tokens added_tokens_overrides resize_token_embeddings_to_32x shrink_embeddings "
            "fix_untrained_tokens"),
    REFUSED(
        "the model is what its config.json says",
        "overrides_of_model_config model_config overrides_of_model_kwargs model_kwargs "
        "cls_model_config rope_scaling scaling_softmax scaling_softmax_bias "
        "scaling_softmax_factor s2_attention use_pose pose_max_context_len pose_num_chunks "
        "pose_split_on_token_ids"),
    REFUSED("the loss is plain cross-entropy",
            "neftune_noise_alpha noisy_embedding_alpha use_eaft eaft_alpha=1.0 eaft_k=20 "
            "use_dynamic_finetuning"),
    REFUSED("the chat template and the rows say it", "default_system_message role_boundaries"),
    REFUSED("shards are a dataset's own keys: shards and shards_idx",
            "dataset_shard_num=1 dataset_shard_idx=0"),
    REFUSED("datasets are joined in the file's order and shuffled together",
            "shuffle_before_merging_datasets"),
    REFUSED("the last, smaller batch of an epoch is used", "dataloader_drop_last"),
    REFUSED("rows of any length are kept that have something to learn",
            "min_sample_len=0|1|2"),
    REFUSED("evaluation uses sequence_len", "eval_sequence_len"),
    REFUSED("use sequence_len with sample_packing: true", "max_packed_sequence_len"),
    REFUSED("early stopping watches eval_loss, and the last adapter is the result",
            "metric_for_best_model=loss|eval_loss greater_is_better load_best_model_at_end"),
    REFUSED("one device: multiply gradient_accumulation_steps by it instead",
            "dp_replicate_size=1 dp_shard_size=1"),
    REFUSED("there is one trainer", "trainer_cls"),

    {"datasets", DIALECT_IGNORED, "no code from elsewhere is run", "trust_remote_code"},
    {"datasets", DIALECT_IGNORED, "memory", "preprocess_shards"},
    {"datasets", DIALECT_REFUSED, "chat templates are chosen with chat_template",
     "conversation"},
    {"datasets", DIALECT_REFUSED, "the fields of a row are named by message_property_mappings",
     "field_human field_model input_format input_transform"},
    {"datasets", DIALECT_REFUSED, "a template finds the thinking in an answer by itself",
     "split_thinking"},
    {"datasets", DIALECT_REFUSED, "distillation does not exist here",
     "logprobs_field temperature"},
    {"bnb_config_kwargs", DIALECT_IGNORED, "it belongs to 8-bit loading",
     "llm_int8_threshold llm_int8_has_fp16_weight llm_int8_enable_fp32_cpu_offload"},
    {"bnb_config_kwargs", DIALECT_IGNORED, "speed", "bnb_4bit_quant_storage"},
    {"bnb_config_kwargs", DIALECT_REFUSED, "all linear layers but the head are quantized",
     "llm_int8_skip_modules"},
};

/* One word of a group's list, taken apart. False at the list's end. */
static bool take_key(const group *g, const char **at, dialect_key *out) {
    const char *p = *at + strspn(*at, " ");
    if (!*p) return false;
    size_t length = strcspn(p, " ");
    size_t name = strcspn(p, "= ");
    snprintf(out->name, sizeof out->name, "%.*s", (int)name, p);
    snprintf(out->harmless, sizeof out->harmless, "%.*s",
             name < length ? (int)(length - name - 1) : 0, p + name + (name < length));
    out->effect = g->effect;
    out->reason = g->reason;
    *at = p + length;
    return true;
}

bool dialect_next(dialect_cursor *cursor, const char *scope, dialect_key *out) {
    for (; cursor->group < sizeof groups / sizeof *groups;
         cursor->group++, cursor->at = NULL) {
        const group *g = &groups[cursor->group];
        if (strcmp(g->scope, scope)) continue;
        if (!cursor->at) cursor->at = g->keys;
        if (take_key(g, &cursor->at, out)) return true;
    }
    return false;
}

bool dialect_find(const char *scope, const char *name, dialect_key *out) {
    dialect_cursor cursor = {0};
    while (dialect_next(&cursor, scope, out))
        if (!strcmp(out->name, name)) return true;
    return false;
}

bool dialect_is_harmless(const dialect_key *key, const tree_node *value) {
    if (tree_is_unset(value)) return true;
    if (value->shape != SHAPE_SCALAR) return value->count == 0;
    bool truth, given, wanted;
    bool is_bool = !value_bool(value->text, &given) && strcmp(value->text, "1");
    double number, harmless;
    if (!*key->harmless) return is_bool && !given;
    if (value_choice(value->text, key->harmless) >= 0) return true;
    truth = !value_bool(key->harmless, &wanted);
    if (truth && is_bool) return given == wanted;
    return !value_real(value->text, &number) && !value_real(key->harmless, &harmless) &&
           number == harmless;
}

const char *dialect_elsewhere(const char *name) {
    static const struct {
        const char *name, *here;
    } names[] = {
        {"alpha", "lora_alpha"},
        {"r", "lora_r"},
        {"rank", "lora_r"},
        {"lora_rank", "lora_r"},
        {"lora_dim", "lora_r"},
        {"dropout", "lora_dropout"},
        {"target_modules", "lora_target_modules"},
        {"lora_target", "lora_target_modules"},
        {"modules_to_save", "lora_modules_to_save"},
        {"use_rslora", "peft_use_rslora"},
        {"finetuning_type", "adapter"},
        {"quantization_bit", "load_in_4bit"},
        {"bnb_4bit_quant_type", "bnb_config_kwargs.bnb_4bit_quant_type"},
        {"bnb_4bit_use_double_quant", "bnb_config_kwargs.bnb_4bit_use_double_quant"},
        {"double_quant", "bnb_config_kwargs.bnb_4bit_use_double_quant"},
        {"quant_type", "bnb_config_kwargs.bnb_4bit_quant_type"},
        {"model", "base_model"},
        {"model_name", "base_model"},
        {"model_path", "base_model"},
        {"model_name_or_path", "base_model"},
        {"model_revision", "revision_of_model"},
        {"revision", "revision_of_model"},
        {"exact_deduplication", "dataset_exact_deduplication"},
        {"data", "datasets"},
        {"dataset", "datasets"},
        {"data_path", "datasets"},
        {"train_file", "datasets"},
        {"validation_file", "test_datasets"},
        {"val_size", "val_set_size"},
        {"template", "chat_template"},
        {"packing", "sample_packing"},
        {"max_length", "sequence_len"},
        {"max_seq_len", "sequence_len"},
        {"max_seq_length", "sequence_len"},
        {"seq_len", "sequence_len"},
        {"cutoff_len", "sequence_len"},
        {"block_size", "sequence_len"},
        {"context_length", "sequence_len"},
        {"batch", "micro_batch_size"},
        {"bs", "micro_batch_size"},
        {"per_device_train_batch_size", "micro_batch_size"},
        {"per_device_batch_size", "micro_batch_size"},
        {"gradient_accumulation", "gradient_accumulation_steps"},
        {"grad_accumulation_steps", "gradient_accumulation_steps"},
        {"accumulate_grad_batches", "gradient_accumulation_steps"},
        {"epoch", "num_epochs"},
        {"epochs", "num_epochs"},
        {"num_train_epochs", "num_epochs"},
        {"steps", "max_steps"},
        {"iters", "max_steps"},
        {"lr", "learning_rate"},
        {"scheduler", "lr_scheduler"},
        {"lr_scheduler_type", "lr_scheduler"},
        {"warmup", "warmup_steps"},
        {"optim", "optimizer"},
        {"wd", "weight_decay"},
        {"betas", "adam_beta1 and adam_beta2"},
        {"beta1", "adam_beta1"},
        {"beta2", "adam_beta2"},
        {"eps", "adam_epsilon"},
        {"clip", "max_grad_norm"},
        {"grad_clip", "max_grad_norm"},
        {"gradient_clipping", "max_grad_norm"},
        {"output", "output_dir"},
        {"out_dir", "output_dir"},
        {"save_every", "save_steps"},
        {"eval_every", "eval_steps"},
        {"log_every", "logging_steps"},
        {"resume", "--resume (an option)"},
        {"device_budget", "memory.device_budget"},
        {"host_budget", "memory.host_budget"},
        {"activations", "memory.activations"},
        {"slots", "memory.slots"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i].name, name)) return names[i].here;
    return NULL;
}

bool dialect_plugin_ignored(const char *plugin) {
    static const char *const harmless[] = {
        "axolotl.integrations.liger.",           "axolotl.integrations.cut_cross_entropy.",
        "axolotl.integrations.kernels.",         "axolotl.integrations.swanlab.",
        "axolotl.integrations.expert_parallel.",
    };
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        if (!strncmp(plugin, harmless[i], strlen(harmless[i]))) return true;
    return false;
}
