/* sample.c: see sample.h. */
#include "trainer/run/sample.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/log.h"
#include "trainer/model/generate.h"

#include <math.h>
#include <string.h>

enum { MOST_PROMPT = 1024 /* tokens of a sampled prompt, the last ones */ };

typedef struct question {
    int32_t *ids;
    int64_t count;
    char *expected; /* NULL: not known */
} question;

typedef struct questions {
    question *items;
    size_t count;
} questions;

static size_t wanted(const run *r) {
    if (!r->c->generate_samples || !r->s.tok) return 0;
    if (r->c->sample_prompts.count) return r->c->sample_prompts.count;
    const row_set *rows = corpus_held_out(&r->rows);
    return rows ? (size_t)min_i64(r->c->num_generation_samples, rows->count) : 0;
}

static void free_questions(questions *q) {
    for (size_t i = 0; i < q->count; i++) {
        mem_free(q->items[i].ids);
        mem_free(q->items[i].expected);
    }
    mem_free(q->items);
}

/* The prompt of a row is what stands before its first learned token; the rest is the answer.
 */
static status from_row(const run *r, const row_set *rows, int64_t row, question *q) {
    int64_t first = rows->offsets[row], n = rows->offsets[row + 1] - first, cut = 0;
    while (cut < n && rows->labels[first + cut] == LABEL_IGNORED) cut++;
    if (cut == 0 || cut == n) cut = n > 1 ? n / 2 : n;
    int64_t begin = cut > MOST_PROMPT ? cut - MOST_PROMPT : 0;
    q->count = cut - begin;
    q->ids = mem_alloc_array((size_t)q->count + 1, sizeof *q->ids, "a prompt");
    if (!q->ids) return STATUS_MEMORY;
    memcpy(q->ids, rows->ids + first + begin, (size_t)q->count * sizeof *q->ids);
    return tokenizer_decode(r->s.tok, rows->ids + first + cut, (size_t)(n - cut), true,
                            &q->expected, NULL);
}

static status from_text(const run *r, const char *text, question *q) {
    id_list ids = {0};
    status s = tokenizer_encode(r->s.tok, text, strlen(text),
                                TOKENIZER_ADD_SPECIAL | TOKENIZER_PLAIN_TEXT, &ids);
    q->ids = ids.items;
    q->count = (int64_t)ids.count;
    if (s == STATUS_OK && q->count > MOST_PROMPT) {
        memmove(q->ids, q->ids + q->count - MOST_PROMPT, MOST_PROMPT * sizeof *q->ids);
        q->count = MOST_PROMPT;
    }
    return s;
}

static status ask(const run *r, questions *q) {
    size_t count = wanted(r);
    q->items = mem_alloc_array(count + 1, sizeof *q->items, "samples");
    if (!q->items) return STATUS_MEMORY;
    q->count = count;
    const config_list *given = &r->c->sample_prompts;
    for (size_t i = 0; i < q->count; i++)
        TRY(given->count ? from_text(r, given->items[i], &q->items[i])
                         : from_row(r, corpus_held_out(&r->rows), (int64_t)i, &q->items[i]));
    return STATUS_OK;
}

status sample_plan(run *r) {
    if (!wanted(r)) return STATUS_OK;
    questions q = {0};
    status s = ask(r, &q);
    int64_t n = (int64_t)q.count, all = 0, longest = 0;
    for (size_t i = 0; s == STATUS_OK && i < q.count; i++) {
        all += q.items[i].count;
        longest = max_i64(longest, q.items[i].count);
    }
    free_questions(&q);
    r->s.request.programs |= 1u << PROGRAM_GENERATE;
    r->s.request.generate =
        (generate_shape){.capacity = round_up_i64(max_i64(all, n), 64),
                         .sequences = n,
                         .cache_rows = longest + r->c->generation_max_new_tokens,
                         .selected = n};
    return s;
}

static sampling sampling_of(const config *c) {
    return (sampling){.temperature = c->generation_do_sample ? c->generation_temperature : 0,
                      .top_k = c->generation_top_k == CONFIG_NOT_SET ? 0 : c->generation_top_k,
                      .top_p = isnan(c->generation_top_p) ? 1 : c->generation_top_p,
                      .seed = (uint64_t)c->seed};
}

static status one_object(const run *r, const question *q, const sequence *a, json_t *list) {
    char *prompt = NULL, *answer = NULL;
    status s = tokenizer_decode(r->s.tok, q->ids, (size_t)q->count, false, &prompt, NULL);
    if (s == STATUS_OK)
        s = tokenizer_decode(r->s.tok, a->tokens, (size_t)a->count, true, &answer, NULL);
    if (s == STATUS_OK) {
        json_t *o = json_object();
        json_put(&o, "prompt", json_string(prompt));
        json_put(&o, "answer", json_string(answer));
        json_put(&o, "expected", q->expected ? json_string(q->expected) : json_null());
        if (!o || json_array_append_new(list, o))
            s = status_fail(STATUS_MEMORY, "out of memory for samples");
    }
    mem_free(prompt);
    mem_free(answer);
    return s;
}

static status answer_all(run *r, const questions *q, json_t *list) {
    int64_t most = r->c->generation_max_new_tokens;
    sequence *a = mem_alloc_array(q->count + 1, sizeof *a, "samples");
    int32_t *tokens = mem_alloc_array(q->count * (size_t)most + 1, sizeof *tokens, "samples");
    const int32_t stop[] = {tokenizer_eos(r->s.tok),
                            (int32_t)r->rows.train.report.template_end};
    status s = a && tokens ? STATUS_OK : STATUS_MEMORY;
    for (size_t i = 0; s == STATUS_OK && i < q->count; i++)
        a[i] = (sequence){.prompt = q->items[i].ids,
                          .prompt_count = q->items[i].count,
                          .tokens = tokens + (int64_t)i * most};
    generation g = {.e = r->s.e,
                    .program = r->s.index[PROGRAM_GENERATE],
                    .config = &r->s.model,
                    .shape = r->s.request.generate,
                    .sampling = sampling_of(r->c),
                    .max_tokens = most,
                    .stop = stop, /* -1 is no token's id */
                    .stop_count = 2};
    if (s == STATUS_OK) s = generate(&g, a, q->count);
    for (size_t i = 0; s == STATUS_OK && i < q->count; i++)
        s = one_object(r, &q->items[i], &a[i], list);
    mem_free(a);
    mem_free(tokens);
    return s;
}

status sample_collect(run *r, json_t **out) {
    if (!wanted(r)) return STATUS_OK;
    questions q = {0};
    json_t *list = json_array();
    status s = list ? ask(r, &q) : status_fail(STATUS_MEMORY, "out of memory for samples");
    if (s == STATUS_OK) s = answer_all(r, &q, list);
    free_questions(&q);
    if (s == STATUS_OK)
        *out = list;
    else
        json_decref(list);
    return s;
}

status sample_show(run *r, int64_t step) {
    json_t *list = NULL, *o;
    size_t i;
    TRY(sample_collect(r, &list));
    json_array_foreach(list, i, o)
        log_info("step %lld  sample %zu: %s", (long long)step, i + 1,
                 json_string_value(json_object_get(o, "answer")));
    json_decref(list);
    return STATUS_OK;
}
