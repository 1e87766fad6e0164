/* examples.h: rows as a person (or a script) can look at them: tokens, what is learned of them,
 * how long they are. */
#ifndef NIBBLE_TRAINER_VERBS_EXAMPLES_H
#define NIBBLE_TRAINER_VERBS_EXAMPLES_H

#include "common/json.h"
#include "data/rows.h"
#include "data/tokenizer.h"

/* Row `row` on stdout. In colour learned tokens are green, the others grey, control tokens (BOS,
 * EOS, borders of turns) bold; without, learned runs stand in [[ ]]. */
status example_text(const tokenizer *t, const row_set *rows, int64_t row);
/* {"ids": [...], "labels": [...]} in one line. */
status example_json(const row_set *rows, int64_t row);

/* A histogram of lengths on stdout; as [{"to": tokens, "rows": n}, ...], NULL: out of memory. */
void lengths_text(const row_set *rows);
json_t *lengths_json(const row_set *rows);

#endif
