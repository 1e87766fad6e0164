/* test_emulator.cpp: the emulator finds the bugs that it is there to find, and nothing else.
 *
 * Built once per variant of the kernels (PLANTED_BUILD: plain, sanitized or shadow). Each planted
 * bug runs in a process of its own, as some of them end it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

#include "emulator/emulator.h"
#include "emulator/planted.h"

#include <cuda_runtime.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const orders[] = {"greedy", "reversed", "round", "random:1", "random:2"};
static const char *const queues[] = {"lazy", "eager", "lazy", "random:1", "random:2"};

/* In a child: exits with what was seen over all orders. */
static void child(const planted *p, bool bug) {
    planted_found seen = MISSED;
    emulator_loud(!bug);
    if (bug) { /* what a sanitizer says is of no interest */
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 2);
    }
    for (int i = 0; i < 5; i++) {
        emulator_reset();
        emulator_set("EMULATOR_ORDER", orders[i]);
        emulator_set("EMULATOR_STREAMS", queues[i]);
        bool right = p->run(bug);
        if (!right && seen == MISSED) seen = WRONG;
        if (*emulator_report()) seen = FOUND;
        if (*emulator_report() && cudaDeviceSynchronize() == cudaSuccess)
            _exit(100); /* a report without a sticky error */
    }
    _exit(10 + seen);
}

static planted_found outcome(const planted *p, bool bug) {
    fflush(NULL);
    pid_t pid = fork();
    int status = 0;
    assert_true(pid >= 0);
    if (pid == 0) child(p, bug);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFEXITED(status)) return FOUND; /* a signal */
    int code = WEXITSTATUS(status);
    if (code == 1) return FOUND; /* a sanitizer */
    assert_in_range(code, 10 + MISSED, 10 + FOUND);
    return (planted_found)(code - 10);
}

static void test_planted_bugs_are_found(void **state) {
    static const char *const names[] = {"missed", "wrong numbers", "found"};
    int bad = 0;
    for (int i = 0; i < planted_count; i++) {
        const planted *p = &planted_bugs[i];
        planted_found right = outcome(p, false), wrong = outcome(p, true);
        if (right != MISSED || wrong != p->PLANTED_BUILD) {
            fprintf(stderr, "%s: right form: %s; bug: %s, expected %s\n", p->name,
                    names[right], names[wrong], names[p->PLANTED_BUILD]);
            bad++;
        }
    }
    assert_int_equal(bad, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_planted_bugs_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
