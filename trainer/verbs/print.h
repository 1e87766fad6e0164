/* print.h: a configuration as text again: what a run prints and stores, what --format json
 * shows, and what changed between a run and its resumption. All by walking the schema. */
#ifndef NIBBLE_TRAINER_VERBS_PRINT_H
#define NIBBLE_TRAINER_VERBS_PRINT_H

#include "common/status.h"
#include "trainer/run/config.h"

#include <jansson.h>

/* Every key that has a value, defaults included, without the folded spellings. NULL when out
 * of memory. */
json_t *config_to_json(const config *c);

/* The same as YAML that config_load reads back to an equal configuration; free with mem_free.
 */
char *config_to_yaml(const config *c);

/* The keys in which `now` differs from `before` in a way that changes the result, a line each
 * ("learning_rate: 0.0002 -> 0.0001\n"); "" when a run of the one may be resumed with the
 * other. Free *out with mem_free. */
status config_compare(const config *before, const config *now, char **out);

#endif
