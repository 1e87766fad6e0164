/* base_pages.h: the base as a file of pages: quantized once, read as it is afterwards.
 *
 * One item of the cache file (checkpoints/cache.h) per page of MEM_BASE ("layer.N") and
 * MEM_EMBEDDING ("embedding"; "head" with the final norm, and a tied embedding), laid out as the decoder's parameter table lays them out, so
 * that the pager reads a page from the disk with one pread. The metadata holds a hash of that
 * layout, the quick hash of the model's files and the identity of all their tensors: a cache
 * of another model, another quantization or another version of the layout is refused, not
 * used.
 *
 * Writing streams from the model's folder in bounded memory, without an engine: so a base
 * larger than memory can be trained on (memory.base: disk). */
#ifndef NIBBLE_TRAINER_MODEL_BASE_PAGES_H
#define NIBBLE_TRAINER_MODEL_BASE_PAGES_H

#include "checkpoints/cache.h"
#include "trainer/model/weights.h"

/* Quantizes w's base into `path` for a decoder of this layout. STATUS_USAGE with full
 * training, whose weights change. Errors of cache.h; on failure nothing is under `path`. */
status base_pages_write(weights *w, const decoder *d, const char *path,
                        const load_progress *progress);

/* Opens it and checks that it belongs to w and d: STATUS_MODEL, saying what differs. Also
 * gives w the identity that was taken when it was written. */
status base_pages_open(cache *c, const char *path, weights *w, const decoder *d);

/* Tells the plan where the pages that it puts on disk are: the file to give engine_open is
 * &c->file. */
void base_pages_place(const cache *c, const decoder *d, plan *p);

/* Fills what the engine holds itself: embedding and head, and all layers unless they are on
 * disk. */
status base_pages_load(const cache *c, const decoder *d, const plan *p, engine *e,
                       const load_progress *progress);

#endif
