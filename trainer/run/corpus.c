/* corpus.c: see corpus.h. */
#include "trainer/run/corpus.h"
#include "common/alloc.h"
#include "common/hash.h"
#include "common/json.h"
#include "common/log.h"
#include "common/philox.h"
#include "data/records.h"
#include "data/template.h"
#include "trainer/model/synthetic.h"
#include "trainer/run/signals.h"

#include <string.h>

static const learn_ends ends_of[] = {[TRAIN_ON_AUTO] = ENDS_TURN,
                                     [TRAIN_ON_ALL] = ENDS_ALL,
                                     [TRAIN_ON_TURN] = ENDS_TURN,
                                     [TRAIN_ON_LAST] = ENDS_LAST,
                                     [TRAIN_ON_NONE] = ENDS_NONE};
static const long_rows long_of[] = {
    [EXCESS_TRUNCATE] = LONG_TRUNCATE, [EXCESS_DROP] = LONG_DROP, [EXCESS_RAISE] = LONG_FAIL};

/* The row's name of a template's property: message_property_mappings. */
static const char *mapped(const dataset_config *d, const char *property) {
    for (size_t i = 0; i < d->message_property_mappings.count; i++)
        if (!strcmp(d->message_property_mappings.items[i].key, property))
            return d->message_property_mappings.items[i].value;
    return NULL;
}

static void source_of(const dataset_config *d, dataset_source *s, role_names *roles,
                      property *properties) {
    const dataset_prompt *p = &d->prompt;
    *s = (dataset_source){.path = d->path,
                          .name = d->name,
                          .files = (const char *const *)d->data_files.items,
                          .file_count = d->data_files.count,
                          .type = d->type,
                          .custom_prompt = d->type_is_mapping,
                          .split = d->split,
                          .ds_type = d->ds_type,
                          .field = d->field,
                          .train_on_eos = ends_of[d->train_on_eos],
                          .train_on_eot = ends_of[d->train_on_eot],
                          .chat_template = d->chat_template,
                          .chat_template_jinja = d->chat_template_jinja,
                          .shards = d->shards == CONFIG_NOT_SET ? 0 : d->shards,
                          .shard = d->shards_idx == CONFIG_NOT_SET ? 0 : d->shards_idx};
    s->prompt = (prompt_format){.field_instruction = p->field_instruction,
                                .field_input = p->field_input,
                                .field_output = p->field_output,
                                .field_system = p->field_system,
                                .format = p->format,
                                .no_input_format = p->no_input_format,
                                .system_format = p->system_format,
                                .system_prompt = p->system_prompt};
    for (size_t i = 0; i < d->roles.count; i++)
        roles[i] = (role_names){d->roles.items[i].key,
                                (const char *const *)d->roles.items[i].values.items,
                                d->roles.items[i].values.count};
    for (size_t i = 0; i < d->message_property_mappings.count; i++)
        properties[i] = (property){d->message_property_mappings.items[i].key,
                                   d->message_property_mappings.items[i].value};
    s->chat = (chat_fields){.messages = d->field_messages,
                            .role = mapped(d, "role"),
                            .content = mapped(d, "content"),
                            .thinking = mapped(d, "reasoning_content"),
                            .thinking_name = d->template_thinking_key,
                            .tools = d->field_tools,
                            .training = d->message_field_training,
                            .detail = d->message_field_training_detail,
                            .properties = properties,
                            .property_count = d->message_property_mappings.count,
                            .roles = roles,
                            .role_count = d->roles.count,
                            .roles_to_train = (const char *const *)d->roles_to_train.items,
                            .train_count = d->roles_to_train.count,
                            .drop_system_message = d->drop_system_message};
}

static void source_list_free(source_list *l) {
    mem_free(l->sources);
    mem_free(l->roles);
    mem_free(l->properties);
    *l = (source_list){.sources = NULL};
}

/* The list as data/ wants it, to be freed also after a failure. */
static status sources_of(const dataset_list *list, source_list *out) {
    size_t most = 1, named = 1, used = 0, given = 0;
    for (size_t i = 0; i < list->count; i++) {
        most += list->items[i].roles.count;
        named += list->items[i].message_property_mappings.count;
    }
    out->sources = mem_alloc_array(list->count + 1, sizeof *out->sources, "datasets");
    out->roles = mem_alloc_array(most, sizeof *out->roles, "datasets");
    out->properties = mem_alloc_array(named, sizeof *out->properties, "datasets");
    if (!out->sources || !out->roles || !out->properties) return STATUS_MEMORY;
    for (size_t i = 0; i < list->count; i++) {
        source_of(&list->items[i], &out->sources[i], out->roles + used,
                  out->properties + given);
        used += list->items[i].roles.count;
        given += list->items[i].message_property_mappings.count;
    }
    return STATUS_OK;
}

static status open_list(dataset *out, const dataset_list *list, const dataset_options *o) {
    source_list l = {.sources = NULL};
    status s = sources_of(list, &l);
    if (s == STATUS_OK) s = dataset_open(out, l.sources, list->count, o);
    source_list_free(&l);
    return s;
}

