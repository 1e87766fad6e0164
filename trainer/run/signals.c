/* signals.c: see signals.h. */
#include "trainer/run/signals.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

static atomic_int count, which; /* any thread may be the one that is interrupted */

static void handler(int number) {
    atomic_store(&which, number);
    if (atomic_fetch_add(&count, 1) > 0) _exit(STATUS_INTERRUPTED);
}

void signals_watch(void) {
    static const int watched[] = {SIGTERM, SIGINT, SIGUSR1};
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = handler;
    sigemptyset(&a.sa_mask);
    a.sa_flags = SA_RESTART;
    for (size_t i = 0; i < sizeof watched / sizeof *watched; i++)
        sigaction(watched[i], &a, NULL);
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of the write, not a death */
    signal(SIGXFSZ, SIG_IGN); /* so is a limit on the size of files */
}

bool signals_stop_wanted(void) {
    return count > 0;
}

const char *signals_name(void) {
    return which == SIGTERM   ? "SIGTERM"
           : which == SIGINT  ? "SIGINT"
           : which == SIGUSR1 ? "SIGUSR1"
                              : "no signal";
}

status signals_check(const char *phase) {
    if (!count) return STATUS_OK;
    return status_fail(STATUS_INTERRUPTED,
                       "interrupted by %s while %s: nothing to save yet; the same "
                       "command starts again",
                       signals_name(), phase);
}
