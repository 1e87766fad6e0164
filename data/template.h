/* template.h: chat templates, each a row of a table with a hand-written renderer:
 * conversations in, spans out. Byte for byte what jinja2 makes of the template of the same
 * name, or a refusal with the reason; never an approximation.
 *
 * A template is chosen by name (the built-in ones carry Axolotl's names) or is the model's
 * own, recognised by the hash of its text. Knows roles and text; JSON, field names and which
 * turns are learned are conversation.h's matter. (An interpreter of any Jinja template would
 * stand behind chat_template_open, with the same chat_template_render.) */
#ifndef NIBBLE_DATA_TEMPLATE_H
#define NIBBLE_DATA_TEMPLATE_H

#include "common/status.h"
#include "data/spans.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct chat_message {
    const char *role; /* after mapping: system, user, assistant, or another */
    const char *content;
    size_t bytes;
    const char
        *thinking;  /* reasoning_content, NUL-terminated; NULL = none. Only qwen3 renders it */
    bool learn;     /* its content */
    bool learn_end; /* the token that ends the turn */
} chat_message;

typedef struct chat_template chat_template;

/* `name`: a built-in name; NULL, "" or "tokenizer_default" for the model's own;
 * "tokenizer_default_fallback_NAME" for the model's own, or NAME where it has none. `own`: the
 * model's template text, NULL when there is none. `today`: "26 Jul 2024", for templates that
 * state the date; NULL = template_today. STATUS_USAGE for an unknown name, STATUS_MODEL for a
 * model's template that is none of the known ones, with the way out. Immutable; usable from
 * several threads.
 */
status chat_template_open(chat_template **out, const char *name, const char *own,
                          const char *today, const token_names *names);
void chat_template_close(chat_template *t); /* NULL is fine */

const char *chat_template_name(const chat_template *t);
/* The date that the template states, NULL when it states none: part of the data's identity. */
const char *chat_template_date(const chat_template *t);
/* The token that ends an assistant's turn; -1 when the tokenizer spells it as text. */
int32_t chat_template_end(const chat_template *t);
/* Whether the template would render a list of tools, which this one cannot. */
bool chat_template_wants_tools(const chat_template *t);

/* Appends the conversation; with `prompt` what makes the model answer next
 * (add_generation_prompt). STATUS_DATA when the template refuses the conversation, or would
 * render what is not covered. */
status chat_template_render(const chat_template *t, const chat_message *messages, size_t count,
                            bool prompt, span_builder *b);

/* "26 Jul 2024": SOURCE_DATE_EPOCH (UTC) where set, else the local date. */
enum { TEMPLATE_DATE = 32 };
void template_today(char out[TEMPLATE_DATE]);

/* The built-in names, separated by commas, for messages and --help. */
const char *chat_template_names(void);

#endif
