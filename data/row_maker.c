/* row_maker.c: see row_maker.h. */
#include "data/row_maker.h"
#include "data/row_field.h"

#include <string.h>

/* ---- what kind of dataset ---- */

status dataset_token_names(const dataset_options *o, token_names *out) {
    *out = (token_names){o->tokenizer, -1, -1};
    if (!o->tokenizer) return STATUS_OK;
    out->bos =
        o->bos_token ? tokenizer_id(o->tokenizer, o->bos_token) : tokenizer_bos(o->tokenizer);
    out->eos =
        o->eos_token ? tokenizer_id(o->tokenizer, o->eos_token) : tokenizer_eos(o->tokenizer);
    if (o->bos_token && out->bos < 0)
        return status_fail(STATUS_USAGE,
                           "special_tokens: bos_token `%s` is no token of this model",
                           o->bos_token);
    if (o->eos_token && out->eos < 0)
        return status_fail(STATUS_USAGE,
                           "special_tokens: eos_token `%s` is no token of this model",
                           o->eos_token);
    return STATUS_OK;
}

status source_kind_of(const char *type, source_kind *out) {
    static const struct {
        const char *type;
        source_kind kind;
    } kinds[] = {{"", KIND_TOKENIZED},         {"completion", KIND_COMPLETION},
                 {"text", KIND_COMPLETION},    {"pretrain", KIND_COMPLETION},
                 {"chat_template", KIND_CHAT}, {"sharegpt", KIND_CHAT},
                 {"chat", KIND_CHAT},          {"input_output", KIND_SEGMENTS}};
    if (!type) type = "";
    *out = KIND_PROMPT;
    if (prompt_is_type(type)) return STATUS_OK;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].type, type)) {
            *out = kinds[i].kind;
            return STATUS_OK;
        }
    return status_fail(STATUS_USAGE,
                       "\"%.60s\" does not exist here; there are chat_template, alpaca, "
                       "completion, input_output, an empty type for rows with input_ids, and "
                       "formats of one's own (type: with field_instruction, format ...)",
                       type);
}

status source_format(const char *ds_type, record_format *out) {
    static const struct {
        const char *name;
        record_format format;
    } names[] = {
        {"json", RECORD_JSON},      {"text", RECORD_LINES}, {"paragraphs", RECORD_PARAGRAPHS},
        {"document", RECORD_WHOLE}, {"csv", RECORD_CSV},    {"parquet", RECORD_PARQUET}};
    *out = RECORD_AUTO;
    if (!ds_type) return STATUS_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i].name, ds_type)) {
            *out = names[i].format;
            return STATUS_OK;
        }
    return status_fail(STATUS_USAGE,
                       "\"%.60s\" is not read here; there are json, parquet, csv, text (a "
                       "row a line), paragraphs and document",
                       ds_type);
}

static status open_chat(row_maker *m) {
    const dataset_source *s = m->source;
    const dataset_options *o = m->options;
    bool own = s->chat_template || s->chat_template_jinja; /* the dataset says which */
    template_choice c = {.name = own ? s->chat_template : o->chat_template,
                         .text = s->chat_template_jinja ? s->chat_template_jinja
                                                        : o->chat_template_jinja,
                         .variables = o->chat_template_kwargs,
                         .own = tokenizer_chat_template(o->tokenizer),
                         .today = o->today};
    TRY(chat_template_choose(&m->template, &c, &m->names));
    m->chat = s->chat;
    m->chat.train_on_inputs = o->train_on_inputs;
    m->chat.whole = chat_template_interprets(m->template);
    int32_t end = chat_template_end(m->template);
    m->chat.ends = end < 0 || end == m->names.eos ? s->train_on_eos : s->train_on_eot;
    return STATUS_OK;
}

void row_maker_close(row_maker *m) {
    prompt_close(m->prompt);
    chat_template_close(m->template);
}

static status maker_open_parts(row_maker *m) {
    const char *type = m->source->custom_prompt ? NULL : m->source->type;
    m->kind = KIND_PROMPT;
    if (!m->source->custom_prompt) TRY(source_kind_of(type, &m->kind));
    if (m->kind != KIND_TOKENIZED && !m->options->tokenizer)
        return status_fail(STATUS_INTERNAL, "a dataset of text needs a tokenizer");
    TRY(dataset_token_names(m->options, &m->names));
    if (m->kind == KIND_PROMPT)
        return prompt_open(&m->prompt, type, &m->source->prompt, &m->names);
    return m->kind == KIND_CHAT ? open_chat(m) : STATUS_OK;
}

status row_maker_open(row_maker *m, const dataset_source *source, const dataset_options *o) {
    *m = (row_maker){.source = source, .options = o};
    status s = maker_open_parts(m);
    if (s != STATUS_OK) {
        row_maker_close(m);
        status_prefix(s, "%s", source->path);
    }
    return s;
}

/* ---- one row ---- */

