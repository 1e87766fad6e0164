/* schema.c: the table itself. Names come from the struct's members by the preprocessor, so
 * that a key and its field cannot differ. */
#include "trainer/verbs/schema.h"

#include "common/alloc.h"
#include "trainer/verbs/values.h"

#include <stdio.h>
#include <string.h>

/* Rows of struct OWNER; `flags` as in schema.h, `standard` the default's text. */
#define SECTION(title)                                                                        \
    { .name = title, .kind = FIELD_SECTION }
#define ROW(k, n, fl, std, ...)                                                               \
    {                                                                                         \
        .name = #n, .kind = k, .flags = fl, .offset = offsetof(OWNER, n), .standard = std,    \
        __VA_ARGS__                                                                           \
    }
#define BOOL(n, fl, std, text)   ROW(FIELD_BOOL, n, fl, std, .doc = text)
#define SWITCH(n, fl, std, text) ROW(FIELD_SWITCH, n, fl, std, .doc = text)
#define ENUM(n, fl, std, names, text)                                                         \
    ROW(FIELD_ENUM, n, fl, std, .choices = names, .doc = text)
#define INT(n, fl, std, low, high, text)                                                      \
    ROW(FIELD_INT, n, fl, std, .least = low, .most = high, .doc = text)
#define REAL(n, fl, std, low, high, text)                                                     \
    ROW(FIELD_REAL, n, fl, std, .least = low, .most = high, .doc = text)
#define BYTES(n, fl, text)       ROW(FIELD_BYTES, n, fl, NULL, .doc = text)
#define TEXT(n, fl, std, text)   ROW(FIELD_TEXT, n, fl, std, .doc = text)
#define LIST(n, fl, text)        ROW(FIELD_LIST, n, fl, NULL, .doc = text)
#define TABLE(n, fl, rows, text) ROW(FIELD_TABLE, n, fl, NULL, .table = rows, .doc = text)
#define COUNT(rows)              (sizeof(rows) / sizeof *(rows))
#define SCHEMA(title, rows)                                                                   \
    { title, rows, COUNT(rows), sizeof(OWNER) }

enum { FREE = FIELD_FREE, OURS = FIELD_OURS, FOLDED = FIELD_FOLDED, ANY = 1 << 30 };

#define OWNER dataset_prompt
static const field prompt_fields[] = {
    TEXT(system_prompt, 0, NULL, "System text of rows that have none."),
    TEXT(system_format, 0, NULL, "How the system text is put, with {system}."),
    TEXT(field_system, 0, NULL, "The row's field with the system text."),
    TEXT(field_instruction, 0, NULL, "The row's field with the instruction."),
    TEXT(field_input, 0, NULL, "The row's field with the input."),
    TEXT(field_output, 0, NULL, "The row's field with the answer."),
    TEXT(format, 0, NULL, "The prompt, with {instruction} and {input}."),
    TEXT(no_input_format, 0, NULL, "The prompt of rows without input, with {instruction}."),
};
static const schema prompt_schema = SCHEMA("type", prompt_fields);
#undef OWNER

#define OWNER dataset_config
#define PROMPT_TEXT(n, text)                                                                  \
    {                                                                                         \
        .name = #n, .kind = FIELD_TEXT, .offset = offsetof(dataset_config, prompt.n),         \
        .doc = text                                                                           \
    }
