/* status.c: the thread's message. No allocation: it must work when memory is gone. */
#include "common/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_BYTES = 4096 };
static _Thread_local char message[MESSAGE_BYTES];

/* A message is one line and safe on a terminal, whatever name or text it quotes. */
static void keep(const char fresh[MESSAGE_BYTES]) {
    memcpy(message, fresh, sizeof message);
    for (char *c = message; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f) *c = ' ';
}

status status_fail(status code, const char *format, ...) {
    char fresh[MESSAGE_BYTES]; /* the arguments may point into the old message */
    va_list args;
    va_start(args, format);
    vsnprintf(fresh, sizeof fresh, format, args);
    va_end(args);
    keep(fresh);
    return code;
}

status status_prefix(status code, const char *format, ...) {
    char fresh[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(fresh, sizeof fresh, format, args);
    va_end(args);
    if (n < 0) n = 0;
    if (n < MESSAGE_BYTES) snprintf(fresh + n, sizeof fresh - (size_t)n, ": %.4000s", message);
    keep(fresh);
    return code;
}

const char *status_message(void) {
    return message;
}

status status_set(status code, const char *text) {
    snprintf(message, sizeof message, "%s", text);
    return code;
}

void status_clear(void) {
    message[0] = 0;
}
