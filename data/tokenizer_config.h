/* tokenizer_config.h: what stands beside tokenizer.json: tokenizer_config.json,
 * special_tokens_map.json and chat_template.jinja.
 *
 * add_bos_token and add_eos_token are not read: with a tokenizer.json transformers 5 ignores
 * them too, its post-processor decides. */
#ifndef NIBBLE_DATA_TOKENIZER_CONFIG_H
#define NIBBLE_DATA_TOKENIZER_CONFIG_H

#include "common/json.h"
#include "common/status.h"
#include "data/added_tokens.h"

enum special_role { ROLE_BOS, ROLE_EOS, ROLE_PAD, ROLE_UNK, ROLES };

typedef struct tokenizer_config {
    json_t *config, *map;
    const char *special[ROLES]; /* the tokens' texts, into the above; NULL when absent */
    char *chat_template;        /* NULL when there is none */
} tokenizer_config;

/* Reads the files that are there. STATUS_MODEL for malformed ones. */
status tokenizer_config_read(tokenizer_config *c, const char *folder);
void tokenizer_config_free(tokenizer_config *c); /* a zeroed one is fine */

/* Adds the tokens of added_tokens_decoder and makes those special that the files name so. */
status tokenizer_config_add_tokens(const tokenizer_config *c, added_tokens *a);

#endif