static const field dataset_fields[] = {
    TEXT(path, FIELD_REQUIRED, NULL,
         "A file (.parquet, .json, .jsonl, .csv, .tsv, .txt, with .gz or .zst behind it too), "
         "a "
         "pattern (rows/*.jsonl), a folder, org/name of a dataset in the local Hugging Face "
         "cache, or json, csv, parquet or text with data_files."),
    ROW(FIELD_PROMPT, type, 0, NULL, .table = &prompt_schema,
        .doc =
            "Prompt style by name (alpaca, completion, chat_template ...), or a map that "
            "describes one (system_prompt, format, field_instruction ...); empty: rows hold "
            "input_ids and labels."),
    TEXT(name, 0, NULL,
         "A hub dataset's configuration, as its README.md lists them, or a folder of it."),
    TEXT(split, 0, NULL, "Which part: train, train[:500], train[10%:] ..."),
    TEXT(revision, 0, NULL, "Branch, tag or commit of a hub dataset."),
    TEXT(ds_type, 0, NULL,
         "json, parquet, csv, text (a row a line), paragraphs or document; empty: by the "
         "file's "
         "first bytes and its ending."),
    LIST(data_files, 0,
         "Files to read, inside path: names and patterns (*.jsonl, part-?/**, [0-4].csv)."),
    TEXT(field, 0, NULL,
         "completion: the field with the text; empty: text. In all names of fields a.b is b "
         "inside of a."),
    TEXT(field_messages, 0, NULL,
         "Chat: the field with the list of messages; empty: messages, else conversations."),
    ROW(FIELD_MAP, message_property_mappings, 0, NULL,
        .doc = "Chat: which field of a message is the template's role, content, or another "
               "property."),
    TEXT(message_field_role, FOLDED, NULL,
         "Older spelling of message_property_mappings.role."),
    TEXT(message_field_content, FOLDED, NULL,
         "Older spelling of message_property_mappings.content."),
    TEXT(field_thinking, FOLDED, NULL,
         "The same as message_property_mappings.reasoning_content."),
    TEXT(message_field_training, 0, NULL,
         "Chat: a field of a message that says true or false to learning it."),
    TEXT(message_field_training_detail, 0, NULL,
         "Chat: a field of a message with a list of {begin_offset, end_offset, train}, in "
         "characters of the content, the last included."),
    TEXT(field_tools, 0, NULL,
         "Chat: the field with the list of tools, or a JSON text of it; empty: tools."),
    TEXT(template_thinking_key, 0, NULL,
         "Chat: the template's name of a message's thinking; empty: reasoning_content."),
    ROW(FIELD_GROUPS, roles, 0, NULL,
        .doc = "Chat: role -> the names it has in the rows (assistant: [gpt, model])."),
    LIST(roles_to_train, 0, "Chat: roles whose turns are learned; empty: assistant."),
    ENUM(train_on_eos, 0, "auto", "auto|all|turn|last|none",
         "Which end-of-sequence tokens of a chat are learned; auto: turn."),
    ENUM(train_on_eot, 0, "auto", "auto|all|turn|last|none",
         "Which end-of-turn tokens of a chat are learned; auto: as train_on_eos."),
    TEXT(chat_template, 0, NULL, "Overrides the run's chat_template for this dataset."),
    TEXT(chat_template_jinja, 0, NULL,
         "Overrides the run's chat_template_jinja for this dataset."),
    BOOL(drop_system_message, 0, "false", "Chat: system turns are left out."),
    TEXT(text_column, FOLDED, NULL, "pretraining_dataset: the field with the text."),
    INT(skip, FOLDED, NULL, 0, 1ll << 53, "pretraining_dataset: rows to leave out first."),
    INT(shards, 0, NULL, 1, 1 << 20, "Split the dataset into so many parts and use one."),
    INT(shards_idx, 0, NULL, 0, 1 << 20, "Which of the parts, from 0."),
    PROMPT_TEXT(system_prompt, "As in a map under type, for the named styles."),
    PROMPT_TEXT(field_system, "As in a map under type, for the named styles."),
    PROMPT_TEXT(field_instruction, "As in a map under type, for the named styles."),
    PROMPT_TEXT(field_input, "As in a map under type, for the named styles."),
    PROMPT_TEXT(field_output, "As in a map under type, for the named styles."),
};
const schema schema_dataset = SCHEMA("datasets", dataset_fields);
#undef OWNER

#define OWNER special_tokens_config
static const field special_fields[] = {
    TEXT(bos_token, 0, NULL, "Begins a text."),
    TEXT(eos_token, 0, NULL, "Ends a text and is always learned."),
    TEXT(pad_token, 0, NULL, "Must exist; nothing is padded."),
    TEXT(unk_token, 0, NULL, "Stands for what the vocabulary lacks."),
    LIST(additional_special_tokens, 0, "Further tokens that are never split; all must exist."),
};
static const schema special_schema = SCHEMA("special_tokens", special_fields);
#undef OWNER