static status read_ids(const json_t *list, const char *key, int32_t limit, bool labels,
                       id_list *out) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        json_int_t id = json_integer_value(v);
        bool fits =
            json_is_integer(v) && ((labels && id == LABEL_IGNORED) || (id >= 0 && id < limit));
        if (!fits && json_is_integer(v) && id >= 0 && limit < INT32_MAX)
            return status_fail(STATUS_DATA,
                               "\"%s\"[%zu] is %lld, the model's vocabulary has %d "
                               "tokens: was it made with another tokenizer?",
                               key, i, (long long)id, limit);
        if (!fits) return status_fail(STATUS_DATA, "\"%s\"[%zu] is no token id", key, i);
        int32_t small = (int32_t)id;
        TRY(id_list_append(out, &small, 1));
    }
    return STATUS_OK;
}

static status make_tokenized(const row_maker *m, const json_t *row, span_builder *b) {
    int32_t limit = m->options->vocabulary ? m->options->vocabulary : INT32_MAX;
    const json_t *ids = json_object_get(row, "input_ids"),
                 *labels = json_object_get(row, "labels");
    if (!json_is_array(ids))
        return status_fail(STATUS_DATA,
                           "\"input_ids\" must be a list, it is %s (a dataset without "
                           "`type:` has tokenized rows)",
                           json_type_name(ids));
    if (labels && !json_is_null(labels) && json_array_size(labels) != json_array_size(ids))
        return status_fail(STATUS_DATA,
                           "\"labels\" must be a list of %zu ids as input_ids, it is "
                           "%s of %zu",
                           json_array_size(ids), json_type_name(labels),
                           json_array_size(labels));
    TRY(read_ids(ids, "input_ids", limit, false, &b->ids));
    if (json_is_array(labels)) return read_ids(labels, "labels", limit, true, &b->labels);
    return id_list_append(&b->labels, b->ids.items, b->ids.count);
}

static status make_segments(const row_maker *m, const json_t *row, span_builder *b) {
    const json_t *list = json_object_get(row, "segments");
    if (!json_is_array(list))
        return status_fail(STATUS_DATA, "\"segments\" must be a list, it is %s",
                           json_type_name(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *s = json_array_get(list, i), *text = json_object_get(s, "text");
        const json_t *label = json_object_get(s, "label");
        if (!json_is_string(text) || !json_is_boolean(label))
            return status_fail(STATUS_DATA,
                               "segment %zu must have a \"text\" and a \"label\" that is "
                               "true or false",
                               i + 1);
        size_t before = b->ids.count;
        TRY(tokenizer_encode(m->names.tokenizer, json_string_value(text),
                             json_string_length(text), 0, &b->ids));
        bool learn = json_is_true(label) || m->options->train_on_inputs;
        for (; before < b->ids.count; before++) {
            int32_t id = learn ? b->ids.items[before] : LABEL_IGNORED;
            TRY(id_list_append(&b->labels, &id, 1));
        }
    }
    return STATUS_OK;
}

static status make_completion(const row_maker *m, const json_t *row, span_builder *b) {
    const char *field = m->source->field ? m->source->field : "text";
    const json_t *v = row_field(row, field);
    if (!json_is_string(v))
        return status_fail(STATUS_DATA, "\"%s\" must be a string, it is %s", field,
                           json_type_name(v));
    return prompt_render_text(json_string_value(v), json_string_length(v), b);
}

static status make_chat(const row_maker *m, const json_t *row, row_encoder *e) {
    if (conversation_has_tools(row, &m->chat) && chat_template_refuses_tools(m->template))
        return status_fail(
            STATUS_DATA,
            "the row has tools, which the built-in template %s does not render; "
            "the model's own may (chat_template: tokenizer_default)",
            chat_template_name(m->template));
    TRY(conversation_read(&e->messages, row, &m->chat));
    TRY(chat_template_render(m->template, &e->messages, false, &e->chat, &e->spans));
    return spans_finish(&e->spans);
}

static status make_object(const row_maker *m, const json_t *row, row_encoder *e) {
    if (!json_is_object(row))
        return status_fail(STATUS_DATA, "a row must be an object, it is %s",
                           json_type_name(row));
    switch (m->kind) {
    case KIND_TOKENIZED:
        return make_tokenized(m, row, &e->spans);
    case KIND_COMPLETION:
        return make_completion(m, row, &e->spans);
    case KIND_PROMPT:
        return prompt_render(m->prompt, row, m->options->train_on_inputs, &e->spans);
    case KIND_CHAT:
        return make_chat(m, row, e);
    case KIND_SEGMENTS:
        return make_segments(m, row, &e->spans);
    }
    return STATUS_INTERNAL;
}

status row_maker_make(const row_maker *m, const char *path, const data_record *r,
                      row_encoder *e) {
    spans_reset(&e->spans);
    status s;
    if (m->text_rows) {
        s = prompt_render_text(r->text, r->bytes, &e->spans);
    } else {
        json_t *row;
        TRY(record_parse(path, r, &row));
        s = make_object(m, row, e);
        json_decref(row);
    }
    return s == STATUS_OK ? s : status_prefix(s, "%s:%lld", path, (long long)r->line);
}

void row_encoder_free(row_encoder *e) {
    spans_free(&e->spans);
    conversation_free(&e->messages);
    chat_work_free(&e->chat);
}