/* Streaming: the first window is read now, for what must be known before the first step. */
static status open_stream(corpus *out, const config *c) {
    TRY(sources_of(&c->datasets, &out->streamed));
    TRY(row_stream_open(&out->stream, out->streamed.sources, &out->options));
    return dataset_open_first(&out->train, out->stream, c->streaming_multipack_buffer_size,
                              &out->options);
}

/* eot_tokens names tokens that end a turn. The templates here know theirs and learn them
 * (train_on_eot), so the key can only agree with the template; another token would silently
 * not be learned. */
static status check_eot_tokens(const config *c, const dataset_options *o) {
    if (!c->eot_tokens.count || !o->tokenizer) return STATUS_OK;
    token_names names;
    chat_template *t;
    TRY(dataset_token_names(o, &names));
    template_choice choice = {.name = c->chat_template,
                              .text = c->chat_template_jinja,
                              .variables = o->chat_template_kwargs,
                              .own = tokenizer_chat_template(o->tokenizer)};
    TRY(chat_template_choose(&t, &choice, &names));
    int32_t end = chat_template_end(t);
    bool agrees = false; /* further tokens never occur in what the template renders */
    status s = STATUS_OK;
    for (size_t i = 0; i < c->eot_tokens.count && s == STATUS_OK; i++) {
        int32_t id = tokenizer_id(o->tokenizer, c->eot_tokens.items[i]);
        if (id < 0)
            s = status_fail(STATUS_USAGE, "eot_tokens: the tokenizer has no token %s",
                            c->eot_tokens.items[i]);
        agrees |= id == end || id == names.eos;
    }
    if (s == STATUS_OK && !agrees)
        s = status_fail(
            STATUS_USAGE,
            "eot_tokens: %s does not end a turn of the chat template %s; leave the "
            "key out, or choose the template that ends turns with it",
            c->eot_tokens.items[0], chat_template_name(t));
    chat_template_close(t);
    return s;
}

/* ---- rows of a synthetic base ---- */

enum { SYNTHETIC_STEPS = 10 /* of an epoch, unless max_steps says how many there are */ };

static status synthetic_rows(dataset *out, const config *c, int32_t vocabulary) {
    int64_t steps = c->max_steps == CONFIG_NOT_SET ? SYNTHETIC_STEPS : c->max_steps;
    int64_t count = c->micro_batch_size * c->gradient_accumulation_steps *
                    (steps < SYNTHETIC_STEPS ? steps : SYNTHETIC_STEPS);
    int32_t *ids = mem_alloc_array((size_t)c->sequence_len, sizeof *ids, "random rows");
    status s = ids ? STATUS_OK : STATUS_MEMORY;
    for (int64_t row = 0; s == STATUS_OK && row < count; row++) {
        philox_stream random =
            philox_open((uint64_t)c->seed, PHILOX_SAMPLE, 0, 0, (uint64_t)row);
        for (int64_t i = 0; i < c->sequence_len; i++)
            ids[i] = (int32_t)(philox_word(&random, (uint64_t)i) % (uint32_t)vocabulary);
        s = row_set_append(&out->train, ids, NULL, c->sequence_len);
    }
    mem_free(ids);
    int64_t tokens = count * c->sequence_len;
    out->report = (dataset_report){.read = count,
                                   .kept = count,
                                   .tokens = tokens,
                                   .targets = tokens - count,
                                   .longest = c->sequence_len,
                                   .longest_seen = c->sequence_len,
                                   .template_end = -1};
    log_info("%s: a synthetic base: weights and rows are random, the configuration's datasets "
             "are not read",
             c->base_model);
    return s;
}

static status still_wanted(void) {
    return signals_check("preparing the data");
}

static status open_rows(corpus *out, const config *c, const tokenizer *tok,
                        const char *tokenizer_folder, int32_t vocabulary, const char *today) {
    dataset_options o = {.tokenizer = tok,
                         .tokenizer_folder = tokenizer_folder,
                         .bos_token = c->special_tokens.bos_token,
                         .eos_token = c->special_tokens.eos_token,
                         .vocabulary = vocabulary,
                         .chat_template = c->chat_template,
                         .chat_template_jinja = c->chat_template_jinja,
                         .chat_template_kwargs = out->template_variables,
                         .today = today,
                         .train_on_inputs = c->train_on_inputs,
                         .sequence_len = c->sequence_len,
                         .long_rows = long_of[c->excess_length_strategy],
                         .skip_bad_rows = c->on_bad_row == BAD_ROW_SKIP,
                         .deduplicate = c->dataset_exact_deduplication,
                         .shuffle = c->shuffle_merged_datasets && !c->curriculum_sampling,
                         .held_out = c->val_set_size,
                         .seed = (uint64_t)c->seed,
                         .go_on = still_wanted,
                         .prepared = c->dataset_prepared_path};
    out->options = o;
    TRY(check_eot_tokens(c, &o));
    TRY(c->streaming ? open_stream(out, c) : open_list(&out->train, &c->datasets, &o));
    if (!c->test_datasets.count) return STATUS_OK;
    o.held_out = 0;
    o.shuffle = false;
    o.keep_untargeted = false;
    status s = open_list(&out->test, &c->test_datasets, &o);
    out->has_test = s == STATUS_OK;
    if (s != STATUS_OK) {
        dataset_close(&out->train);
        return status_prefix(s, "test_datasets");
    }
    return STATUS_OK;
}

