/* checkpoint.h: the state of a training run in <output_dir>/checkpoints/, committed so that no
 * crash, full disk or kill -9 loses the last good one.
 *
 *   step-000123.h5    HDF5: one dataset per named tensor, and "json", the caller's other state
 *   step-000123.json  its manifest; that it exists is the commit
 *
 * Save: write step-N.h5.tmp, sync, read it back from the disk and compare, rename, write the
 * manifest (through its own temporary file), and only when that is verified remove older ones.
 * Load: the newest manifest whose file has the promised hash, else the one before, with a
 * warning; libhdf5 sees no byte before that. "Newest" is the manifest's own count of saves,
 * not a clock and not the step: a run that went back to step 200 and saves step 250 supersedes
 * a step 300. The caller holds the output folder's lock (lock.h) while saving. What the
 * tensors and the JSON mean, and whether this run may go on from them, is the trainer's
 * matter. */
#ifndef NIBBLE_CHECKPOINTS_CHECKPOINT_H
#define NIBBLE_CHECKPOINTS_CHECKPOINT_H

#include "checkpoints/hdf5_file.h"
#include "checkpoints/named_tensor.h"
#include "common/file.h"
#include "common/json.h"

enum { CHECKPOINT_VERSION = 1 };

/* Saves `content` (an object) and the tensors (names unique, without '/', not "json"). `keep`
 * is how many checkpoints remain, this one included; 0: all. On failure (STATUS_IO,
 * STATUS_MEMORY
 * ...) the older ones are as before and nothing of this one counts; the run may go on and try
 * again later. */
status checkpoint_save(const char *output_dir, int64_t step, const json_t *content,
                       const named_tensor *tensors, size_t count, int keep);

typedef struct checkpoint {
    char *path; /* of the HDF5 file */
    int64_t step;
    json_t *content;
    file file;
    hdf5_entry *entries; /* [count], sorted by name, "json" among them */
    size_t count;
} checkpoint;

/* Opens the newest good one. None at all: STATUS_OK and *found false. Some, but none usable:
 * STATUS_MODEL. Each one that is passed over is a warning with the reason. */
status checkpoint_find(const char *output_dir, checkpoint *c, bool *found);
/* Opens a certain one: its manifest, its .h5, or an output folder (then the newest in it). */
status checkpoint_open(const char *path, checkpoint *c);
void checkpoint_close(checkpoint *c); /* closed and zeroed ones are fine */

bool checkpoint_has(const checkpoint *c, const char *name);
/* Bytes [first, first + bytes) of a tensor; STATUS_MODEL when it is absent or not exactly of
 * this type and shape, with both shapes in the message. */
status checkpoint_read_part(const checkpoint *c, const char *name,
                            const tensor_format *expected, int64_t first, int64_t bytes,
                            void *out);
/* All of it. */
status checkpoint_read(const checkpoint *c, const char *name, const tensor_format *expected,
                       void *out);

#endif
