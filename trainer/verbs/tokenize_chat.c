/* tokenize_chat.c: `train tokenize --chat`: conversations on standard input, one a line, to ids
 * and labels, or to the text that the template makes of them. What the template refuses is an
 * object with its message, and the exit code at the end says so. */
#include "common/alloc.h"
#include "common/file.h"
#include "data/template.h"
#include "trainer/verbs/hub.h"
#include "trainer/verbs/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct teller {
    const command *c;
    chat_template *template;
    conversation messages;
    chat_work work;
    span_builder spans;
    int64_t read, refused;
} teller;

/* ---- one line ---- */

static status print(json_t *value) {
    char *text = value ? json_write_text(value, JSON_ENCODE_ANY) : NULL;
    if (text) puts(text);
    bool done = text != NULL;
    mem_free(text);
    json_decref(value);
    return done ? STATUS_OK : status_fail(STATUS_MEMORY, "out of memory for an answer");
}

/* A refusal is an answer too. */
static status print_error(teller *t, const char *message) {
    t->refused++;
    json_t *o = json_object();
    json_put(&o, "error", json_string(message));
    return print(o);
}

static json_t *list_of(const id_list *ids) {
    json_t *list = json_array();
    for (size_t i = 0; i < ids->count; i++) json_push(&list, json_integer(ids->items[i]));
    return list;
}

static status print_text(teller *t, const json_t *data) {
    const char *text, *error;
    size_t bytes;
    status s = chat_template_text(t->template, data, t->c->add_generation_prompt, &t->work,
                                  &text, &bytes, &error);
    if (error) return print_error(t, error);
    return s == STATUS_OK ? print(json_stringn(text, bytes)) : s;
}

/* Variables of the line, beside messages and tools. */
static status add_variables(teller *t, const json_t *data) {
    const char *key;
    json_t *value;
    if (!t->messages.data) return STATUS_OK;
    json_object_foreach((json_t *)data, key,
                        value) if (!json_object_get(t->messages.data, key) &&
                                   strcmp(key, "conversations"))
        json_put(&t->messages.data, key, json_incref(value));
    return t->messages.data ? STATUS_OK : status_fail(STATUS_MEMORY, "out of memory");
}

static status make_row(teller *t, const json_t *data) {
    chat_fields fields = {.whole = chat_template_interprets(t->template)};
    spans_reset(&t->spans);
    TRY(conversation_read(&t->messages, data, &fields));
    TRY(add_variables(t, data));
    TRY(chat_template_render(t->template, &t->messages, t->c->add_generation_prompt, &t->work,
                             &t->spans));
    return spans_finish(&t->spans);
}

static status print_row(teller *t, const json_t *data) {
    *t->work.rendering.error = 0;
    status s = make_row(t, data);
    if (s == STATUS_DATA)
        return print_error(t, *t->work.rendering.error ? t->work.rendering.error
                                                       : status_message());
    if (s != STATUS_OK) return s;
    json_t *o = json_object();
    json_put(&o, "ids", list_of(&t->spans.ids));
    json_put(&o, "labels", list_of(&t->spans.labels));
    return print(o);
}

static status one_line(teller *t, const char *line, size_t bytes, int64_t number) {
    char where[64];
    json_t *value;
    snprintf(where, sizeof where, "stdin:%lld", (long long)number);
    TRY(json_read_text(line, bytes, where, STATUS_DATA, &value));
    t->read++;
    if (json_is_array(value)) {
        json_t *o = json_object();
        json_put(&o, "messages", value);
        value = o;
    }
    status s = !value ? status_fail(STATUS_MEMORY, "out of memory")
               : !json_is_object(value)
                   ? status_fail(STATUS_DATA,
                                 "%s: a list of messages or an object with messages is "
                                 "expected, it is %s",
                                 where, json_type_name(value))
               : t->c->text ? print_text(t, value)
                            : print_row(t, value);
    json_decref(value);
    return s;
}

static status each_line(teller *t) {
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    int64_t number = 0;
    status s = STATUS_OK;
    while (s == STATUS_OK && (n = getline(&line, &capacity, stdin)) > 0) {
        number++;
        if (strspn(line, " \t\r\n") < (size_t)n) s = one_line(t, line, (size_t)n, number);
    }
    free(line);
    if (s != STATUS_OK || !t->refused) return s;
    return status_fail(STATUS_DATA, "%lld of %lld conversations were refused",
                       (long long)t->refused, (long long)t->read);
}

/* ---- the template ---- */

static status find_token(const tokenizer *tok, const char *option, const char *text,
                         int32_t *id) {
    if (!text || !tok) return STATUS_OK;
    *id = tokenizer_id(tok, text);
    if (*id >= 0) return STATUS_OK;
    return status_fail(STATUS_USAGE, "--%s %s: the model has no such token", option, text);
}

/* --template: a file, by whatever name, or a built-in template. */
static status open_template(teller *t, const tokenizer *tok) {
    const command *c = t->c;
    token_names names = {tok, tok ? tokenizer_bos(tok) : -1, tok ? tokenizer_eos(tok) : -1};
    if (!c->text) {
        TRY(find_token(tok, "bos", c->bos, &names.bos));
        TRY(find_token(tok, "eos", c->eos, &names.eos));
    }
    bool file = c->template && file_exists(c->template);
    json_t *variables = json_object();
    if (c->bos) json_put(&variables, "bos_token", json_string(c->bos));
    if (c->eos) json_put(&variables, "eos_token", json_string(c->eos));
    template_choice choice = {.name = file ? NULL : c->template,
                              .text = file ? c->template : NULL,
                              .variables = c->text ? variables : NULL,
                              .own = tok ? tokenizer_chat_template(tok) : NULL};
    t->spans.names = names;
    status s = variables ? chat_template_choose(&t->template, &choice, &names)
                         : status_fail(STATUS_MEMORY, "out of memory");
    json_decref(variables);
    return s;
}

static status open_model(const command *c, tokenizer **out) {
    char *folder;
    *out = NULL;
    if (!c->model) return STATUS_OK;
    TRY(hub_find_model(c->model, NULL, &folder));
    status s = tokenizer_open(out, folder);
    mem_free(folder);
    return s;
}

status verb_tokenize_chat(const command *c) {
    teller t = {.c = c};
    tokenizer *tok;
    TRY(open_model(c, &tok));
    status s = open_template(&t, tok);
    if (s == STATUS_OK) s = each_line(&t);
    chat_template_close(t.template);
    chat_work_free(&t.work);
    conversation_free(&t.messages);
    spans_free(&t.spans);
    tokenizer_close(tok);
    return s;
}
