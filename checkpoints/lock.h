/* lock.h: one run per output folder, one writer per cache.
 *
 * flock on <folder>/.lock, taken before anything else in the folder is touched and held until
 * the process ends or closes it; the kernel lets go when a process dies, so a lock file that
 * was left behind means nothing. The file's text (pid and host) is only for the message. */
#ifndef NIBBLE_CHECKPOINTS_LOCK_H
#define NIBBLE_CHECKPOINTS_LOCK_H

#include "common/status.h"

typedef struct output_lock {
    int fd; /* 0: not held */
} output_lock;

/* Makes the folder when absent. STATUS_LOCKED, at once and without a byte written, naming pid
 * and host when another process holds it. Where the file system has no locks: a warning, and
 * on. */
status output_lock_take(output_lock *lock, const char *folder);
/* The same for one file that is being made: the lock is <path>.lock, beside it. */
status output_lock_take_file(output_lock *lock, const char *path);
void output_lock_release(output_lock *lock); /* a zeroed lock may be released */

#endif
