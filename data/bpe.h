/* bpe.h: byte pair encoding: a piece of text to ids, with merges in the order of their rank.
 *
 * Options as in tokenizer.json's "model": unk_token, fuse_unk, byte_fallback, ignore_merges;
 * dropout and prefixes or suffixes are refused. A piece of n symbols costs O(n log n): a few
 * symbols by scanning for the least rank, more with a heap. A piece that is a token and would
 * be merged to just that token is looked up (learned once per token), which is what happens to
 * most words. Shared by threads: nothing changes after bpe_seal but that knowledge, which is
 * atomic. */
#ifndef NIBBLE_DATA_BPE_H
#define NIBBLE_DATA_BPE_H

#include "common/json.h"
#include "common/status.h"
#include "data/tokenizer.h"
#include "data/vocabulary.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct bpe bpe;

/* Buffers of one thread; zero it before the first use. */
typedef struct bpe_scratch {
    int32_t *ids;
    uint64_t *merges, *heap;
    uint32_t *previous, *next;
    size_t capacity, list_capacity;
} bpe_scratch;

void bpe_scratch_free(bpe_scratch *s);

/* From the value of "model". `bytes`: pieces are raw bytes, and the vocabulary is written in
 * the byte-level alphabet; otherwise both are characters. STATUS_MODEL. */
status bpe_open(bpe **out, const json_t *model, bool bytes);
void bpe_close(bpe *b); /* NULL is fine */

/* The model's own vocabulary, as written in the file. */
const vocabulary *bpe_tokens(const bpe *b);

/* Tells that a token controls the model and must never come out of plain text. All of them
 * before bpe_seal, which ends the preparation. */
void bpe_mark_control(bpe *b, int32_t id);
void bpe_seal(bpe *b);

/* Appends the ids of a piece of at least one byte. `plain`: no control token can come out.
 * STATUS_DATA when a character is unknown and the unknown token is too. */
status bpe_encode(const bpe *b, bpe_scratch *s, const char *piece, size_t bytes, bool plain,
                  id_list *out);

#endif
