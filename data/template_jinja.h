/* template_jinja.h: a conversation under an interpreted template: the text that it renders to,
 * which of it are control tokens, and which of it is learned.
 *
 * Control tokens are looked for in what the template says: its own text, bos_token and
 * eos_token, and names of roles that are plain words (templates write '<|' + role + '|>').
 * What comes from the row is text, whatever it spells.
 *
 * What is learned of a message whose `learn` is set:
 *
 *   {% generation %}   where the template has it: what it encloses, as in transformers'
 *                      return_assistant_tokens_mask, for the messages that are to be learned.
 *   assistant          what the model has to say after the prompt: from where the rendering of
 *                      the messages before, with the generation prompt, ends, up to the token
 *                      that ends the turn, its first control token behind the message's last
 *                      byte. The rendering up to this message must agree with the whole one's
 *                      beginning up to there: templates that rewrite earlier turns (Qwen3 drops
 *                      their thinking) have no text in which the model could learn to say
 *                      those, and the row is refused. Where the prompt is no beginning of the
 *                      text (DeepSeek-R1 opens a <think> block that is not kept), the turn is
 *                      learned from the message's first byte on.
 *   another role       the bytes that come from its content.
 *
 * The end's token is learned where `learn_end` is set; where the tokenizer knows none, what
 * stands between the message and the next one. Nobody learns to end a turn without a word. */
#ifndef NIBBLE_DATA_TEMPLATE_JINJA_H
#define NIBBLE_DATA_TEMPLATE_JINJA_H

#include "data/conversation.h"
#include "data/jinja/jinja.h"
#include "data/spans.h"

typedef struct text_piece { /* of the rendered text */
    size_t from, to;
    int32_t id; /* a control token, or -1: text */
} text_piece;

enum { KNOWN_WORDS = 256 };
typedef struct known_words { /* text of the template, with its control tokens found */
    char *text;
    size_t bytes;
    literal parts;
} known_words;

/* Where a conversation is rendered, by one thread. Zero it; free with chat_work_free. */
typedef struct chat_work {
    jinja_rendering rendering;
    struct tm today;
    text_piece *pieces;
    size_t piece_count, piece_capacity;
    byte_range *extents; /* of each message's words */
    size_t extent_capacity;
    unsigned char *learn; /* of each byte */
    size_t learn_capacity;
    known_words known[KNOWN_WORDS];
    token_names known_names; /* whose they are */
} chat_work;
void chat_work_free(chat_work *w);

typedef struct chat_view { /* what the template is given beside the row */
    const jinja_template *template;
    const json_t *settings;
    token_names names;
    const char *date; /* "26 Jul 2024"; "" when it asks for none */
} chat_view;

/* Appends the conversation to b. With `prompt` what makes the model answer is at its end, and
 * nothing is learned. STATUS_DATA: the template refuses the row, or what is to be learned is
 * not in the text. */
status chat_view_render(const chat_view *v, const conversation *c, bool prompt, chat_work *w,
                        span_builder *b);
/* Only the text, which stays in w->rendering. */
status chat_view_text(const chat_view *v, const json_t *data, bool prompt, chat_work *w);
/* The token that ends an assistant's turn, by rendering one; -1 when there is none. */
status chat_view_end(const chat_view *v, int32_t *out);

#endif
