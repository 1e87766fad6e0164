/* base_cache.h: the quantized base as a file of pages (checkpoints/cache.h): written once by
 * `quantized_cache`, `train quantize` or memory.base=disk, read at its pages' offsets afterwards.
 *
 * A page of the file is byte for byte a page of the plan (parameter.h). The metadata holds the layout's
 * hash (every parameter's name, format and place), the source's quick hash, and the full identity of
 * the source's tensors, so a cache of another base or another quantization is refused. */
#ifndef NIBBLE_TRAINER_RUN_BASE_CACHE_H
#define NIBBLE_TRAINER_RUN_BASE_CACHE_H

#include "trainer/run/session.h"

/* Streams the model's folder into a cache file. */
status base_cache_write(session *s, const char *path, const load_progress *progress);

/* Before the engine is opened: makes and opens the cache where the configuration or the plan wants one,
 * and gives the plan its disk offsets. Without output_dir or quantized_cache a base on disk is
 * STATUS_USAGE. */
status base_cache_prepare(session *s, const load_progress *progress);
/* Fills what the engine holds of the base: from the cache where there is one, else from the folder.
 * Sets s->base_identity. */
status base_cache_load(session *s, const load_progress *progress);

#endif
