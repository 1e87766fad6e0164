/* added_tokens.h: tokens that are found in the text before anything else is done to it.
 *
 * As in the `tokenizers` library: first those that are not normalized, in the text as it is,
 * then the normalized ones (by their normalized form) in the normalized rest; each time the
 * leftmost match, of those the longest. Ids are the vocabulary's, or follow on. Immutable once
 * sealed. */
#ifndef NIBBLE_DATA_ADDED_TOKENS_H
#define NIBBLE_DATA_ADDED_TOKENS_H

#include "common/json.h"
#include "common/status.h"
#include "data/bpe.h"
#include "data/normalize.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct added_token {
    char *content; /* NUL-terminated, may hold NULs */
    size_t bytes;
    char *pattern; /* what is looked for: the content, or its normalized form */
    size_t pattern_bytes;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
} added_token;

typedef struct added_tokens added_tokens;

status added_tokens_open(added_tokens **out, const bpe *model);
void added_tokens_close(added_tokens *a); /* NULL is fine */

/* Adds "added_tokens" of tokenizer.json: objects with id, content and the flags. */
status added_tokens_read(added_tokens *a, const json_t *list, const char *where);
/* Adds one object; its id is -1 when not given. One that is there already gets the new flags.
 */
status added_tokens_put(added_tokens *a, const json_t *object, int64_t id, const char *where);
/* Makes a text of the vocabulary a special token; nothing when it is unknown. */
status added_tokens_put_special(added_tokens *a, const char *content);

/* Computes the normalized forms and orders everything for matching. */
status added_tokens_seal(added_tokens *a, const normalizer *n, normalizer_scratch *scratch);

size_t added_tokens_count(const added_tokens *a);
const added_token *added_tokens_at(const added_tokens *a, size_t index);
const added_token *added_tokens_by_id(const added_tokens *a, int32_t id);
const added_token *added_tokens_by_content(const added_tokens *a, const char *text,
                                           size_t bytes);

/* Gets the parts of a text in order: a token's id (>= 0) or -1 with a stretch that is not
 * empty. */
typedef status (*part_sink)(void *context, int32_t id, const char *text, size_t bytes);

/* Cuts valid UTF-8 at the tokens that are `normalized` or not. `plain`: special tokens do not
 * count. */
status added_tokens_split(const added_tokens *a, bool normalized, bool plain, const char *text,
                          size_t bytes, part_sink sink, void *context);

#endif
