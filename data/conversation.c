/* conversation.c: see conversation.h. */
#include "data/conversation.h"
#include "data/row_field.h"
#include "common/alloc.h"

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
    const char *more =
        json_is_array(value) ? " (parts of several kinds are not supported)" : "";
    return status_fail(STATUS_DATA, "message %zu: \"%s\" must be a string, it is %s%s", number,
                       key, json_type_name(value), more);
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
    const json_t *role = row_field(m, role_key),
                 *content = row_field(m, content_key);
    if (is_something(json_object_get(m, "tool_calls")))
        return status_fail(STATUS_DATA,
                           "message %zu has tool_calls, which are not supported yet", number);
    if (!json_is_string(role) || strlen(json_string_value(role)) != json_string_length(role))
        return wrong(number, role_key, role);
    if (!json_is_string(content)) return wrong(number, content_key, content);
    TRY(add(c, map_role(json_string_value(role), f), content, f));
    chat_message *out = &c->items[c->count - 1];
    out->thinking =
        json_string_value(json_object_get(m, or_else(f->thinking, "reasoning_content")));
    const json_t *training = f->training ? json_object_get(m, f->training) : NULL;
    if (training && !json_is_null(training)) {
        if (!json_is_boolean(training))
            return status_fail(STATUS_DATA,
                               "message %zu: \"%s\" must be true or false, it is %s", number,
                               f->training, json_type_name(training));
        out->learn = json_is_true(training);
    }
    return STATUS_OK;
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

status conversation_read(conversation *out, const json_t *row, const chat_fields *f) {
    const json_t *list, *system = json_object_get(row, or_else(f->system, "system"));
    out->count = 0;
    TRY(find_list(row, f, &list));
    for (size_t i = 0; i < json_array_size(list); i++)
        TRY(add_message(out, json_array_get(list, i), i + 1, f));
    if (json_is_string(system) && strcmp(out->items[0].role, "system") != 0) {
        TRY(add(out, "system", system, f));
        chat_message first = out->items[out->count - 1];
        memmove(out->items + 1, out->items, (out->count - 1) * sizeof *out->items);
        out->items[0] = first;
    }
    if (f->drop_system_message && !strcmp(out->items[0].role, "system")) {
        memmove(out->items, out->items + 1, --out->count * sizeof *out->items);
        if (!out->count) return status_fail(STATUS_DATA, "there is only a system message");
    }
    mark_ends(out, f->ends);
    return STATUS_OK;
}

void conversation_free(conversation *c) {
    mem_free(c->items);
    memset(c, 0, sizeof *c);
}
