/* base_cache.h: which file holds the base's pages in a run, and when it is made:
 * `quantized_cache`, or with memory.base=disk and none named a hidden file in output_dir. What
 * is in it: model/base_pages.h. */
#ifndef NIBBLE_TRAINER_RUN_BASE_CACHE_H
#define NIBBLE_TRAINER_RUN_BASE_CACHE_H

#include "trainer/run/session.h"

/* Before the engine is opened: makes and opens the cache where the configuration or the plan
 * wants one, and gives the plan its disk offsets. A base on disk with neither file nor
 * output_dir is STATUS_USAGE. */
status base_cache_prepare(session *s, const load_progress *progress);
/* Fills what the engine holds of the base: from the cache where there is one, else from the
 * folder. Sets s->base_identity. */
status base_cache_load(session *s, const load_progress *progress);

#endif
