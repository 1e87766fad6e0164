/* normalize.h: the normalizers of tokenizer.json: Sequence, NFC, NFD, NFKC, NFKD, Prepend,
 * Replace (text or pattern), Strip, Lowercase. Others are refused by name. Immutable. */
#ifndef NIBBLE_DATA_NORMALIZE_H
#define NIBBLE_DATA_NORMALIZE_H

#include "common/json.h"
#include "common/status.h"
#include "data/regex.h"
#include "data/text_buffer.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct normalizer normalizer;

/* From the value of "normalizer"; null or NULL gives one that changes nothing. */
status normalizer_open(normalizer **out, const json_t *json);
void normalizer_close(normalizer *n); /* NULL is fine */

/* Buffers of one thread. */
typedef struct normalizer_scratch {
    text_buffer text[2];
    struct code_list {
        int32_t *items; /* code points */
        size_t count, capacity;
    } codes, sorted;
    regex_scratch *regex; /* the caller's */
} normalizer_scratch;

void normalizer_scratch_free(normalizer_scratch *s); /* all but `regex` */

/* The normalized form of valid UTF-8, in the scratch or the input itself. *moved is set when
 * the first character is not the first of the input any more (Metaspace asks). */
status normalizer_apply(const normalizer *n, normalizer_scratch *s, const char *text,
                        size_t bytes, const char **out, size_t *out_bytes, bool *moved);

#endif
