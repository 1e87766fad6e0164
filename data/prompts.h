/* prompts.h: instruction datasets: one prompt made of fields by a format, one answer. The
 * built-in formats are Axolotl's (alpaca and its kin), any other is given as text with
 * {instruction}, {input} and {system} in it. As there, prompt and answer are tokenized apart:
 * BOS where the tokenizer adds it, prompt, answer, EOS. Knows JSON rows and spans, no files
 * and no chat templates. */
#ifndef NIBBLE_DATA_PROMPTS_H
#define NIBBLE_DATA_PROMPTS_H

#include "common/json.h"
#include "common/status.h"
#include "data/spans.h"

#include <stdbool.h>

/* A format as text; NULL = the built-in type's. */
typedef struct prompt_format {
    const char *field_instruction, *field_input, *field_output, *field_system;
    const char *format;          /* with {instruction} and {input}; {{ and }} are braces */
    const char *no_input_format; /* where the row has no input */
    const char *system_format;   /* with {system}; before the above */
    const char *system_prompt;   /* the system text where the row has no field_system */
    const char *system_no_input; /* ... and no input */
} prompt_format;

typedef struct prompt prompt;

/* Whether `type` names a built-in format. */
bool prompt_is_type(const char *type);

/* `type`: a built-in name, or NULL for a format of one's own; what `own` sets overrides.
 * STATUS_USAGE for an unknown type, a missing format or an unknown {field}. Immutable; for
 * several threads. */
status prompt_open(prompt **out, const char *type, const prompt_format *own,
                   const token_names *names);
void prompt_close(prompt *p); /* NULL is fine */

/* Appends a row. STATUS_DATA (without a place) when a field is missing or no text. */
status prompt_render(const prompt *p, const json_t *row, bool train_on_inputs,
                     span_builder *b);

/* BOS where the tokenizer begins texts with it, the text, EOS: one document of plain text. */
status prompt_render_text(const char *text, size_t bytes, span_builder *b);

#endif
