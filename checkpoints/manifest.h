/* manifest.h: the small JSON file that vouches for a large one.
 *
 *   {"format": "nibble-checkpoint", "version": 1, "file": "step-000123.h5", "bytes": 6291456,
 *    "xxh3_128": "...", ... what the format adds, "check": "..."}
 *
 * "check" is the hash of the rest of it, so that no digit changes unseen. It is written after
 * its data is synced, and its rename is the commit: data without a manifest does not exist.
 * Checkpoints and quantized caches both have one. */
#ifndef NIBBLE_CHECKPOINTS_MANIFEST_H
#define NIBBLE_CHECKPOINTS_MANIFEST_H

#include "common/hash.h"
#include "common/json.h"

typedef struct manifest {
    json_t *json;    /* all of it */
    char *data_path; /* the file that it vouches for, in the same folder */
    int64_t bytes;   /* of that file */
    hash128 hash;    /* of that file */
} manifest;

/* Writes `path` through a temporary file, with the keys of `more` after the common ones. */
status manifest_write(const char *path, const char *format, int version, const char *data_name,
                      int64_t bytes, hash128 hash, const json_t *more);

/* Reads and checks all but the data itself. STATUS_MODEL when it is missing, malformed,
 * changed, of another format or version, or when the data file is absent or of another size.
 */
status manifest_read(manifest *m, const char *path, const char *format, int version);
void manifest_close(manifest *m);

/* Hashes the data file: STATUS_MODEL when it is not what was vouched for. */
status manifest_verify(const manifest *m);

#endif
