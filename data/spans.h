/* spans.h: pieces of text and control tokens in, token ids and labels out.
 *
 * A row is rendered as a sequence of literals (a template's own words, in which control tokens
 * such as <|im_start|> are meant) and contents (somebody's words, in which they are only
 * text), each to be learned or not. Text between two control tokens is tokenized as one run,
 * as Hugging Face does with the rendered text, so that pieces merge across the borders in the
 * same way; ids are those of apply_chat_template for every content that spells no control
 * token. Where a token crosses the border of a learned piece it is learned. Knows no templates
 * and no JSON. */
#ifndef NIBBLE_DATA_SPANS_H
#define NIBBLE_DATA_SPANS_H

#include "common/status.h"
#include "data/text_buffer.h"
#include "data/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Marks inside a literal's source text. */
#define LITERAL_BOS  "\1"
#define LITERAL_EOS  "\2"
#define LITERAL_ROLE "\3" /* the name of the message's role */

enum { PART_TEXT = -1, PART_ROLE = -2 };

typedef struct literal_part {
    int32_t id; /* a control token, or PART_* */
    const char *text;
    size_t bytes;
} literal_part;

/* A text of the template with its control tokens found. */
typedef struct literal {
    char *text;
    literal_part *parts;
    size_t count, capacity;
} literal;

/* Who speaks: the tokenizer, and its BOS and EOS after the configuration's overrides (-1 =
 * none). */
typedef struct token_names {
    const tokenizer *tokenizer;
    int32_t bos, eos;
} token_names;

/* Finds the control tokens of `text`. A BOS or EOS that the tokenizer does not have is left
 * out. */
status literal_compile(literal *out, const char *text, const token_names *names);
/* The same of text without marks, which may hold any byte. */
status literal_compile_text(literal *out, const char *text, size_t bytes,
                            const token_names *names);
void literal_free(literal *l);

typedef struct span_mark {
    size_t at; /* byte of the run where `learn` begins */
    bool learn;
} span_mark;

/* Zero it, set names; free with spans_free. One thread at a time. */
typedef struct span_builder {
    token_names names;
    id_list ids, labels;
    text_buffer run; /* text since the last control token */
    span_mark *marks;
    size_t mark_count, mark_capacity;
    id_list scratch, prefix;
    bool inside; /* the run goes on in a text, after a control token */
    bool strips; /* which takes the white space that follows */
} span_builder;

void spans_reset(span_builder *b); /* a new row; keeps the memory */
void spans_free(span_builder *b);

/* Appends. The role name of `role` is text; it may be NULL where the literal has no
 * LITERAL_ROLE. */
status spans_literal(span_builder *b, const literal *l, const char *role, bool learn);
status spans_text(span_builder *b, const char *text, size_t bytes, bool learn);
status spans_control(span_builder *b, int32_t id, bool learn);
/* Tokenizes what is left and ends the text. Then ids and labels have one entry per token; what
 * follows is tokenized apart, as the beginning of another text. STATUS_DATA for invalid UTF-8. */
status spans_finish(span_builder *b);

#endif
