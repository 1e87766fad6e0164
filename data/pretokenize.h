/* pretokenize.h: the pre-tokenizers of tokenizer.json: Sequence, Split (all behaviours),
 * ByteLevel, Metaspace, Digits, Whitespace, WhitespaceSplit, Punctuation. Others are refused
 * by name.
 *
 * Pieces are handed to a function one after another: nothing grows with the text but the
 * buffers of steps that change it. Immutable. */
#ifndef NIBBLE_DATA_PRETOKENIZE_H
#define NIBBLE_DATA_PRETOKENIZE_H

#include "common/json.h"
#include "common/status.h"
#include "data/regex.h"
#include "data/text_buffer.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct pretokenizer pretokenizer;

/* From the value of "pre_tokenizer"; null or NULL gives one that makes one piece of all.
 * `scanners` allows the hand-written ones (tests compare both ways). */
status pretokenizer_open(pretokenizer **out, const json_t *json, bool scanners);
void pretokenizer_close(pretokenizer *p); /* NULL is fine */

/* ByteLevel as the last step does not rewrite the text: the pieces are raw bytes, and the
 * model's vocabulary is read as bytes. Whether that is so; forbid it before the first use. */
bool pretokenizer_gives_bytes(const pretokenizer *p);
void pretokenizer_forbid_bytes(pretokenizer *p);
/* Whether it may cut at all. */
bool pretokenizer_is_empty(const pretokenizer *p);

enum { PRETOKENIZER_STEPS = 16 };

/* Buffers of one thread. */
typedef struct pretokenizer_scratch {
    text_buffer prefixed[PRETOKENIZER_STEPS]; /* a step's input with a space before it */
    text_buffer text[PRETOKENIZER_STEPS];     /* what a step that rewrites has written */
    regex_scratch *regex;                     /* the caller's */
} pretokenizer_scratch;

void pretokenizer_scratch_free(pretokenizer_scratch *s); /* all but `regex` */

typedef status (*piece_sink)(void *context, const char *piece, size_t bytes);

/* Cuts valid UTF-8 and hands every piece that is not empty to `sink`; the first status but
 * STATUS_OK ends it. `at_start`: the text begins where the user's does. */
status pretokenize(const pretokenizer *p, pretokenizer_scratch *s, const char *text,
                   size_t bytes, bool at_start, piece_sink sink, void *context);

#endif
