/* prompts.c: the table of built-in formats, and formats cut into literals and fields once. */
#include "data/prompts.h"
#include "data/row_field.h"
#include "common/alloc.h"

#include <stdio.h>
#include <string.h>

#define ALPACA_TASK    "Below is an instruction that describes a task"
#define ALPACA_REQUEST "Write a response that appropriately completes the request."
#define ALPACA_SYSTEM                                                                         \
    .system_prompt =                                                                          \
        ALPACA_TASK ", paired with an input that provides further context. " ALPACA_REQUEST,  \
    .system_no_input = ALPACA_TASK ". " ALPACA_REQUEST
#define INSTRUCT_FORMAT                                                                       \
    .format = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",    \
    .no_input_format = "### Instruction:\n{instruction}\n\n### Response:\n",                  \
    .system_format = "{system}\n\n"
#define CHAT_FORMAT                                                                           \
    .format = "USER: {instruction}\n{input}\nASSISTANT:",                                     \
    .no_input_format = "USER: {instruction}\nASSISTANT:",                                     \
    .system_format = "SYSTEM: {system}\n"
#define CHATML_FORMAT                                                                         \
    .format = "<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n",  \
    .no_input_format = "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",  \
    .system_format = "<|im_start|>system\n{system}<|im_end|>\n"
#define FIELDS(instruction, input, output)                                                    \
    .field_instruction = instruction, .field_input = input, .field_output = output

static const struct built_in {
    const char *type;
    prompt_format format;
} built_in[] = {
    {"alpaca", {FIELDS("instruction", "input", "output"), ALPACA_SYSTEM, INSTRUCT_FORMAT}},
    {"alpaca:instruct",
     {FIELDS("instruction", "input", "output"), ALPACA_SYSTEM, INSTRUCT_FORMAT}},
    {"alpaca:chat", {FIELDS("instruction", "input", "output"), ALPACA_SYSTEM, CHAT_FORMAT}},
    {"alpaca:chatml",
     {FIELDS("instruction", "input", "output"), ALPACA_SYSTEM, CHATML_FORMAT}},
    {"alpaca_chat.load",
     {FIELDS("instruction", "input", "output"), ALPACA_SYSTEM, CHAT_FORMAT}},
    {"alpaca_chat.load_qa", {FIELDS("question", "", "answer"), ALPACA_SYSTEM, CHAT_FORMAT}},
    {"alpaca_w_system.load",
     {FIELDS("instruction", "input", "output"), .field_system = "system", CHAT_FORMAT}},
    {"alpaca_w_system.load_open_orca_chatml",
     {FIELDS("question", "", "response"), .field_system = "system_prompt", CHATML_FORMAT}},
    {"gpteacher",
     {FIELDS("instruction", "input", "response"), ALPACA_SYSTEM, INSTRUCT_FORMAT}},
    {"gpteacher:chat",
     {FIELDS("instruction", "input", "response"), ALPACA_SYSTEM, CHAT_FORMAT}},
    {"oasst", {FIELDS("INSTRUCTION", "", "RESPONSE"), ALPACA_SYSTEM, INSTRUCT_FORMAT}},
};

enum { FIELD_INSTRUCTION, FIELD_INPUT, FIELD_SYSTEM, FIELDS_COUNT };
static const char *const field_marks[FIELDS_COUNT] = {"{instruction}", "{input}", "{system}"};

typedef struct piece {
    int field; /* FIELD_*, or -1 for the literal */
    literal text;
} piece;

typedef struct compiled {
    piece *pieces;
    size_t count, capacity;
} compiled;

struct prompt {
    char *
        names[4]; /* fields of the row: instruction, input, output, system; "" or NULL: none */
    char *system_prompt, *system_no_input;
    compiled format, no_input, system;
};

/* ---- opening ---- */

