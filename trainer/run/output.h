/* output.h: the output folder: whose it is, what state its run is in, what is removed when it
 * is overwritten. A run never touches another's output. */
#ifndef NIBBLE_TRAINER_RUN_OUTPUT_H
#define NIBBLE_TRAINER_RUN_OUTPUT_H

#include "checkpoints/lock.h"
#include "common/status.h"

#include <stdbool.h>

typedef enum output_kind {
    OUTPUT_FRESH,      /* absent, or nothing but our lock and a table of products in it */
    OUTPUT_UNFINISHED, /* a run began here */
    OUTPUT_FINISHED,   /* summary.json is there */
} output_kind;

/* Locks `folder` (making it) and says what it holds. A folder with files that are not ours is
 * STATUS_USAGE; one that cannot be written STATUS_IO; another run in it STATUS_LOCKED. */
status output_take(output_lock *lock, const char *folder, output_kind *kind);
/* Removes what runs write there, and nothing else. */
status output_clear(const char *folder);
/* Marks the beginning: writes the resolved configuration as config.yaml. */
status output_begin(const char *folder, const char *resolved);

#endif
