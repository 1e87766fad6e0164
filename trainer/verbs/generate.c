/* generate.c: `train generate`: answers a prompt, or each line of standard input. A prompt is
 * a user's message under the model's chat template where it has one; --raw continues the text
 * as it stands. */
#include "common/alloc.h"
#include "common/json.h"
#include "common/log.h"
#include "data/source.h"
#include "data/template.h"
#include "trainer/model/generate.h"
#include "trainer/verbs/verbs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_TOKENS = 128, PROMPT_TOKENS = 2048 };

/* ---- prompts ---- */

typedef struct asker {
    session *s;
    chat_template *template; /* NULL: raw */
    token_names names;
} asker;

static status open_asker(asker *a, session *s, const command *c, const config *conf) {
    a->s = s;
    dataset_options o = {.tokenizer = s->tok,
                         .bos_token = conf->special_tokens.bos_token,
                         .eos_token = conf->special_tokens.eos_token};
    TRY(dataset_token_names(&o, &a->names));
    template_choice choice = {.name = conf->chat_template,
                              .text = conf->chat_template_jinja,
                              .own = tokenizer_chat_template(s->tok)};
    if (c->raw || !(choice.name || choice.text || choice.own)) return STATUS_OK;
    json_t *variables = config_template_variables(conf);
    choice.variables = variables;
    status made = variables ? chat_template_choose(&a->template, &choice, &a->names)
                            : status_fail(STATUS_MEMORY, "out of memory");
    json_decref(variables);
    return made;
}

static status prompt_ids(const asker *a, const char *text, id_list *out) {
    if (!a->template)
        return tokenizer_encode(a->s->tok, text, strlen(text), TOKENIZER_ADD_SPECIAL, out);
    chat_fields fields = {.whole = chat_template_interprets(a->template)};
    conversation c = {0};
    chat_work w = {0};
    span_builder b = {.names = a->names};
    json_t *row = json_pack("{s:[{s:s, s:s}]}", "messages", "role", "user", "content", text);
    status s = row ? conversation_read(&c, row, &fields)
                   : status_fail(STATUS_DATA, "the prompt is no UTF-8");
    if (s == STATUS_OK) s = chat_template_render(a->template, &c, true, &w, &b);
    if (s == STATUS_OK) s = spans_finish(&b);
    if (s == STATUS_OK) s = id_list_append(out, b.ids.items, b.ids.count);
    spans_free(&b);
    chat_work_free(&w);
    conversation_free(&c);
    json_decref(row);
    return s;
}

/* ---- answers ---- */

/* Prints what is new: a token alone may be part of a character. */
typedef struct printer {
    session *s;
    id_list ids;
    size_t shown; /* bytes */
} printer;

static status show_token(void *context, size_t sequence, int32_t id) {
    printer *p = context;
    char *text;
    size_t bytes;
    TRY(id_list_append(&p->ids, &id, 1));
    TRY(tokenizer_decode(p->s->tok, p->ids.items, p->ids.count, true, &text, &bytes));
    static const char replacement[] = "\xef\xbf\xbd"; /* an unfinished character */
    bool whole = bytes < 3 || memcmp(text + bytes - 3, replacement, 3) != 0;
    if (whole && bytes > p->shown) {
        fwrite(text + p->shown, 1, bytes - p->shown, stdout);
        fflush(stdout);
        p->shown = bytes;
    }
    mem_free(text);
    return STATUS_OK;
}

static status print_json(session *s, const char *prompt, const sequence *q) {
    char *text;
    TRY(tokenizer_decode(s->tok, q->tokens, (size_t)q->count, true, &text, NULL));
    json_t *ids = json_array();
    for (int64_t i = 0; i < q->count; i++) json_push(&ids, json_integer(q->tokens[i]));
    json_t *o = json_pack("{s:s, s:s, s:o, s:b}", "prompt", prompt, "answer", text, "ids", ids,
                          "stopped", (int)q->stopped);
    char *line = o ? json_write_text(o, 0) : NULL;
    if (line) puts(line);
    mem_free(line);
    json_decref(o);
    mem_free(text);
    return line ? STATUS_OK : STATUS_MEMORY;
}

