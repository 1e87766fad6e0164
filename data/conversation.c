/* conversation.c: see conversation.h. */
#include "data/conversation.h"
#include "common/alloc.h"
#include "data/conversation_data.h"
#include "data/row_field.h"
#include "data/unicode.h"

#include <string.h>

static const char *or_else(const char *name, const char *usual) {
    return name ? name : usual;
}

static const char *map_role(const char *name, const chat_fields *f) {
    static const char *const user[] = {"human", "user"}, *const assistant[] = {"gpt",
                                                                               "assistant"};
    static const role_names usual[] = {{"user", user, 2}, {"assistant", assistant, 2}};
    const role_names *roles = f->role_count ? f->roles : usual;
    size_t count = f->role_count ? f->role_count : 2;
    for (size_t r = 0; r < count; r++)
        for (size_t i = 0; i < roles[r].count; i++)
            if (!strcmp(roles[r].names[i], name)) return roles[r].role;
    return name;
}

static bool is_trained(const char *role, const chat_fields *f) {
    if (f->train_on_inputs) return true;
    if (!f->train_count) return !strcmp(role, "assistant");
    for (size_t i = 0; i < f->train_count; i++)
        if (!strcmp(map_role(f->roles_to_train[i], f), role)) return true;
    return false;
}

static bool is_something(const json_t *v) {
    return v && !json_is_null(v) && !(json_is_array(v) && !json_array_size(v));
}

bool conversation_has_tools(const json_t *row, const chat_fields *f) {
    return is_something(json_object_get(row, or_else(f->tools, "tools")));
}

static status add(conversation *c, const char *role, const json_t *content,
                  const chat_fields *f) {
    if (mem_grow(&c->items, &c->capacity, c->count + 1, sizeof *c->items, "a conversation"))
        return STATUS_MEMORY;
    c->items[c->count++] = (chat_message){.role = role,
                                          .content = json_string_value(content),
                                          .bytes = json_string_length(content),
                                          .learn = is_trained(role, f)};
    return STATUS_OK;
}

static status wrong(size_t number, const char *key, const json_t *value) {
    const char *more = json_is_array(value)
                           ? " (parts of several kinds are for the model's own template)"
                           : "";
    return status_fail(STATUS_DATA, "message %zu: \"%s\" must be a string, it is %s%s", number,
                       key, json_type_name(value), more);
}

/* ---- what is learned of a message ---- */

/* Bytes of the text before character `chars`, at most all. */
static size_t bytes_before(const chat_message *m, json_int_t chars) {
    size_t at = 0;
    for (; chars > 0 && at < m->bytes; chars--)
        at += utf8_length((unsigned char)m->content[at]);
    return at < m->bytes ? at : m->bytes;
}

static status read_detail(conversation *c, chat_message *m, const json_t *list, size_t number,
                          const char *key) {
    m->left_out = c->range_count;
    if (!list || json_is_null(list)) return STATUS_OK;
    if (!json_is_array(list) || !m->content)
        return status_fail(STATUS_DATA,
                           "message %zu: \"%s\" must be a list of {begin_offset, end_offset, "
                           "train} of a content that is a text",
                           number, key);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *d = json_array_get(list, i), *from = json_object_get(d, "begin_offset"),
                     *to = json_object_get(d, "end_offset"),
                     *train = json_object_get(d, "train");
        if (!json_is_integer(from) || !json_is_integer(to) || !json_is_boolean(train) ||
            json_integer_value(from) < 0 || json_integer_value(to) < json_integer_value(from))
            return status_fail(STATUS_DATA,
                               "message %zu: \"%s\"[%zu] must have begin_offset <= end_offset "
                               "(integers from 0) and train (true or false)",
                               number, key, i);
        if (json_is_true(train)) continue;
        if (mem_grow(&c->ranges, &c->range_capacity, c->range_count + 1, sizeof *c->ranges,
                     "a conversation"))
            return STATUS_MEMORY;
        c->ranges[c->range_count++] =
            (byte_range){bytes_before(m, json_integer_value(from)),
                         bytes_before(m, json_integer_value(to) + 1)};
        m->left_out_count++;
    }
    return STATUS_OK;
}

static status read_training(conversation *c, const json_t *m, size_t number,
                            const chat_fields *f) {
    chat_message *out = &c->items[c->count - 1];
    const json_t *training = f->training ? json_object_get(m, f->training) : NULL;
    if (training && !json_is_null(training)) {
        if (!json_is_boolean(training))
            return status_fail(STATUS_DATA,
                               "message %zu: \"%s\" must be true or false, it is %s", number,
                               f->training, json_type_name(training));
        out->learn = json_is_true(training);
    }
    if (!f->detail) return STATUS_OK;
    return read_detail(c, out, json_object_get(m, f->detail), number, f->detail);
}

