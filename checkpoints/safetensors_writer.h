/* safetensors_writer.h: writing one .safetensors file, streaming.
 *
 *   create -> declare every tensor -> begin -> write pieces -> finish (or abandon)
 *
 * The layout is the reference's (larger types first, then by name), so the same tensors give
 * the same bytes as its `save_file`. Pieces of different tensors may be written in any order,
 * those of one tensor in theirs. Everything goes to path.tmp; only finish, after an fsync,
 * gives the file its name: a reader never meets half of it. Errors are STATUS_IO; after one,
 * abandon. */
#ifndef NIBBLE_CHECKPOINTS_SAFETENSORS_WRITER_H
#define NIBBLE_CHECKPOINTS_SAFETENSORS_WRITER_H

#include "autograd/tensor.h"
#include "common/file.h"

typedef struct safetensors_item {
    char *name;
    dtype type;
    int rank;
    int64_t shape[8];
    int64_t offset, bytes; /* from the start of the data */
    int64_t written;
} safetensors_item;

typedef struct safetensors_writer {
    file file;
    char *path, *temporary;
    safetensors_item *items; /* sorted by place once begun */
    size_t count, capacity;
    const char *base_hash; /* becomes __metadata__.base_xxh3_128; may be set before begin */
    int64_t data_start;    /* 0 until begun */
} safetensors_writer;

/* Nothing is on disk yet. */
status safetensors_create(safetensors_writer *w, const char *path);
/* rank <= 8; STATUS_INTERNAL for a 4-bit type, a duplicate name, or after begin. */
status safetensors_declare(safetensors_writer *w, const char *name, dtype type, int rank,
                           const int64_t *shape);
/* Lays out and writes the header. `format` becomes __metadata__.format ("pt" is what Hugging
 * Face asks for); NULL: no metadata. */
status safetensors_begin(safetensors_writer *w, const char *format);
/* The next `bytes` of tensor `name`. */
status safetensors_write(safetensors_writer *w, const char *name, const void *data,
                         size_t bytes);
/* STATUS_INTERNAL when a tensor is incomplete. The writer is empty afterwards in any case, and
 * on failure the temporary file is gone. */
status safetensors_finish(safetensors_writer *w);
/* Removes the temporary file. A finished or zeroed writer may be abandoned. */
void safetensors_abandon(safetensors_writer *w);

#endif
