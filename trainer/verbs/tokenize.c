/* tokenize.c: `train tokenize`: JSON strings on stdin to lists of ids on stdout, or back. */
#include "common/alloc.h"
#include "common/json.h"
#include "data/tokenizer.h"
#include "trainer/verbs/hub.h"
#include "trainer/verbs/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static status encode_line(const tokenizer *t, const command *c, const json_t *line,
                          const char *where, id_list *ids) {
    if (!json_is_string(line))
        return status_fail(STATUS_DATA, "%s: a JSON string is expected, it is %s", where,
                           json_type_name(line));
    ids->count = 0;
    status s = tokenizer_encode(t, json_string_value(line), json_string_length(line),
                                c->no_special ? 0 : TOKENIZER_ADD_SPECIAL, ids);
    if (s != STATUS_OK) return status_prefix(s, "%s", where);
    putchar('[');
    for (size_t i = 0; i < ids->count; i++) printf("%s%d", i ? ", " : "", ids->items[i]);
    puts("]");
    return STATUS_OK;
}

static status decode_line(const tokenizer *t, const json_t *line, const char *where,
                          id_list *ids) {
    size_t i;
    json_t *v;
    if (!json_is_array(line))
        return status_fail(STATUS_DATA, "%s: a list of ids is expected, it is %s", where,
                           json_type_name(line));
    ids->count = 0;
    json_array_foreach((json_t *)line, i, v) {
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id >= tokenizer_size(t))
            return status_fail(STATUS_DATA,
                               "%s: element %zu is no id of this tokenizer (0 to %d)", where,
                               i, tokenizer_size(t) - 1);
        int32_t one = (int32_t)id;
        TRY(id_list_append(ids, &one, 1));
    }
    char *text;
    size_t bytes;
    status s = tokenizer_decode(t, ids->items, ids->count, false, &text, &bytes);
    if (s != STATUS_OK) return status_prefix(s, "%s", where);
    json_t *out = json_stringn(text, bytes);
    char *line_text = out ? json_write_text(out, 0) : NULL;
    if (line_text)
        puts(line_text);
    else
        s = status_fail(STATUS_DATA, "%s: the decoded text is no UTF-8", where);
    mem_free(line_text);
    json_decref(out);
    mem_free(text);
    return s;
}

static status each_line(const tokenizer *t, const command *c) {
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    int64_t number = 0;
    id_list ids = {0};
    status s = STATUS_OK;
    while (s == STATUS_OK && (n = getline(&line, &capacity, stdin)) > 0) {
        char where[64];
        json_t *value;
        snprintf(where, sizeof where, "stdin:%lld", (long long)++number);
        if (strspn(line, " \t\r\n") == (size_t)n) continue;
        s = json_read_text(line, (size_t)n, where, STATUS_DATA, &value);
        if (s != STATUS_OK) break;
        s = c->decode ? decode_line(t, value, where, &ids)
                      : encode_line(t, c, value, where, &ids);
        json_decref(value);
    }
    free(line);
    mem_free(ids.items);
    return s;
}

status verb_tokenize(const command *c) {
    char *folder;
    tokenizer *t;
    if (c->chat) return verb_tokenize_chat(c);
    TRY(hub_find_model(c->model, NULL, &folder));
    status s = tokenizer_open(&t, folder);
    if (s == STATUS_OK) {
        s = each_line(t, c);
        tokenizer_close(t);
    }
    mem_free(folder);
    return s;
}