#define OWNER bnb_config
static const field bnb_fields[] = {
    ENUM(bnb_4bit_quant_type, 0, "nf4", "nf4|fp4", "Code book of the 4-bit base."),
    BOOL(bnb_4bit_use_double_quant, 0, "true",
         "Quantize the scales too (4.127 bits a weight)."),
    ENUM(bnb_4bit_compute_dtype, FOLDED, "auto", "auto|bfloat16|float16|float32",
         "Another way to say bf16 or fp16; must not contradict them."),
};
static const schema bnb_schema = SCHEMA("bnb_config_kwargs", bnb_fields);
#undef OWNER

#define OWNER memory_config
static const field memory_fields[] = {
    BYTES(device_budget, FREE, "At most so much of the device's memory; empty: what it has."),
    BYTES(host_budget, FREE, "At most so much of the machine's memory; empty: what it has."),
    ENUM(activations, FREE, "auto", "auto|keep|recompute|offload",
         "What the backward pass reads: kept, computed again, or moved to the host."),
    ENUM(base, FREE, "auto", "auto|resident|host|disk",
         "Where the frozen base lives; host and disk are streamed layer by layer."),
    INT(slots, FREE, NULL, 1, 64, "Pages of a streamed class held at once; empty: 2."),
    ENUM(optimizer, FREE, "auto", "auto|resident|paged",
         "Where the optimizer's moments and masters live."),
};
static const schema memory_schema = SCHEMA("memory", memory_fields);
#undef OWNER