status corpus_open(corpus *out, const config *c, const tokenizer *tok,
                   const char *tokenizer_folder, int32_t vocabulary, const char *today) {
    memset(out, 0, sizeof *out);
    if (synthetic_is(c->base_model)) return synthetic_rows(&out->train, c, vocabulary);
    out->template_variables = config_template_variables(c);
    if (!out->template_variables) return status_fail(STATUS_MEMORY, "out of memory");
    status s = open_rows(out, c, tok, tokenizer_folder, vocabulary, today);
    if (s != STATUS_OK) {
        json_decref(out->template_variables);
        out->template_variables = NULL;
    }
    return s;
}

void corpus_close(corpus *c) {
    dataset_close(&c->train);
    dataset_close(&c->test);
    row_stream_close(c->stream);
    source_list_free(&c->streamed);
    json_decref(c->template_variables);
    memset(c, 0, sizeof *c);
}

const row_set *corpus_held_out(const corpus *c) {
    if (c->has_test) return &c->test.train;
    return c->train.held_out.count ? &c->train.held_out : NULL;
}

void corpus_warn_of_length(const corpus *c, int64_t positions) {
    if (c->train.report.longest > positions)
        log_warn("the longest row has %lld tokens, and the model has learned %lld positions "
                 "(max_position_embeddings): what lies beyond is guesswork to it; a smaller "
                 "sequence_len drops such rows",
                 (long long)c->train.report.longest, (long long)positions);
}

status corpus_identity(const corpus *c, char text[33]) {
    const row_set *rows = &c->train.train;
    hash128 parts[4] = {{0, 0}};
    int64_t bytes;
    int64_t n = rows->count ? rows->offsets[rows->count] : 0;
    parts[0] = hash_bytes(rows->ids, (size_t)n * sizeof *rows->ids);
    parts[1] = hash_bytes(rows->labels, (size_t)n * sizeof *rows->labels);
    parts[2] = hash_bytes(rows->offsets,
                          rows->count ? (size_t)(rows->count + 1) * sizeof *rows->offsets : 0);
    size_t count = 3;
    if (c->stream) {
        TRY(row_stream_bytes(c->stream, &bytes));
        parts[count++] = hash_bytes(&bytes, sizeof bytes);
    }
    hash_format(hash_bytes(parts, count * sizeof *parts), text);
    return STATUS_OK;
}

status corpus_open_feed(const corpus *c, const config *conf, feed **out) {
    loader_options o = corpus_train_options(conf);
    if (!c->stream) return feed_open(out, &c->train.train, &o);
    return feed_open_stream(out, c->stream, conf->streaming_multipack_buffer_size,
                            &c->train.train, &o);
}

loader_options corpus_train_options(const config *c) {
    return (loader_options){.sequence_len = c->sequence_len,
                            .micro_batch_size = (int)c->micro_batch_size,
                            .accumulation = (int)c->gradient_accumulation_steps,
                            .num_epochs = c->num_epochs,
                            .max_steps = c->max_steps == CONFIG_NOT_SET ? 0 : c->max_steps,
                            .packing = c->sample_packing,
                            .shuffle = !c->curriculum_sampling,
                            .group_by_length = c->group_by_length,
                            .sequential = c->sample_packing_sequentially,
                            .seed = (uint64_t)c->seed};
}

loader_options corpus_eval_options(const config *c) {
    return (loader_options){.sequence_len = c->sequence_len,
                            .micro_batch_size = (int)c->micro_batch_size,
                            .accumulation = 1,
                            .num_epochs = 1,
                            .packing = c->eval_sample_packing == SWITCH_ON,
                            .shuffle = false,
                            .drop_nothing = true,
                            .seed = (uint64_t)c->seed};
}

/* The first row of a file. */
static status read_first(const char *path, json_t **out) {
    record_reader *reader;
    data_record row;
    *out = NULL;
    TRY(records_open(&reader, path, RECORD_AUTO));
    status s = records_next(reader, &row);
    if (s == STATUS_OK && row.text) s = record_parse(path, &row, out);
    records_close(reader);
    return s;
}

status corpus_guess_type(const char *path, const char **type) {
    json_t *o;
    *type = "completion"; /* of a broken first row too: who reads the file for good tells */
    status s = read_first(path, &o);
    if (s == STATUS_MEMORY || s == STATUS_IO) return s;
    if (json_object_get(o, "input_ids"))
        *type = "";
    else if (json_object_get(o, "messages") || json_object_get(o, "conversations"))
        *type = "chat_template";
    else if (json_object_get(o, "instruction"))
        *type = "alpaca";
    else if (json_object_get(o, "segments"))
        *type = "input_output";
    json_decref(o);
    return STATUS_OK;
}
