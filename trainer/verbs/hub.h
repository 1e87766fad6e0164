/* hub.h: where a model or dataset lies. A name in the configuration is a path when that
 * exists, else org/name, which is looked up in the local Hugging Face cache
 * (trainer/hub/cache.h). Nothing is downloaded: the message says the one command that does. */
#ifndef NIBBLE_TRAINER_VERBS_HUB_H
#define NIBBLE_TRAINER_VERBS_HUB_H

#include "common/status.h"
#include "trainer/hub/cache.h"

#include <stdbool.h>

/* The folder of a model; `revision` is a branch, tag or commit, NULL: main. STATUS_MODEL when
 * it is not there. Free *path with mem_free. */
status hub_find_model(const char *name, const char *revision, char **path);

/* The file or folder of a dataset, likewise. STATUS_DATA when it is not there. */
status hub_find_dataset(const char *name, const char *revision, char **path);

/* Whether a name of a configuration is to be looked for in the cache: it is no path that
 * exists, no synthetic model, and not spelt like a file. */
bool hub_names_repository(hub_kind kind, const char *name);

#endif
