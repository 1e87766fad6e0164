/* hub.h: where a model or dataset lies. A name in the configuration is a path when that
 * exists, else org/name, which is looked up in the local Hugging Face cache:
 *
 *     CACHE/models--org--name/refs/main            the commit, 40 hexadecimal digits
 *     CACHE/models--org--name/snapshots/COMMIT/    the files
 *
 * with CACHE the first of HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub and
 * ~/.cache/huggingface/hub that the environment names. Nothing is downloaded: the message says
 * the one command that does. */
#ifndef NIBBLE_TRAINER_VERBS_HUB_H
#define NIBBLE_TRAINER_VERBS_HUB_H

#include "common/status.h"

/* The folder of a model; `revision` is a branch, tag or commit, NULL: main. STATUS_MODEL when
 * it is not there. Free *path with mem_free. */
status hub_find_model(const char *name, const char *revision, char **path);

/* The file or folder of a dataset, likewise. STATUS_DATA when it is not there. */
status hub_find_dataset(const char *name, const char *revision, char **path);

#endif
