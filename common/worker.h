/* worker.h: one thread that runs tasks in the order they were given, and events that say when.
 *
 * The CPU back end's copy and disk queues and the data loader are workers, so overlap and
 * paging are real and tested without a GPU. A task that fails makes the worker's status
 * sticky: later tasks are skipped, worker_wait returns the first failure with its message. */
#ifndef NIBBLE_COMMON_WORKER_H
#define NIBBLE_COMMON_WORKER_H

#include "common/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct worker worker;
typedef status (*worker_task)(void *context);

/* `name` (a literal) stands in messages. At most `depth` tasks wait; worker_give then blocks.
 */
status worker_open(worker **out, const char *name, int depth);
/* Enqueues; returns the task's ticket, from 1 rising. `context` must live until it ran. */
uint64_t worker_give(worker *w, worker_task task, void *context);
/* Waits until the task of `ticket` and all before it ran (or were skipped). */
status worker_wait(worker *w, uint64_t ticket);
bool worker_done(worker *w, uint64_t ticket);
/* Runs what was given, ends the thread, frees. NULL is fine. */
void worker_close(worker *w);

#endif
