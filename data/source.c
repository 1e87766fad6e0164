/* source.c: see source.h. */
#include "data/source.h"
#include "common/alloc.h"
#include "data/files.h"
#include "data/row_maker.h"
#include "data/row_stream.h"

#include <string.h>

status source_read(const dataset_source *source, const dataset_options *options, row_set *out,
                   dataset_report *report) {
    row_stream *s;
    bool ended;
    TRY(row_stream_open(&s, source, options));
    status e = row_stream_read(s, INT64_MAX, false, out, report, &ended);
    row_stream_close(s);
    return e;
}

const char *source_format_name(const dataset_source *source) {
    bool named = !source->ds_type && files_is_format(source->path);
    return named ? source->path : source->ds_type;
}

/* ---- identity ---- */

static void take(hash_stream *h, const char *key, const char *value) {
    hash_update(h, key, strlen(key) + 1);
    hash_update(h, value ? value : "\xff", value ? strlen(value) + 1 : 1);
}

static void take_number(hash_stream *h, const char *key, int64_t value) {
    hash_update(h, key, strlen(key) + 1);
    hash_update(h, &value, sizeof value);
}

static void take_chat(hash_stream *h, const chat_fields *c) {
    take(h, "messages", c->messages);
    take(h, "role", c->role);
    take(h, "content", c->content);
    take(h, "thinking", c->thinking);
    take(h, "system", c->system);
    take(h, "tools", c->tools);
    take(h, "training", c->training);
    take(h, "detail", c->detail);
    take(h, "thinking_name", c->thinking_name);
    for (size_t i = 0; i < c->property_count; i++) {
        take(h, "property", c->properties[i].name);
        take(h, "key", c->properties[i].key);
    }
    for (size_t r = 0; r < c->role_count; r++) {
        take(h, "role_name", c->roles[r].role);
        for (size_t i = 0; i < c->roles[r].count; i++) take(h, "means", c->roles[r].names[i]);
    }
    for (size_t i = 0; i < c->train_count; i++) take(h, "train", c->roles_to_train[i]);
    take_number(h, "drop_system_message", c->drop_system_message);
}

static void take_prompt(hash_stream *h, const prompt_format *p) {
    take(h, "field_instruction", p->field_instruction);
    take(h, "field_input", p->field_input);
    take(h, "field_output", p->field_output);
    take(h, "field_system", p->field_system);
    take(h, "format", p->format);
    take(h, "no_input_format", p->no_input_format);
    take(h, "system_format", p->system_format);
    take(h, "system_prompt", p->system_prompt);
    take(h, "system_no_input", p->system_no_input);
}

/* A file's name from its first dot on: what says its format, as in rows.csv.gz. */
static const char *endings_of(const char *path) {
    const char *slash = strrchr(path, '/'), *dot = strchr(slash ? slash : path, '.');
    return dot ? dot : "";
}

status source_identify(const dataset_source *s, const dataset_options *o, hash_stream *h) {
    row_maker m;
    TRY(row_maker_open(&m, s, o));
    status t = m.template ? chat_template_identify(m.template, h) : STATUS_OK;
    take(h, "date", m.template ? chat_template_date(m.template) : NULL);
    take_number(h, "ends", m.chat.ends);
    row_maker_close(&m);
    TRY(t);
    take(h, "type", s->type);
    take_number(h, "custom_prompt", s->custom_prompt);
    take_prompt(h, &s->prompt);
    take(h, "split", s->split);
    take(h, "ds_type", source_format_name(s));
    take(h, "field", s->field);
    take_chat(h, &s->chat);
    take_number(h, "shards", s->shards);
    take_number(h, "shard", s->shard);
    file_names files = {0};
    status e = files_find(&files, s->path, s->name, s->files, s->file_count, s->split);
    for (size_t f = 0; e == STATUS_OK && f < files.count; f++) {
        take(h, "endings", endings_of(files.items[f]));
        e = files_hash(files.items[f], h);
    }
    files_free(&files);
    return e;
}