/* Message `number` (from 1) of the row's list. */
static status add_message(conversation *c, const json_t *m, size_t number,
                          const chat_fields *f) {
    if (!json_is_object(m))
        return status_fail(STATUS_DATA, "message %zu must be an object, it is %s", number,
                           json_type_name(m));
    bool sharegpt = !f->role && !json_object_get(m, "role") && json_object_get(m, "from");
    const char *role_key = or_else(f->role, sharegpt ? "from" : "role");
    const char *content_key = or_else(f->content, sharegpt ? "value" : "content");
    const json_t *role = row_field(m, role_key), *content = row_field(m, content_key);
    bool calls = is_something(json_object_get(m, "tool_calls"));
    if (calls && !f->whole)
        return status_fail(STATUS_DATA,
                           "message %zu has tool_calls, which this built-in template does not "
                           "render; the model's own may (chat_template: tokenizer_default)",
                           number);
    if (!json_is_string(role) || strlen(json_string_value(role)) != json_string_length(role))
        return wrong(number, role_key, role);
    bool whole = f->whole && (calls || json_is_array(content) || json_is_object(content));
    if (!json_is_string(content) && !whole) return wrong(number, content_key, content);
    const char *name = map_role(json_string_value(role), f);
    TRY(add(c, name, content, f));
    const char *thinking = or_else(f->thinking, "reasoning_content");
    c->items[c->count - 1].thinking = json_string_value(json_object_get(m, thinking));
    TRY(read_training(c, m, number, f));
    if (!f->whole) return STATUS_OK;
    message_keys keys = {role_key,      content_key,
                         thinking,      or_else(f->thinking_name, "reasoning_content"),
                         f->properties, f->property_count};
    return conversation_put_message(&c->data, m, name, &keys, number);
}

static status find_list(const json_t *row, const chat_fields *f, const json_t **out) {
    const char *key = or_else(f->messages, "messages");
    *out = row_field(row, key);
    if (!f->messages && !json_is_array(*out) &&
        json_is_array(json_object_get(row, "conversations")))
        *out = json_object_get(row, "conversations");
    if (!json_is_array(*out))
        return status_fail(STATUS_DATA, "\"%s\" must be a list of messages, it is %s%s", key,
                           json_type_name(*out), *out ? "" : " (see field_messages)");
    if (!json_array_size(*out)) return status_fail(STATUS_DATA, "\"%s\" has no message", key);
    return STATUS_OK;
}

static void mark_ends(conversation *c, learn_ends ends) {
    chat_message *last = NULL;
    for (chat_message *m = c->items; m < c->items + c->count; m++) {
        m->learn_end = ends == ENDS_ALL || (ends == ENDS_TURN && m->learn);
        if (m->learn) last = m;
    }
    if (ends == ENDS_LAST && last) last->learn_end = true;
}

/* A system message beside the list goes first. */
static status add_system(conversation *c, const json_t *system, const chat_fields *f) {
    TRY(add(c, "system", system, f));
    return f->whole ? conversation_put_system(&c->data, system) : STATUS_OK;
}

static status drop_system(conversation *c) {
    memmove(c->items, c->items + 1, --c->count * sizeof *c->items);
    if (c->data) json_array_remove(json_object_get(c->data, "messages"), 0);
    return c->count ? STATUS_OK : status_fail(STATUS_DATA, "there is only a system message");
}

static bool begins_with_system(const json_t *list, const chat_fields *f) {
    const json_t *first = json_array_get(list, 0);
    const char *key = f->role                          ? f->role
                      : json_object_get(first, "role") ? "role"
                                                       : "from",
               *role = json_string_value(json_object_get(first, key));
    return role && !strcmp(map_role(role, f), "system");
}

status conversation_read(conversation *out, const json_t *row, const chat_fields *f) {
    const json_t *list, *system = json_object_get(row, or_else(f->system, "system"));
    const char *tools = or_else(f->tools, "tools");
    out->count = out->range_count = 0;
    json_decref(out->data);
    out->data = NULL;
    TRY(find_list(row, f, &list));
    if (f->whole) TRY(conversation_put_tools(&out->data, json_object_get(row, tools), tools));
    if (json_is_string(system) && !begins_with_system(list, f))
        TRY(add_system(out, system, f));
    for (size_t i = 0; i < json_array_size(list); i++)
        TRY(add_message(out, json_array_get(list, i), i + 1, f));
    if (f->drop_system_message && !strcmp(out->items[0].role, "system")) TRY(drop_system(out));
    mark_ends(out, f->ends);
    return STATUS_OK;
}

void conversation_free(conversation *c) {
    mem_free(c->items);
    mem_free(c->ranges);
    json_decref(c->data);
    memset(c, 0, sizeof *c);
}
