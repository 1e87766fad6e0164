/* hdf5_file.h: the skeleton of an HDF5 file: names, types, shapes and where the bytes are.
 *
 * libhdf5 is asked for the skeleton only. Writing: it lays out every dataset (contiguous,
 * allocated at once, never filled, aligned) and closes; the numbers are then written at the
 * offsets by common/file. Reading: it lists what is there, each thing is checked, and the
 * numbers are read by common/file. So injected faults, short files and paged data are handled
 * in one place, pages can be read directly, and libhdf5 never moves data.
 *
 *   superblock | root group | per tensor: object header, [data, aligned] ...
 *
 * What is accepted: hard links in the root group to contiguous, unfiltered, internal,
 * allocated 2-D datasets of the types below, each inside the file and apart from the others.
 * Everything else is refused by name: soft and external links, external or virtual storage,
 * chunks, filters, groups. libhdf5 1.10 crashes on corrupt metadata: verify a file's hash
 * before hdf5_list. libhdf5 is not thread-safe: one thread at a time calls these. */
#ifndef NIBBLE_CHECKPOINTS_HDF5_FILE_H
#define NIBBLE_CHECKPOINTS_HDF5_FILE_H

#include "autograd/tensor.h"

typedef struct hdf5_entry {
    char *name;            /* 1 to 255 bytes without '/' */
    tensor_format format;  /* dense: F32, F64, BF16, F16, I32, U8; at least one element */
    int64_t offset, bytes; /* in the file */
} hdf5_entry;

/* Makes the file `path` (which must not exist) with these datasets, in this order; sets their
 * offset and bytes. Data regions are holes until written. The same entries give the same
 * bytes. STATUS_IO on failure; what was made of the file is then the caller's to unlink. */
status hdf5_make(const char *path, hdf5_entry *entries, size_t count, int64_t alignment);

/* Lists a file, sorted by name. STATUS_MODEL when something in it is not as described above.
 */
status hdf5_list(const char *path, hdf5_entry **entries, size_t *count);
void hdf5_entries_free(hdf5_entry *entries, size_t count);
/* In a list sorted by name; NULL when absent. */
const hdf5_entry *hdf5_find(const hdf5_entry *entries, size_t count, const char *name);

#endif
