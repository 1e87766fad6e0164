/* tokenizer.h: text to token ids and back, exactly as the Hugging Face `tokenizers` library.
 *
 * A tokenizer is read from a folder's tokenizer.json (and the special tokens and flags of
 * tokenizer_config.json, special_tokens_map.json where present). Kinds: byte-level BPE (GPT-2,
 * Llama 3, Qwen) and SentencePiece-style BPE with byte fallback (Llama 2, Mistral, TinyLlama).
 * What is not understood is refused by name, never approximated. Immutable after opening and
 * usable from several threads at once. */
#ifndef NIBBLE_DATA_TOKENIZER_H
#define NIBBLE_DATA_TOKENIZER_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tokenizer tokenizer;

/* A growing list of ids; zero it before the first use, free items with mem_free. */
typedef struct id_list {
    int32_t *items;
    size_t count, capacity;
} id_list;

/* Appends n ids. STATUS_MEMORY or STATUS_OK. */
status id_list_append(id_list *list, const int32_t *items, size_t n);

/* Reads folder/tokenizer.json. STATUS_MODEL for missing, malformed or unsupported files. */
status tokenizer_open(tokenizer **out, const char *folder);
void tokenizer_close(tokenizer *t); /* NULL is fine */

enum {
    TOKENIZER_ADD_SPECIAL = 1, /* the post-processor's BOS/EOS, as add_special_tokens=True */
    TOKENIZER_PLAIN_TEXT = 2,  /* somebody's words: text of special tokens stays text */
    TOKENIZER_INSIDE = 4,      /* the text goes on after a control token: no first-word mark */
};

/* Appends the ids of UTF-8 `text` to *out. Invalid UTF-8 is STATUS_DATA with the byte offset.
 * Linear in `bytes` but for the O(n log n) merging inside one piece; bounded stack. */
status tokenizer_encode(const tokenizer *t, const char *text, size_t bytes, unsigned flags,
                        id_list *out);

/* The text of n ids, NUL-terminated, to be freed with mem_free; `bytes` (may be NULL) without
 * the NUL. An id outside the vocabulary is STATUS_DATA; with `skip_special` it is skipped too,
 * for models have more rows than their tokenizer has ids and may answer with one of those. */
status tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                        char **out, size_t *bytes);

int32_t tokenizer_size(const tokenizer *t);                  /* largest id + 1 */
int32_t tokenizer_id(const tokenizer *t, const char *token); /* -1 when there is none */
const char *tokenizer_token(const tokenizer *t,
                            int32_t id); /* as in the vocabulary; NULL when none */
bool tokenizer_is_special(const tokenizer *t, int32_t id);
/* Whether an added token takes the white space before it, and behind it, along. */
void tokenizer_strips(const tokenizer *t, int32_t id, bool *left, bool *right);
/* Ids named by tokenizer_config.json / special_tokens_map.json; -1 when absent. */
int32_t tokenizer_bos(const tokenizer *t);
int32_t tokenizer_eos(const tokenizer *t);
int32_t tokenizer_pad(const tokenizer *t);
int32_t tokenizer_unk(const tokenizer *t);
bool tokenizer_adds_bos(
    const tokenizer *t); /* whether TOKENIZER_ADD_SPECIAL begins a text with BOS */
/* The chat template: chat_template.jinja, else tokenizer_config.json's (string, or the one
 * named "default" of a list); NULL when there is none. */
const char *tokenizer_chat_template(const tokenizer *t);

#endif
