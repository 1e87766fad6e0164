/* status.h: how a function says that it failed.
 *
 * A function that can fail returns a status: STATUS_OK or the kind of failure. The kinds are
 * the program's exit codes, so main returns what it got. The message is made once, where the
 * cause is known, by status_fail; it says what, where (file:line:column, tensor, byte offset)
 * and what to do. It is kept per thread; a worker hands its own over with
 * status_message/status_set. Only main prints it and exits. */
#ifndef NIBBLE_COMMON_STATUS_H
#define NIBBLE_COMMON_STATUS_H

typedef enum status {
    STATUS_OK = 0,
    STATUS_INTERNAL = 1, /* a broken promise of our own */
    STATUS_USAGE = 2,    /* command line or configuration */
    STATUS_DATA = 3,     /* dataset: missing, malformed, nothing to learn */
    STATUS_MODEL = 4,    /* model, tokenizer, adapter or checkpoint file */
    STATUS_DIVERGED = 5, /* loss or gradients are not finite, again and again */
    STATUS_MEMORY = 6,   /* the plan does not fit, or an allocation failed */
    STATUS_IO = 7,     /* reading or writing failed for a reason outside the file's content */
    STATUS_DEVICE = 8, /* the accelerator */
    STATUS_LOCKED = 9, /* another run owns the output directory */
    STATUS_INTERRUPTED = 75, /* a signal asked to stop; what could be saved is saved */
} status;

/* Sets this thread's message (printf format, at most 4,095 bytes; control characters in it
 * become spaces) and returns `code`. A newer failure replaces the older message. */
status status_fail(status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "prefix: " before this thread's message, for a caller that knows the file or the row.
 * Returns `code`. */
status status_prefix(status code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* This thread's message, "" if none. Valid until the next failure on this thread. */
const char *status_message(void);

/* Takes over a message made on another thread. Returns `code`. */
status status_set(status code, const char *message);

/* Forgets the message. */
void status_clear(void);

/* The one macro that hides control flow: returns from the calling function on failure. */
#define TRY(call)                                                                             \
    do {                                                                                      \
        status try_status_ = (call);                                                          \
        if (try_status_ != STATUS_OK) return try_status_;                                     \
    } while (0)

#endif
