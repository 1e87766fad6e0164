/* choose.h: which files of a repository are fetched: those that the user's patterns name; else
 * all of a dataset, and of a model what training reads and people read, not the same weights
 * in other forms. */
#ifndef NIBBLE_TRAINER_HUB_CHOOSE_H
#define NIBBLE_TRAINER_HUB_CHOOSE_H

#include "trainer/hub/listing.h"

/* Patterns of the shell in which * also stands for /, as the Python library has them; one that
 * ends with / means all that is below. */
typedef struct hub_patterns {
    const char *const *items;
    size_t count; /* 0: the default */
} hub_patterns;

/* chosen[i] for each file of the listing. STATUS_USAGE when a pattern names nothing;
 * STATUS_MODEL, STATUS_DATA when there is nothing that training could read. */
status hub_choose(const hub_place *p, const hub_listing *l, const hub_patterns *patterns,
                  bool *chosen);

#endif
