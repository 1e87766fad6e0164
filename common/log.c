/* log.c: see log.h. */
#include "common/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_int warnings, progress_shown;
static atomic_bool quiet_;

bool log_is_terminal(void) {
    return isatty(STDERR_FILENO);
}
bool log_stdout_colour(void) {
    const char *no = getenv("NO_COLOR");
    return isatty(STDOUT_FILENO) && !(no && *no);
}
static bool colour(void) {
    const char *no = getenv("NO_COLOR");
    return log_is_terminal() && !(no && *no);
}
void log_quiet(bool quiet) {
    atomic_store(&quiet_, quiet);
}
int log_warnings(void) {
    return atomic_load(&warnings);
}

static void line(const char *before, const char *after, const char *end, const char *format,
                 va_list args) {
    char text[8192];
    size_t n = 0;
    if (atomic_exchange(&progress_shown, 0))
        n = (size_t)snprintf(text, sizeof text, "\r\033[K");
    n += (size_t)snprintf(text + n, sizeof text - n, "%s", before);
    int m = vsnprintf(text + n, sizeof text - n - 16, format, args);
    n += m < 0 ? 0 : (size_t)m < sizeof text - n - 16 ? (size_t)m : sizeof text - n - 17;
    n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", after, end);
    for (size_t done = 0; done < n;) { /* stderr gone is no reason to stop a run */
        ssize_t k = write(STDERR_FILENO, text + done, n - done);
        if (k <= 0) break;
        done += (size_t)k;
    }
}

#define FORWARD(before, after, end)                                                           \
    va_list args;                                                                             \
    va_start(args, format);                                                                   \
    line(before, after, end, format, args);                                                   \
    va_end(args)

void log_info(const char *format, ...) {
    if (atomic_load(&quiet_)) return;
    FORWARD("", "", "\n");
}
void log_warn(const char *format, ...) {
    atomic_fetch_add(&warnings, 1);
    bool c = colour();
    FORWARD(c ? "\033[33mwarning:\033[0m " : "warning: ", "", "\n");
}
void log_error(const char *format, ...) {
    bool c = colour();
    FORWARD(c ? "\033[31merror:\033[0m " : "error: ", "", "\n");
}
void log_progress_end(void) {
    if (atomic_exchange(&progress_shown, 0)) dprintf(STDERR_FILENO, "\r\033[K");
}
void log_progress(const char *format, ...) {
    if (atomic_load(&quiet_) || !log_is_terminal()) return;
    atomic_store(&progress_shown, 0);
    FORWARD("\r\033[K", "", "");
    atomic_store(&progress_shown, 1);
}
