/* main.c: reads the command line, calls the verb, prints the one error line, returns the exit
 * code. Nothing else in the program prints an error or exits. */
#include "common/alloc.h"
#include "common/json.h"
#include "common/log.h"
#include "trainer/run/signals.h"
#include "trainer/verbs/help.h"
#include "trainer/verbs/verbs.h"

#include <stdio.h>

static status (*const verbs[VERB_COUNT])(const command *) = {
    [VERB_TRAIN] = verb_train,       [VERB_PLAN] = verb_plan,
    [VERB_CHECK] = verb_check,       [VERB_EVAL] = verb_eval,
    [VERB_GENERATE] = verb_generate, [VERB_EXPORT] = verb_export,
    [VERB_QUANTIZE] = verb_quantize, [VERB_INSPECT] = verb_inspect,
    [VERB_TOKENIZE] = verb_tokenize,
};

static status answer(const command *c) {
    char *text = help_text(c);
    if (!text) return STATUS_MEMORY;
    fputs(text, stdout);
    mem_free(text);
    return STATUS_OK;
}

int main(int argc, char **argv) {
    json_setup();
    signals_watch();
    command c;
    status s = options_parse(argc, argv, &c);
    if (s == STATUS_OK) {
        log_quiet(c.quiet);
        s = c.action == ACTION_RUN ? verbs[c.verb](&c) : answer(&c);
        options_free(&c);
    }
    if (fflush(stdout) != 0 && s == STATUS_OK)
        s = status_fail(STATUS_IO, "standard output: cannot write");
    if (s != STATUS_OK) log_error("%s", status_message());
    return (int)s;
}
