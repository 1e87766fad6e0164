/* tokenizer_config.c: see tokenizer_config.h. */
#include "data/tokenizer_config.h"
#include "common/alloc.h"
#include "common/file.h"

#include <stdlib.h>
#include <string.h>

enum { LIMIT = 64 << 20 }; /* bytes of each file */

static const char where[] = "tokenizer_config.json";

static const char *const role_keys[ROLES] = {"bos_token", "eos_token", "pad_token",
                                             "unk_token"};

/* The file if it is there, else NULL. */
static status read_optional(const char *folder, const char *name, json_t **out) {
    *out = NULL;
    char *path = file_join(folder, name);
    if (!path) return STATUS_MEMORY;
    status s = file_exists(path) ? json_read_file(path, LIMIT, STATUS_MODEL, out) : STATUS_OK;
    if (s == STATUS_OK && *out && !json_is_object(*out))
        s = status_fail(STATUS_MODEL, "%s: must be an object, it is %s", path,
                        json_type_name(*out));
    mem_free(path);
    return s;
}

/* A token is a string or an object with "content". */
static const char *token_text(const json_t *value) {
    return json_string_value(json_is_object(value) ? json_object_get(value, "content")
                                                   : value);
}

/* "chat_template" is a text, or a list of {name, template} of which "default" is taken. */
static status read_template(tokenizer_config *c, const char *folder) {
    char *path = file_join(folder, "chat_template.jinja");
    if (!path) return STATUS_MEMORY;
    status s = STATUS_OK;
    size_t bytes;
    const json_t *value = json_object_get(c->config, "chat_template"), *item;
    if (file_exists(path)) {
        s = file_read_all(path, LIMIT, &c->chat_template, &bytes);
        if (s == STATUS_IO) s = STATUS_MODEL;
    } else {
        const char *text = json_string_value(value);
        size_t i;
        json_array_foreach(value, i, item) {
            const char *name = json_string_value(json_object_get(item, "name"));
            if (name && !strcmp(name, "default"))
                text = json_string_value(json_object_get(item, "template"));
        }
        if (text && !(c->chat_template = mem_strdup(text))) s = STATUS_MEMORY;
    }
    mem_free(path);
    return s;
}

status tokenizer_config_read(tokenizer_config *c, const char *folder) {
    memset(c, 0, sizeof *c);
    TRY(read_optional(folder, where, &c->config));
    TRY(read_optional(folder, "special_tokens_map.json", &c->map));
    for (int i = 0; i < ROLES; i++) {
        c->special[i] = token_text(json_object_get(c->config, role_keys[i]));
        if (!c->special[i]) c->special[i] = token_text(json_object_get(c->map, role_keys[i]));
    }
    return read_template(c, folder);
}

void tokenizer_config_free(tokenizer_config *c) {
    json_decref(c->config);
    json_decref(c->map);
    mem_free(c->chat_template);
}

static int compare_ids(const void *x, const void *y) {
    long a = strtol(*(const char *const *)x, NULL, 10),
         b = strtol(*(const char *const *)y, NULL, 10);
    return (a > b) - (a < b);
}

/* {"id": {content, flags}}, added in the order of the ids. */
static status add_decoder(const json_t *decoder, added_tokens *a) {
    size_t n = 0, count = json_object_size(decoder);
    const char **ids = mem_alloc_array(count, sizeof *ids, "added tokens"), *key;
    if (!ids) return STATUS_MEMORY;
    json_t *value;
    json_object_foreach((json_t *)decoder, key, value) ids[n++] = key;
    qsort(ids, n, sizeof *ids, compare_ids);
    status s = STATUS_OK;
    for (size_t i = 0; i < n && s == STATUS_OK; i++) {
        char *end;
        long id = strtol(ids[i], &end, 10);
        if (!*ids[i] || *end || id < 0 || id >= VOCABULARY_IDS)
            s = status_fail(STATUS_MODEL,
                            "%s: added_tokens_decoder: \"%.40s\" is no usable id", where,
                            ids[i]);
        else
            s = added_tokens_put(a, json_object_get(decoder, ids[i]), id, where);
    }
    mem_free(ids);
    return s;
}

static status add_special_list(const json_t *list, added_tokens *a) {
    const json_t *item;
    size_t i;
    json_array_foreach(list, i, item) {
        const char *text = token_text(item);
        if (text) TRY(added_tokens_put_special(a, text));
    }
    return STATUS_OK;
}

status tokenizer_config_add_tokens(const tokenizer_config *c, added_tokens *a) {
    static const char *const lists[] = {"additional_special_tokens", "extra_special_tokens"};
    TRY(add_decoder(json_object_get(c->config, "added_tokens_decoder"), a));
    for (int i = 0; i < ROLES; i++)
        if (c->special[i]) TRY(added_tokens_put_special(a, c->special[i]));
    for (int i = 0; i < 2; i++) {
        TRY(add_special_list(json_object_get(c->config, lists[i]), a));
        TRY(add_special_list(json_object_get(c->map, lists[i]), a));
    }
    return STATUS_OK;
}
