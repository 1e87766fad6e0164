/* files.h: which files a dataset's path means, as Hugging Face's datasets chooses them. A
 * file is itself; a pattern (glob.h) is what matches it; in a folder, or a snapshot of the
 * Hugging Face cache, in this order:
 *
 *   data_files           the files and patterns that the configuration names
 *   README.md            the card's `configs:` (dataset_card.h), of which `name` chooses one
 *   data/SPLIT-00000-of-00003-xyz.parquet
 *   train/..., a/test-2/...     a folder that is called like a split
 *   train-1.jsonl, my_test.csv  files that are
 *   else all data files are `train`
 *
 * with train (training), validation (valid, val, dev) and test (testing, eval, evaluation) as
 * words between - . _ spaces and digits. Data files are those with a known ending, also with
 * .gz or .zst behind it; of several formats side by side the most frequent is meant. */
#ifndef NIBBLE_DATA_FILES_H
#define NIBBLE_DATA_FILES_H

#include "common/hash.h"
#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct file_names {
    char **items;
    size_t count, capacity;
} file_names;

/* `name`: a configuration of the card, else a folder in `path`, or NULL. `wanted`:
 * data_files, 0 = none named. `split`: as the configuration writes it, slices and all.
 * Sorted, but for files named one by one. STATUS_DATA with what is there, when nothing fits.
 */
status files_find(file_names *out, const char *path, const char *name,
                  const char *const *wanted, size_t wanted_count, const char *split);
void files_free(file_names *f);

/* Whether a dataset's path is none, but the name of a format whose files data_files names:
 * json, csv, parquet or text. */
bool files_is_format(const char *path);

/* Takes a file's bytes into a hash. */
status files_hash(const char *path, hash_stream *h);

#endif
