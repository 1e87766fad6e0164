/* signals.h: SIGTERM, SIGINT and SIGUSR1 ask the run to save and stop; a second one ends the
 * process at once. The handler only counts; the loop looks between operations that it can
 * undo. */
#ifndef NIBBLE_TRAINER_RUN_SIGNALS_H
#define NIBBLE_TRAINER_RUN_SIGNALS_H

#include "common/status.h"

#include <stdbool.h>

void signals_watch(void);
bool signals_stop_wanted(void);
/* STATUS_INTERRUPTED with a message when a stop is wanted: for phases where there is nothing
 * to save. */
status signals_check(const char *phase);
const char *signals_name(void);

#endif