#define OWNER config
static const field config_fields[] = {
    SECTION("Base model"),
    TEXT(base_model, FIELD_REQUIRED | FREE, NULL,
         "A Hugging Face folder, or org/name of a model in the local Hugging Face cache; "
         "synthetic:llama-3-8b and the like: random weights of that shape, to measure with."),
    TEXT(revision_of_model, FREE, NULL, "Branch, tag or commit, for org/name."),
    BOOL(load_in_4bit, 0, "false", "Quantize the base to 4 bits; adapter: qlora implies it."),
    BOOL(load_in_8bit, 0, "false", "Not available: true is refused."),
    TABLE(bnb_config_kwargs, 0, &bnb_schema, "How the base is quantized."),
    TEXT(quantized_cache, FREE | OURS, NULL,
         "HDF5 file of the quantized base: written by the first run, read by later ones."),
    TABLE(special_tokens, 0, &special_schema, "Overrides of the tokenizer's special tokens."),

    SECTION("Adapter"),
    ENUM(adapter, 0, "full", "full|lora|qlora",
         "lora: 16-bit base; qlora: 4-bit base; full (or empty): all parameters are trained."),
    INT(lora_r, 0, NULL, 1, 65536, "Rank of the adapters."),
    INT(lora_alpha, 0, NULL, 1, 1 << 20, "The adapters' product is scaled by alpha / rank."),
    REAL(lora_dropout, 0, "0.0", 0, 0.999, "Dropout on the adapters' input."),
    BOOL(lora_target_linear, 0, "false", "Adapters on all linear layers but the head."),
    LIST(lora_target_modules, 0,
         "Adapters on these (q_proj, k_proj, v_proj, o_proj, gate_proj, "
         "up_proj, down_proj)."),
    LIST(lora_modules_to_save, 0, "Not available: anything but an empty list is refused."),
    TEXT(lora_model_dir, 0, NULL, "An adapter folder to start from."),
    BOOL(peft_use_rslora, 0, "false", "Scale by alpha / sqrt(rank)."),

    SECTION("Data"),
    ROW(FIELD_TABLES, datasets, 0, NULL, .table = &schema_dataset,
        .doc = "What to learn from; the keys of an entry stand below."),
    ROW(FIELD_TABLES, pretraining_dataset, FOLDED, NULL, .table = &schema_dataset,
        .doc = "Instead of datasets, plain text: the same as an entry there with type: "
               "completion, its field in text_column, and streaming: true."),
    ROW(FIELD_TABLES, test_datasets, FREE, NULL, .table = &schema_dataset,
        .doc = "What to evaluate on, instead of val_set_size."),
    REAL(val_set_size, FIELD_COUNT, "0", 0, ANY,
         "Rows held out for evaluation: below 1 a part of them, from 1 on a number of rows."),
    TEXT(dataset_prepared_path, FREE, NULL, "Folder where tokenized datasets are kept."),
    TEXT(chat_template, 0, NULL,
         "tokenizer_default (the model's own; also tokenizer_default_fallback_NAME), a file "
         "with a template, jinja (chat_template_jinja), or chatml, llama3 ..."),
    TEXT(chat_template_jinja, 0, NULL, "A Jinja template's text, or a file with one."),
    ROW(FIELD_MAP, chat_template_kwargs, 0, NULL,
        .doc = "Variables for the template (enable_thinking: false)."),
    LIST(eot_tokens, 0, "Tokens that end a turn, beside the end-of-sequence token."),
    BOOL(train_on_inputs, 0, "false", "Learn the prompts too."),
    BOOL(shuffle_merged_datasets, 0, "true",
         "Shuffle the rows of all datasets, anew every epoch."),
    BOOL(curriculum_sampling, 0, "false", "Keep the files' order."),
    BOOL(group_by_length, 0, "false", "Rows of similar length share a batch."),
    BOOL(dataset_exact_deduplication, 0, "false", "Drop rows that occur twice."),
    BOOL(
        streaming, 0, "false",
        "Read the dataset while training, in windows and in bounded memory; wants max_steps."),
    INT(streaming_multipack_buffer_size, 0, "10000", 1, 1 << 24,
        "Rows of a window: shuffled and packed together when streaming."),
    INT(sequence_len, 0, "512", 2, 1 << 22, "Tokens of a bin or of the longest row."),
    ENUM(excess_length_strategy, 0, "drop", "truncate|drop|raise",
         "A row longer than sequence_len: left out or cut (both are counted), or an error."),
    ENUM(on_bad_row, OURS, "fail", "fail|skip",
         "A malformed row: an error, or left out and counted."),
    BOOL(sample_packing, 0, "false", "Fill each bin of sequence_len with several rows."),
    BOOL(sample_packing_sequentially, 0, "false", "Fill bins in the rows' order."),
    SWITCH(eval_sample_packing, FREE, "auto",
           "Packing in evaluation; auto: as sample_packing."),

    SECTION("Steps"),
    INT(micro_batch_size, 0, "1", 1, 65536, "Bins or rows that are computed at once."),
    INT(gradient_accumulation_steps, 0, "1", 1, 65536, "Micro-batches of one optimizer step."),
    INT(batch_size, FOLDED, NULL, 1, ANY,
        "micro_batch_size x gradient_accumulation_steps, in place of one of the two."),
    REAL(num_epochs, FIELD_ABOVE, "1.0", 0, 1e6, "Passes over the data; may be fractional."),
    INT(max_steps, 0, NULL, 1, ANY,
        "Exactly so many optimizer steps, whatever num_epochs says."),

    SECTION("Optimizer and schedule"),
    ENUM(optimizer, 0, "adamw_torch_fused",
         "adamw_torch|adamw_torch_fused|paged_adamw_32bit|paged_adamw_8bit|adamw_bnb_8bit|"
         "adamw_8bit",
         "AdamW with 32-bit moments, or with blockwise 8-bit ones."),
    REAL(learning_rate, FIELD_REQUIRED | FIELD_ABOVE, NULL, 0, 1e3, "The schedule's peak."),
    ENUM(lr_scheduler, 0, "cosine", "constant|constant_with_warmup|linear|cosine",
         "Learning rate over the steps."),
    REAL(cosine_min_lr_ratio, 0, NULL, 0, 1, "cosine: ends at this part of the peak."),
    INT(warmup_steps, 0, NULL, 0, ANY,
        "Steps of linear warm-up; empty with an empty "
        "warmup_ratio: 3 % of the run, at most 100."),
    REAL(warmup_ratio, 0, NULL, 0, 1, "Warm-up as a part of the run."),
    REAL(weight_decay, 0, "0.0", 0, 1e3, "Decoupled weight decay."),
    REAL(adam_beta1, 0, "0.9", 0, 0.9999999, "Decay of the first moment."),
    REAL(adam_beta2, 0, "0.999", 0, 0.9999999, "Decay of the second moment."),
    REAL(adam_epsilon, FIELD_ABOVE, "1e-8", 0, 1, "Added to the root of the second moment."),
    REAL(max_grad_norm, 0, "1.0", 0, 1e9, "Clip the gradient's global norm; 0: never."),
    INT(seed, 0, "42", 0, 9007199254740991.0, "Of shuffling, initialization and dropout."),

    SECTION("Number formats"),
    SWITCH(bf16, 0, "auto", "Compute in bf16; auto: where the hardware has it, else in fp32."),
    SWITCH(fp16, 0, "false", "Compute in fp16 with dynamic loss scaling."),
    SWITCH(tf32, 0, "auto", "Let fp32 products use TF32 on GPUs that have it."),
    BOOL(bfloat16, FOLDED, "false", "Older spelling of bf16."),
    BOOL(float16, FOLDED, "false", "Older spelling of fp16."),
    BOOL(float32, FOLDED, "false", "The same as bf16: false, fp16: false."),
    REAL(initial_loss_scale, OURS | FIELD_ABOVE, "65536", 0, 1e300,
         "fp16: where dynamic loss scaling starts."),

    SECTION("Memory"),
    ENUM(gradient_checkpointing, FREE, "false", "false|true|offload|offload_disk",
         "Where memory.activations is auto: true recomputes, offload moves to the host."),
    ENUM(activation_offloading, FREE, "false", "false|true|legacy|disk|hidden_states",
         "Where memory.activations is auto: anything but false moves to the host."),
    TABLE(memory, FREE | OURS, &memory_schema,
          "What lives where; empty: the planner decides."),

    SECTION("Watching, evaluating, saving"),
    TEXT(output_dir, FREE, "./model-out", "Checkpoints, metrics and the adapter go here."),
    INT(logging_steps, FREE, "1", 1, ANY,
        "A line every so many steps where no terminal is; metrics.jsonl has every step."),
    REAL(eval_steps, FREE | FIELD_COUNT, NULL, 0, ANY,
         "Evaluate every so many steps; below 1: a part of the run."),
    REAL(evals_per_epoch, FREE, NULL, 0, 1e6, "Evaluations in an epoch; 0: none."),
    ENUM(eval_strategy, FREE, "auto", "auto|no|steps|epoch",
         "auto: by the two keys above, else once per epoch where held-out rows exist."),
    REAL(save_steps, FREE | FIELD_COUNT, NULL, 0, ANY,
         "Save every so many steps; below 1: a part of the run."),
    REAL(saves_per_epoch, FREE, NULL, 0, 1e6, "Checkpoints in an epoch; 0: only at the end."),
    ENUM(save_strategy, FREE, "auto", "auto|no|steps|epoch",
         "auto: by the two keys above, else once per epoch; no: only at the end."),
    INT(save_total_limit, FREE, "4", 1, ANY, "Checkpoints to keep."),
    INT(early_stopping_patience, FREE, NULL, 1, ANY,
        "Stop after so many evaluations without improvement."),
    REAL(loss_watchdog_threshold, FREE, NULL, 0, 1e30,
         "Stop when the loss stays above this ..."),
    INT(loss_watchdog_patience, FREE, "3", 1, ANY, "... for so many steps in a row."),
    TEXT(resume_from_checkpoint, FREE, NULL, "Go on from this checkpoint."),
    BOOL(auto_resume_from_checkpoints, FREE, "false",
         "Go on from the last good checkpoint where there is one, as --resume."),

    SECTION("Samples during training"),
    BOOL(generate_samples, FREE, "false", "Answer a few prompts at every evaluation."),
    INT(sample_steps, FREE | OURS, NULL, 1, ANY, "Answer them every so many steps instead."),
    LIST(sample_prompts, FREE | OURS, "The prompts; empty: from the held-out rows."),
    INT(num_generation_samples, FREE, "3", 1, 1000, "How many prompts of the held-out rows."),
    INT(generation_max_new_tokens, FREE, "50", 1, 1 << 20, "Tokens of an answer, at most."),
    BOOL(generation_do_sample, FREE, "true", "false: always the likeliest token."),
    REAL(generation_temperature, FREE | FIELD_ABOVE, "0.7", 0, 100, "Of sampling."),
    INT(generation_top_k, FREE, NULL, 1, ANY, "Sample among the k likeliest tokens."),
    REAL(generation_top_p, FREE | FIELD_ABOVE, NULL, 0, 1,
         "Sample among the likeliest tokens that hold this much probability."),
};
const schema schema_config = SCHEMA("configuration", config_fields);
#undef OWNER

