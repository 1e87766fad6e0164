/* prepared.h: rows in a file of their own, so that a second run need not tokenize again.
 *
 *   "NIBBLEROWS1\0" | XXH3-128 of all that follows | count, tokens, bytes of the report
 * (int64) | report | offsets [count + 1] int64 | ids [tokens] int32 | labels [tokens] int32
 *
 * Its name is the hash of everything that decides the rows. It is a cache: little-endian, of
 * this version only, and whatever is wrong with it, the rows are made anew. */
#ifndef NIBBLE_DATA_PREPARED_H
#define NIBBLE_DATA_PREPARED_H

#include "common/hash.h"
#include "common/status.h"
#include "data/rows.h"
#include "data/source.h"

#include <stdbool.h>

/* Reads folder/KEY.rows. *found is false when there is none. Anything but STATUS_OK leaves
 * *rows empty; the message says what is wrong with the file. */
status prepared_read(const char *folder, hash128 key, row_set *rows, dataset_report *report,
                     bool *found);
/* Writes it through a temporary file, fsync and rename. */
status prepared_write(const char *folder, hash128 key, const row_set *rows,
                      const dataset_report *report);

#endif
