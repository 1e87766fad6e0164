/* log.h: progress and diagnostics on stderr; results go to stdout and are not this file's
 * matter. Colour and `\r` only on a terminal and without NO_COLOR. Whole lines, one write
 * each. */
#ifndef NIBBLE_COMMON_LOG_H
#define NIBBLE_COMMON_LOG_H

#include <stdbool.h>

void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "warning: ..."; also counted for the final summary. */
void log_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "error: ..."; only main calls it. */
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A line that the next log_progress replaces on a terminal; elsewhere nothing is printed. Any
 * other line first clears it. */
void log_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Takes it away, before something is written to standard output. */
void log_progress_end(void);
void log_quiet(bool quiet); /* drops info and progress, keeps warnings and errors */
bool log_is_terminal(void); /* stderr */
bool log_stdout_colour(void);
int log_warnings(void); /* how many so far */

#endif