static status add_piece(compiled *c, int field, const char *text, const token_names *names) {
    if (mem_grow(&c->pieces, &c->capacity, c->count + 1, sizeof *c->pieces, "a prompt format"))
        return STATUS_MEMORY;
    piece *p = &c->pieces[c->count++];
    *p = (piece){.field = field};
    return field >= 0 ? STATUS_OK : literal_compile(&p->text, text, names);
}

/* Ends the literal gathered so far. */
static status flush(compiled *c, text_buffer *text, const token_names *names) {
    if (!text->bytes) return STATUS_OK;
    TRY(text_append(text, "", 1));
    text->bytes = 0;
    return add_piece(c, -1, text->data, names);
}

static status unknown_field(const char *at) {
    return status_fail(STATUS_USAGE,
                       "the prompt format has `%.20s`: known are {instruction}, "
                       "{input} and {system}; braces are written {{ and }}",
                       at);
}

static status compile_into(compiled *c, const char *format, text_buffer *text,
                           const token_names *names) {
    for (const char *p = format; *p;) {
        if (*p < '\4' && *p > 0)
            return status_fail(STATUS_USAGE, "the prompt format has a control character");
        if ((*p == '{' || *p == '}') && p[1] == *p) {
            TRY(text_append(text, p, 1));
            p += 2;
        } else if (*p == '{') {
            int field = 0;
            while (field < FIELDS_COUNT &&
                   strncmp(p, field_marks[field], strlen(field_marks[field])))
                field++;
            if (field == FIELDS_COUNT) return unknown_field(p);
            TRY(flush(c, text, names));
            TRY(add_piece(c, field, NULL, names));
            p += strlen(field_marks[field]);
        } else if (*p == '}')
            return unknown_field(p);
        else
            TRY(text_append(text, p++, 1));
    }
    return flush(c, text, names);
}

static status compile(compiled *c, const char *format, const token_names *names) {
    text_buffer text = {0};
    status s = compile_into(c, format ? format : "", &text, names);
    mem_free(text.data);
    return s;
}

static const prompt_format *find_type(const char *type) {
    for (size_t i = 0; type && i < sizeof built_in / sizeof *built_in; i++)
        if (!strcmp(built_in[i].type, type)) return &built_in[i].format;
    return NULL;
}

bool prompt_is_type(const char *type) {
    return find_type(type) != NULL;
}

static const char *pick(const char *own, const char *built, const char *usual) {
    return own ? own : built ? built : usual;
}

static status copy(char **out, const char *text) {
    *out = text ? mem_strdup(text) : NULL;
    return text && !*out ? STATUS_MEMORY : STATUS_OK;
}

static status open_parts(prompt *p, const prompt_format *own, const prompt_format *base,
                         const token_names *names) {
    const char *format = pick(own->format, base->format, NULL);
    const char *no_input = own->no_input_format || own->format
                               ? pick(own->no_input_format, own->format, NULL)
                               : base->no_input_format;
    if (!format)
        return status_fail(STATUS_USAGE, "a dataset's `type:` with fields of its own needs "
                                         "`format:`, a text with {instruction} and {input}");
    TRY(copy(&p->names[0],
             pick(own->field_instruction, base->field_instruction, "instruction")));
    TRY(copy(&p->names[1], pick(own->field_input, base->field_input, "input")));
    TRY(copy(&p->names[2], pick(own->field_output, base->field_output, "output")));
    TRY(copy(&p->names[3], pick(own->field_system, base->field_system, NULL)));
    TRY(copy(&p->system_prompt, pick(own->system_prompt, base->system_prompt, NULL)));
    TRY(copy(&p->system_no_input,
             own->system_prompt ? own->system_prompt
                                : pick(own->system_no_input, base->system_no_input, NULL)));
    TRY(compile(&p->format, format, names));
    TRY(compile(&p->no_input, no_input, names));
    return compile(&p->system, pick(own->system_format, base->system_format, "{system}"),
                   names);
}

