/* safetensors.h: reading one .safetensors file, whoever wrote it.
 *
 *   [u64 N, little endian] [N bytes of JSON: name -> dtype, shape, data_offsets] [the tensors]
 *
 * The header is checked as the reference implementation checks it (huggingface/safetensors
 * 0.8, tensor.rs): at most 100 MB, every byte after it belongs to exactly one tensor, size =
 * shape x dtype, no overflow. Beyond it duplicate names are refused. Tensors are read by pread
 * into the caller's memory; nothing is mapped, so a file that shrinks is an error and not a
 * signal. Writing is safetensors_writer.h; which file holds which tensor of a model is
 * model_files.h. */
#ifndef NIBBLE_CHECKPOINTS_SAFETENSORS_H
#define NIBBLE_CHECKPOINTS_SAFETENSORS_H

#include "autograd/tensor.h"
#include "common/file.h"
#include "common/json.h"

enum { SAFETENSORS_MAX_HEADER = 100 * 1000 * 1000 }; /* bytes, the reference's limit */

typedef struct safetensors_entry {
    const char *name;
    const char *type_name; /* as the file says: "BF16" */
    dtype type; /* DTYPE_COUNT: nothing that we compute with (I64, BOOL, F8_E4M3, ...) */
    int rank;
    const int64_t *shape; /* [rank] */
    int64_t elements, bytes;
    int64_t offset; /* of its first byte, from the start of the file */
} safetensors_entry;

typedef struct safetensors {
    file file;
    size_t count;
    safetensors_entry *entries; /* [count], sorted by offset */
    const safetensors_entry **by_name;
    int64_t *shapes;
    json_t *header;         /* owns the names */
    const json_t *metadata; /* "__metadata__", strings only; NULL when absent */
    int64_t header_bytes; /* with the length in front of it */
} safetensors;

/* Opens and checks. STATUS_MODEL: missing file, Git-LFS pointer, malformed header; the message
 * names the file and the tensor. On failure there is nothing to close. */
status safetensors_open(safetensors *st, const char *path);
/* A closed or zeroed struct may be closed. */
void safetensors_close(safetensors *st);

/* NULL when there is no such tensor. */
const safetensors_entry *safetensors_find(const safetensors *st, const char *name);

/* Bytes [first, first + bytes) of a tensor; the range must lie inside it (else
 * STATUS_INTERNAL). STATUS_IO, naming file and offset, when the file cannot give them.
 * Thread-safe. */
status safetensors_read(const safetensors *st, const safetensors_entry *entry, int64_t first,
                        int64_t bytes, void *out);

/* The file format's name of a type ("BF16"), NULL for 4-bit ones, which it does not have. */
const char *safetensors_type_name(dtype type);
/* The place of a type in the reference's order: it lays larger types out first. */
int safetensors_type_order(dtype type);

/* "[64, 128]" into a message's buffer. Returns `text`. */
char *safetensors_shape_text(const safetensors_entry *entry, char *text, size_t bytes);

#endif
