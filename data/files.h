/* files.h: which files a dataset's path means. A file is itself. In a folder (or a snapshot of
 * the Hugging Face cache) data files are those with a known ending, and a word in their names
 * says which split they are (train-00000-of-00002.jsonl, test.json), as on the hub; without
 * any such word all are `train`. */
#ifndef NIBBLE_DATA_FILES_H
#define NIBBLE_DATA_FILES_H

#include "common/hash.h"
#include "common/status.h"

#include <stddef.h>

typedef struct file_names {
    char **items;
    size_t count, capacity;
} file_names;

/* `name`: a folder in `path`, or NULL. `wanted`: files in it, 0 = by their names and `split`
 * (as the configuration writes it, slices and all). Sorted. STATUS_DATA with what is there,
 * when nothing fits.
 */
status files_find(file_names *out, const char *path, const char *name,
                  const char *const *wanted, size_t wanted_count, const char *split);
void files_free(file_names *f);

/* Takes a file's bytes into a hash. */
status files_hash(const char *path, hash_stream *h);

#endif
