/* synthetic.h: bases that nobody has to download: the true shapes of published models with
 * random weights, made where they are needed, to measure fit and speed of a card or a machine
 * before 140 GB are fetched.
 *
 * A folder named "synthetic:llama-3-8b" is such a base. It has a config.json's content and
 * weights, but no files and no tokenizer; what is trained on it is worth nothing. The weights
 * are the same in every run: 4-bit ones are random codes with scales that keep activations
 * near 1, the others noise around 0 (norms: around 1). */
#ifndef NIBBLE_TRAINER_MODEL_SYNTHETIC_H
#define NIBBLE_TRAINER_MODEL_SYNTHETIC_H

#include "common/json.h"
#include "trainer/model/weights.h"

#define SYNTHETIC_PREFIX "synthetic:"

/* Whether a base's name asks for one. */
bool synthetic_is(const char *folder);
/* The shape whose name a base's name holds ("NousResearch/Meta-Llama-3-8B" holds
 * "llama-3-8b", the longest counts); NULL: none. */
const char *synthetic_like(const char *base_model);
/* What config.json would be; STATUS_MODEL lists the names there are. */
status synthetic_config(const char *folder, json_t **out);

/* As weights_stream: every byte of every parameter of the base, once. */
status synthetic_stream(const decoder *d, const base_sink *sink,
                        const load_progress *progress);

#endif
