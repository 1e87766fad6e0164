/* help.h: everything that is printed about the program itself, made from the tables of
 * options.h, schema.h and dialect.h, so that it cannot be out of date. */
#ifndef NIBBLE_TRAINER_VERBS_HELP_H
#define NIBBLE_TRAINER_VERBS_HELP_H

#include "trainer/verbs/options.h"

/* The answer to an action other than ACTION_RUN, for standard output; free with mem_free, NULL
 * when out of memory. */
char *help_text(const command *c);

/* The page of all configuration keys (docs/configuration.md, train --keys). */
char *help_keys(void);

/* The completion script for bash. */
char *help_completion(void);

#endif
