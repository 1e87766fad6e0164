/* template.h: chat templates: conversations in, spans out.
 *
 * A template is the model's own or a text of the configuration, which are interpreted
 * (template_jinja.h), or one of the built-in ones, which carry Axolotl's names and are rows of
 * a table with a hand-written renderer: byte for byte what jinja2 makes of the template of
 * that name, with the labels that Axolotl gives, or a refusal with the reason. Field names of
 * rows and which turns are learned are conversation.h's matter. */
#ifndef NIBBLE_DATA_TEMPLATE_H
#define NIBBLE_DATA_TEMPLATE_H

#include "common/hash.h"
#include "common/status.h"
#include "data/conversation.h"
#include "data/spans.h"
#include "data/template_jinja.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct chat_template chat_template;

/* `name`: a built-in name; NULL, "" or "tokenizer_default" for the model's own;
 * "tokenizer_default_fallback_NAME" for the model's own, or NAME where it has none; a path of
 * a file with a template (it has a / or ends with .jinja). `own`: the model's template text,
 * NULL when there is none. `today`: "26 Jul 2024", for templates that ask for the date; NULL =
 * template_today. STATUS_USAGE for an unknown name, STATUS_MODEL for a template that is wrong
 * or uses what is not supported, with the way out. Immutable; usable from several threads. */
status chat_template_open(chat_template **out, const char *name, const char *own,
                          const char *today, const token_names *names);

/* What a configuration says of the template. */
typedef struct template_choice {
    const char *name; /* chat_template; "jinja": the text */
    const char *text; /* chat_template_jinja: a template, or the path of a file with one */
    const json_t *variables; /* chat_template_kwargs, for interpreted templates; NULL: none */
    const char *own, *today; /* as above */
} template_choice;
/* The same with all that; a text without a name, or with the name jinja, is taken. */
status chat_template_choose(chat_template **out, const template_choice *c,
                            const token_names *names);
void chat_template_close(chat_template *t); /* NULL is fine */

const char *chat_template_name(const chat_template *t);
/* The date that the template states, NULL when it states none: part of the data's identity. */
const char *chat_template_date(const chat_template *t);
/* The token that ends an assistant's turn; -1 when the tokenizer spells it as text. */
int32_t chat_template_end(const chat_template *t);
/* Takes what decides the renderings into a hash. */
status chat_template_identify(const chat_template *t, hash_stream *h);
/* Whether it is interpreted, and takes whatever messages hold: chat_fields.whole. */
bool chat_template_interprets(const chat_template *t);
/* Whether the template would render a list of tools, which this one cannot. */
bool chat_template_refuses_tools(const chat_template *t);

/* Appends the conversation; with `prompt` what makes the model answer next
 * (add_generation_prompt). STATUS_DATA when the template refuses the conversation, or what is
 * to be learned of it is not in the text. */
status chat_template_render(const chat_template *t, const conversation *c, bool prompt,
                            chat_work *w, span_builder *b);

/* What an interpreted template makes of {messages, tools, variables}, as text, valid until w is
 * used again. STATUS_DATA, and *error is "TemplateError: ..." (else NULL), where the template
 * refuses. */
status chat_template_text(const chat_template *t, const json_t *data, bool prompt,
                          chat_work *w, const char **text, size_t *bytes, const char **error);

/* "26 Jul 2024": SOURCE_DATE_EPOCH (UTC) where set, else the local date. */
enum { TEMPLATE_DATE = 32 };
void template_today(char out[TEMPLATE_DATE]);

/* The built-in names, separated by commas, for messages and --help. */
const char *chat_template_names(void);

#endif
