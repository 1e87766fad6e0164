/* model_files.h: the weights of a Hugging Face folder as one set of named tensors.
 *
 * model.safetensors, or model.safetensors.index.json with its shards. Every shard is opened
 * and checked at once, so that a missing or damaged one is known before anything is loaded.
 * This file does not know what the names mean; config.json is trainer/model's matter. */
#ifndef NIBBLE_CHECKPOINTS_MODEL_FILES_H
#define NIBBLE_CHECKPOINTS_MODEL_FILES_H

#include "checkpoints/safetensors.h"

typedef struct model_tensor {
    const safetensors *file;
    const safetensors_entry *entry; /* name, type, shape, bytes */
} model_tensor;

typedef struct model_files {
    char *folder;
    safetensors *shards; /* [shard_count], in the order of their names */
    size_t shard_count;
    model_tensor *tensors; /* [count], sorted by name */
    size_t count;
} model_files;

/* STATUS_MODEL: no weights (other formats found are named), an index that names an absent
 * shard or a tensor that its shard lacks, one name in two shards. On failure there is nothing
 * to close. */
status model_files_open(model_files *m, const char *folder);
void model_files_close(model_files *m);

/* False when there is no such tensor. */
bool model_files_find(const model_files *m, const char *name, model_tensor *out);
/* The same, but absence is STATUS_MODEL and the message names folder and tensor. */
status model_files_get(const model_files *m, const char *name, model_tensor *out);
/* Bytes [first, first + bytes) of a tensor. */
status model_tensor_read(const model_tensor *t, int64_t first, int64_t bytes, void *out);

#endif
