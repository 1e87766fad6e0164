/* base_cache.h: the quantized base as a file of pages: written once (`quantized_cache`, `train
 * quantize`, memory.base: disk), read directly at its pages' offsets afterwards. */
#ifndef NIBBLE_TRAINER_RUN_BASE_CACHE_H
#define NIBBLE_TRAINER_RUN_BASE_CACHE_H

#include "trainer/run/session.h"

/* memory.base=disk: makes sure that the pages' file is there (the configured cache, else a hidden file in
 * output_dir that the session removes), opens it as s->disk and gives its offsets to the plan. */
status base_cache_to_disk(session *s, const load_progress *progress);
/* Fills what the engine holds of the base: from the cache where it is, else from the model's folder. */
status base_cache_load(session *s, const load_progress *progress);

#endif