status prompt_open(prompt **out, const char *type, const prompt_format *own,
                   const token_names *names) {
    static const prompt_format none;
    const prompt_format *base = type ? find_type(type) : &none;
    *out = NULL;
    if (!base) return status_fail(STATUS_USAGE, "there is no prompt format `%s`", type);
    prompt *p = mem_alloc(sizeof *p, "a prompt format");
    if (!p) return STATUS_MEMORY;
    status s = open_parts(p, own ? own : &none, base, names);
    if (s != STATUS_OK)
        prompt_close(p);
    else
        *out = p;
    return s;
}

static void free_compiled(compiled *c) {
    for (size_t i = 0; i < c->count; i++) literal_free(&c->pieces[i].text);
    mem_free(c->pieces);
}

void prompt_close(prompt *p) {
    if (!p) return;
    for (int i = 0; i < 4; i++) mem_free(p->names[i]);
    mem_free(p->system_prompt);
    mem_free(p->system_no_input);
    free_compiled(&p->format);
    free_compiled(&p->no_input);
    free_compiled(&p->system);
    mem_free(p);
}

/* ---- rows ---- */

typedef struct text {
    const char *text;
    size_t bytes;
} text;

/* A field's text; an optional one that is missing or null is empty. */
static status get(const json_t *row, const char *name, bool required, text *out) {
    *out = (text){"", 0};
    const json_t *v = name && *name ? row_field(row, name) : NULL;
    if (json_is_string(v))
        *out = (text){json_string_value(v), json_string_length(v)};
    else if (required || (v && !json_is_null(v)))
        return status_fail(STATUS_DATA, "\"%s\" must be a string, it is %s", name,
                           v ? json_type_name(v) : "missing");
    return STATUS_OK;
}

static status render(const compiled *c, const text *fields, bool learn, span_builder *b) {
    for (const piece *p = c->pieces; p < c->pieces + c->count; p++) {
        if (p->field < 0)
            TRY(spans_literal(b, &p->text, NULL, learn));
        else
            TRY(spans_text(b, fields[p->field].text, fields[p->field].bytes, learn));
    }
    return STATUS_OK;
}

static status begin_text(bool learn, span_builder *b) {
    bool bos = tokenizer_adds_bos(b->names.tokenizer) && b->names.bos >= 0;
    if (bos) TRY(spans_control(b, b->names.bos, learn));
    return spans_finish(b); /* the post-processor's BOS is no part of the text */
}

/* Ends the text with EOS, unless it is there already. */
static status end_text(span_builder *b) {
    TRY(spans_finish(b));
    bool ended = b->ids.count && b->ids.items[b->ids.count - 1] == b->names.eos;
    return ended || b->names.eos < 0 ? STATUS_OK : spans_control(b, b->names.eos, true);
}

status prompt_render(const prompt *p, const json_t *row, bool train_on_inputs,
                     span_builder *b) {
    text fields[FIELDS_COUNT], answer;
    TRY(get(row, p->names[0], true, &fields[FIELD_INSTRUCTION]));
    TRY(get(row, p->names[1], false, &fields[FIELD_INPUT]));
    TRY(get(row, p->names[2], true, &answer));
    TRY(get(row, p->names[3], false, &fields[FIELD_SYSTEM]));
    bool input = fields[FIELD_INPUT].bytes > 0;
    const char *system = input ? p->system_prompt : p->system_no_input;
    if (!p->names[3] && system) fields[FIELD_SYSTEM] = (text){system, strlen(system)};
    TRY(begin_text(train_on_inputs, b));
    if (fields[FIELD_SYSTEM].bytes) TRY(render(&p->system, fields, train_on_inputs, b));
    TRY(render(input ? &p->format : &p->no_input, fields, train_on_inputs, b));
    TRY(spans_finish(b)); /* the answer is tokenized apart */
    if (!answer.bytes) return STATUS_OK;
    TRY(spans_text(b, answer.text, answer.bytes, true));
    return end_text(b);
}

status prompt_render_text(const char *words, size_t bytes, span_builder *b) {
    TRY(begin_text(true, b));
    TRY(spans_text(b, words, bytes, true));
    return end_text(b);
}
