/* cache.h: a quantized base, ready to be paged: one large HDF5 file and its manifest.
 *
 *   base.h5        one dataset of bytes per page, each in one piece at a multiple of 4 KiB
 *   base.h5.json   manifest: format, hash of the file, a quick hash, [name, offset, bytes] per
 *                  page, and the writer's metadata (formats, identity of the source, ...)
 *
 * A page is read with one pread at its offset, by O_DIRECT too: no library is between the disk
 * and the pager. 70B in NF4 is 35 GB; opening checks sizes, everything that is not page data,
 * and 256 sampled blocks (about 1 MB); cache_verify reads all of it. What a page holds is the
 * writer's matter. */
#ifndef NIBBLE_CHECKPOINTS_CACHE_H
#define NIBBLE_CHECKPOINTS_CACHE_H

#include "checkpoints/lock.h"
#include "checkpoints/manifest.h"
#include "common/file.h"

#include <stdatomic.h>

enum { CACHE_VERSION = 2, CACHE_ALIGN = 4096 /* bytes */ };

typedef struct cache_item {
    char *name;     /* 1 to 255 bytes without '/' */
    int64_t bytes;  /* at least 1 */
    int64_t offset; /* in the file; a multiple of CACHE_ALIGN */
} cache_item;

/* ---- writing ---- */

typedef struct cache_writer {
    file file; /* of path.tmp */
    char *path, *temporary;
    cache_item *items; /* [count], offsets known */
    size_t count;
    int64_t total;        /* bytes of all items */
    atomic_llong written; /* of them so far */
    output_lock lock;
} cache_writer;

/* Locks the path (STATUS_LOCKED when another process makes the same cache), checks the free
 * space and makes path.tmp with room for all items. The folder is made when absent. On failure
 * nothing remains. */
status cache_create(cache_writer *w, const char *path, const cache_item *items, size_t count);
/* Writes bytes [at, at + bytes) of an item. Any order, each byte once; threads may share the
 * writer. */
status cache_write(cache_writer *w, size_t item, int64_t at, const void *data, int64_t bytes);
/* Syncs, reads all of it back for its hash, and commits: the manifest comes last.
 * STATUS_INTERNAL when bytes are missing. The writer is empty afterwards in any case. */
status cache_finish(cache_writer *w, const json_t *metadata);
/* Removes the temporary file; for finished and zeroed writers too. */
void cache_abandon(cache_writer *w);

/* ---- reading ---- */

typedef struct cache {
    file file;
    manifest manifest;
    const json_t *metadata;
    cache_item *items; /* [count], in the file's order */
    size_t count;
} cache;

/* STATUS_MODEL when there is no such cache, or it is damaged, half written or of another
 * version. */
status cache_open(cache *c, const char *path);
void cache_close(cache *c);
/* The hash of the whole file: minutes for a large one. */
status cache_verify(const cache *c);
const cache_item *cache_find(const cache *c, const char *name); /* NULL: absent */
status cache_read(const cache *c, const cache_item *item, int64_t at, int64_t bytes,
                  void *out);

#endif