static status answer(const command *c, const config *conf, const asker *a,
                     const char *prompt) {
    id_list ids = {0};
    printer p = {.s = a->s};
    log_progress_end();
    int64_t most = a->s->request.generate.cache_rows - PROMPT_TOKENS;
    int32_t *tokens = mem_alloc_array((size_t)most + 1, sizeof *tokens, "an answer");
    int32_t eos = tokenizer_eos(a->s->tok),
            end = a->template ? chat_template_end(a->template) : -1;
    int32_t stop[2] = {eos >= 0 ? eos : end, end >= 0 ? end : eos};
    status s = tokens ? prompt_ids(a, prompt, &ids) : STATUS_MEMORY;
    sequence q = {.prompt = ids.items, .prompt_count = (int64_t)ids.count, .tokens = tokens};
    generation g = {.e = a->s->e,
                    .program = a->s->index[PROGRAM_GENERATE],
                    .config = &a->s->model,
                    .shape = a->s->request.generate,
                    .max_tokens = most,
                    .stop = stop,
                    .stop_count = stop[0] >= 0 ? 2 : 0,
                    .sampling = {.temperature = c->temperature,
                                 .top_k = c->top_k,
                                 .top_p = c->top_p,
                                 .seed = (uint64_t)(c->seed >= 0 ? c->seed : conf->seed)}};
    if (c->format == FORMAT_TEXT) g.token = show_token, g.context = &p;
    if (s == STATUS_OK && ids.count > PROMPT_TOKENS)
        s = status_fail(STATUS_DATA, "the prompt has %zu tokens, at most %d are taken",
                        ids.count, PROMPT_TOKENS);
    if (s == STATUS_OK) s = generate(&g, &q, 1);
    if (s == STATUS_OK && c->format == FORMAT_JSON)
        s = print_json(a->s, prompt, &q);
    else if (s == STATUS_OK)
        putchar('\n');
    mem_free(p.ids.items);
    mem_free(ids.items);
    mem_free(tokens);
    return s;
}

static status answer_lines(const command *c, const config *conf, const asker *a) {
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    status s = STATUS_OK;
    while (s == STATUS_OK && (n = getline(&line, &capacity, stdin)) > 0) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = 0;
        if (n) s = answer(c, conf, a, line);
    }
    free(line);
    return s;
}

static status run_verb(const command *c, const config *conf, const char *model,
                       const char *adapter, session *s, asker *a) {
    int64_t most = c->max_new_tokens > 0 ? c->max_new_tokens : DEFAULT_TOKENS;
    session_request q = {.model_folder = model,
                         .adapter_folder = adapter,
                         .device = verb_device(c),
                         .programs = 1u << PROGRAM_GENERATE,
                         .generate = {.capacity = PROMPT_TOKENS,
                                      .sequences = 1,
                                      .cache_rows = PROMPT_TOKENS + most,
                                      .selected = 1}};
    sampling sampled = {.temperature = c->temperature, .top_k = c->top_k, .top_p = c->top_p};
    TRY(sampling_check(&sampled));
    TRY(session_open(s, conf, &q));
    TRY(session_open_tokenizer(s));
    TRY(open_asker(a, s, c, conf));
    TRY(session_plan(s));
    TRY(session_load(s));
    return c->prompt ? answer(c, conf, a, c->prompt) : answer_lines(c, conf, a);
}

status verb_generate(const command *c) {
    config conf;
    char *model;
    TRY(verb_model_config(c, &conf, &model));
    session s = {0};
    asker a = {0};
    char *adapter;
    status r = verb_adapter(c, &conf, &adapter);
    if (r == STATUS_OK) r = run_verb(c, &conf, model, adapter, &s, &a);
    mem_free(adapter);
    chat_template_close(a.template);
    session_close(&s);
    mem_free(model);
    config_free(&conf);
    return r;
}
