/* decode.h: the decoders of tokenizer.json: Sequence, ByteLevel, Replace, ByteFallback, Fuse,
 * Strip, Metaspace. Others are refused by name. A decoder works on a list of tokens' texts. */
#ifndef NIBBLE_DATA_DECODE_H
#define NIBBLE_DATA_DECODE_H

#include "common/json.h"
#include "common/status.h"
#include "data/regex.h"
#include "data/text_buffer.h"

#include <stddef.h>

typedef struct decoder decoder;

/* From the value of "decoder"; null or NULL gives one that joins tokens with spaces. */
status text_decoder_open(decoder **out, const json_t *json);
void text_decoder_close(decoder *d); /* NULL is fine */

/* Texts one after another; the i-th ends at ends[i]. Zero it before the first use. */
typedef struct text_list {
    text_buffer text;
    size_t *ends;
    size_t count, capacity;
} text_list;

status text_list_add(text_list *list, const char *text, size_t bytes);
void text_list_free(text_list *list);

/* Turns the tokens into the text, which is then tokens->text. `scratch` is overwritten. */
status decoder_apply(const decoder *d, regex_scratch *matcher, text_list *tokens,
                     text_list *scratch);

#endif
