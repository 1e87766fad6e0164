/* conversation_data.c: see conversation_data.h. */
#include "data/conversation_data.h"
#include "data/row_field.h"

#include <string.h>

/* A value that could not be made. */
static status out_of_memory(const json_t *made) {
    return made ? STATUS_OK : status_fail(STATUS_MEMORY, "out of memory for a conversation");
}

/* The value that a text holds as JSON. */
static status parse(const json_t *text, const char *what, size_t number, json_t **out) {
    json_error_t e;
    TRY(json_parse(json_string_value(text), json_string_length(text),
                   JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &e, out));
    if (*out) return STATUS_OK;
    return status_fail(STATUS_DATA, "%s %zu is a text that is no JSON: %s", what, number,
                       e.text);
}

/* ---- tools ---- */

/* function.KEY of each item, where it is a text, parsed: *list becomes a copy then. */
static status parse_inside(json_t **list, const char *key, const char *what, size_t number) {
    bool copied = false;
    for (size_t i = 0; i < json_array_size(*list); i++) {
        json_t *function = json_object_get(json_array_get(*list, i), "function"), *parsed;
        if (!json_is_string(json_object_get(function, key))) continue;
        if (!copied) {
            json_t *copy = json_clone(*list);
            json_decref(*list);
            *list = copy;
            TRY(out_of_memory(copy));
            function = json_object_get(json_array_get(copy, i), "function");
            copied = true;
        }
        TRY(parse(json_object_get(function, key), what, number ? number : i + 1, &parsed));
        if (json_object_set_new(function, key, parsed)) return out_of_memory(NULL);
    }
    return STATUS_OK;
}

static status read_tools(const json_t *tools, const char *key, json_t **out) {
    *out = NULL;
    if (!tools || json_is_null(tools)) {
        *out = json_null();
        return STATUS_OK;
    }
    if (json_is_string(tools) && !json_string_length(tools)) {
        *out = json_null();
        return STATUS_OK;
    }
    if (json_is_string(tools))
        TRY(parse(tools, "the list of tools, number", 1, out));
    else
        *out = json_incref((json_t *)tools);
    if (json_is_null(*out)) return STATUS_OK;
    if (!json_is_array(*out))
        return status_fail(STATUS_DATA, "\"%s\" must be a list of tools, it is %s", key,
                           json_type_name(*out));
    return parse_inside(out, "parameters", "the parameters of tool", 0);
}

status conversation_put_tools(json_t **data, const json_t *tools, const char *key) {
    json_t *list;
    status s = read_tools(tools, key, &list);
    if (s != STATUS_OK) {
        json_decref(list);
        return s;
    }
    *data = json_object();
    json_put(data, "messages", json_array());
    json_put(data, "tools", list);
    return out_of_memory(*data);
}

/* ---- messages ---- */

/* What is null is as if it were not there, but for content. */
static status put_value(json_t **out, const char *name, json_t *value, size_t number) {
    if (!strcmp(name, "tool_calls") && json_is_array(value)) {
        json_incref(value);
        status s = parse_inside(&value, "arguments", "the arguments of a tool call of message",
                                number);
        if (s != STATUS_OK) {
            json_decref(value);
            return s;
        }
        json_put(out, name, value);
    } else if (!json_is_null(value) || !strcmp(name, "content")) {
        json_put(out, name, json_incref(value));
    }
    return out_of_memory(*out);
}

static bool is_renamed(const message_keys *k, const char *key) {
    if (!strcmp(key, k->role) || !strcmp(key, k->content) || !strcmp(key, k->thinking))
        return true;
    for (size_t i = 0; i < k->property_count; i++)
        if (!strcmp(key, k->properties[i].key)) return true;
    return false;
}

static status put_renamed(json_t **out, const json_t *message, const message_keys *k,
                          size_t number) {
    json_t *value = row_field(message, k->content);
    if (value) TRY(put_value(out, "content", value, number));
    value = row_field(message, k->thinking);
    if (value) TRY(put_value(out, k->thinking_name, value, number));
    for (size_t i = 0; i < k->property_count; i++) {
        const property *p = &k->properties[i];
        value = row_field(message, p->key);
        bool done = !strcmp(p->name, "role") || !strcmp(p->name, "content") ||
                    !strcmp(p->name, "reasoning_content");
        if (value && !done) TRY(put_value(out, p->name, value, number));
    }
    return STATUS_OK;
}

static status fill_message(json_t **out, const json_t *message, const char *role,
                           const message_keys *k, size_t number) {
    const char *key;
    json_t *value;
    json_put(out, "role", json_string(role));
    TRY(out_of_memory(*out));
    TRY(put_renamed(out, message, k, number));
    json_object_foreach((json_t *)message, key,
                        value) if (!is_renamed(k, key) && !json_object_get(*out, key))
        TRY(put_value(out, key, value, number));
    return STATUS_OK;
}

static status append(json_t **data, json_t *message) {
    json_t *list = json_object_get(*data, "messages");
    if (list && message && !json_array_append_new(list, message)) return STATUS_OK;
    return status_fail(STATUS_MEMORY, "out of memory for a conversation");
}

status conversation_put_message(json_t **data, const json_t *message, const char *role,
                                const message_keys *keys, size_t number) {
    json_t *made = json_object();
    TRY(out_of_memory(made));
    status s = fill_message(&made, message, role, keys, number);
    if (s == STATUS_OK) return append(data, made);
    json_decref(made);
    return s;
}

status conversation_put_system(json_t **data, const json_t *content) {
    json_t *made = json_object();
    json_put(&made, "role", json_string("system"));
    json_put(&made, "content", json_incref((json_t *)content));
    return append(data, made);
}