_Static_assert(sizeof(config_adapter) == sizeof(int), "enums are stored through int pointers");

const field *schema_find(const schema *s, const char *name) {
    for (size_t i = 0; i < s->count; i++)
        if (s->fields[i].kind != FIELD_SECTION && !strcmp(s->fields[i].name, name))
            return &s->fields[i];
    return NULL;
}

static int set_default(const field *f, void *at) {
    const char *words = f->standard;
    switch (f->kind) {
    case FIELD_BOOL:
        value_bool(words, at);
        return 0;
    case FIELD_SWITCH:
        *(int *)at = value_choice(words, "false|true|auto");
        return 0;
    case FIELD_ENUM:
        *(int *)at = value_choice(words, f->choices);
        return 0;
    case FIELD_INT:
    case FIELD_BYTES:
        *(int64_t *)at = CONFIG_NOT_SET;
        if (words) value_int(words, at);
        return 0;
    case FIELD_REAL:
        *(double *)at = NAN;
        if (words) value_real(words, at);
        return 0;
    case FIELD_TEXT:
        if (!words) return 0;
        *(char **)at = mem_strdup(words);
        return *(char **)at ? 0 : -1;
    case FIELD_TABLE:
        return schema_defaults(f->table, at);
    default:
        return 0; /* lists and maps begin empty */
    }
}

