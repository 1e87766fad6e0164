/* main.c: reads the command line, calls the verb, prints the one error line, returns the exit
 * code. Nothing else in the program prints an error or exits. */
#include "common/alloc.h"
#include "common/file.h"
#include "common/json.h"
#include "common/log.h"
#include "trainer/run/signals.h"
#include "trainer/verbs/help.h"
#include "trainer/verbs/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static status (*const verbs[VERB_COUNT])(const command *) = {
    [VERB_TRAIN] = verb_train,       [VERB_PLAN] = verb_plan,
    [VERB_CHECK] = verb_check,       [VERB_EVAL] = verb_eval,
    [VERB_GENERATE] = verb_generate, [VERB_EXPORT] = verb_export,
    [VERB_QUANTIZE] = verb_quantize, [VERB_INSPECT] = verb_inspect,
    [VERB_TOKENIZE] = verb_tokenize, [VERB_GET] = verb_get,
    [VERB_BENCH] = verb_bench,
};

static status answer(const command *c) {
    char *text = help_text(c);
    if (!text) return STATUS_MEMORY;
    fputs(text, stdout);
    mem_free(text);
    return STATUS_OK;
}

/* libgomp reads its settings when it is loaded, before main. Its default is to spin for milliseconds
 * between two loops, which on a machine that others use too costs more than the loops (a tiny model:
 * 10.7 s against 0.7 s). So the program starts itself once more with a short spin, unless the user
 * has a wish of his own. Without /proc nothing happens. */
static void shorten_spinning(char **argv) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    if (setenv("GOMP_SPINCOUNT", "300", 1) == 0) execv("/proc/self/exe", argv);
}

/* For tests that let every k-th of them fail: how many there were. */
static void report_faultable_calls(void) {
    if (getenv("NIBBLE_COUNT_FAULTS"))
        log_info("%llu allocations, %llu file operations, %llu reads that can be made to fail",
                 (unsigned long long)mem_count(), (unsigned long long)file_fault_count(),
                 (unsigned long long)file_read_count());
}

int main(int argc, char **argv) {
    shorten_spinning(argv);
    json_setup();
    signals_watch();
    command c;
    status s = options_parse(argc, argv, &c);
    if (s == STATUS_OK) {
        log_quiet(c.quiet);
        s = c.action == ACTION_RUN ? verbs[c.verb](&c) : answer(&c);
        options_free(&c);
    }
    report_faultable_calls();
    if (fflush(stdout) != 0 && s == STATUS_OK)
        s = status_fail(STATUS_IO, "standard output: cannot write");
    if (s != STATUS_OK) log_error("%s", status_message());
    return (int)s;
}