int schema_defaults(const schema *s, void *object) {
    for (size_t i = 0; i < s->count; i++)
        if (s->fields[i].kind != FIELD_SECTION &&
            set_default(&s->fields[i], (char *)object + s->fields[i].offset))
            return -1;
    return 0;
}

/* " from 1", " from 0 to 1", " above 0" ... */
static void describe_range(const field *f, char *out, size_t size) {
    char high[32] = "";
    if (f->most < ANY && f->most != 0) snprintf(high, sizeof high, " to %.15g", f->most);
    if (f->least != 0 || f->most != 0)
        snprintf(out, size, " %s %.15g%s", f->flags & FIELD_ABOVE ? "above" : "from", f->least,
                 high);
}

void schema_describe(const field *f, char *out, size_t size) {
    static const char *const names[FIELD_KINDS] = {
        [FIELD_BOOL] = "true or false",
        [FIELD_SWITCH] = "true, false or auto",
        [FIELD_INT] = "a whole number",
        [FIELD_REAL] = "a number",
        [FIELD_BYTES] = "bytes (24GB, 24GiB)",
        [FIELD_TEXT] = "text",
        [FIELD_LIST] = "a list",
        [FIELD_MAP] = "a map",
        [FIELD_GROUPS] = "a map of lists",
        [FIELD_TABLE] = "a map",
        [FIELD_TABLES] = "a list of maps",
        [FIELD_PROMPT] = "text or a map",
    };
    char range[64] = "";
    if (f->kind == FIELD_INT || f->kind == FIELD_REAL) describe_range(f, range, sizeof range);
    if (f->kind != FIELD_ENUM) {
        snprintf(out, size, "%s%s", names[f->kind], range);
        return;
    }
    size_t n = (size_t)snprintf(out, size, "one of ");
    for (const char *p = f->choices; *p && n + 3 < size; p++) {
        if (*p == '|') out[n++] = ',';
        out[n++] = *p == '|' ? ' ' : *p;
    }
    out[n < size ? n : size - 1] = '\0';
}
