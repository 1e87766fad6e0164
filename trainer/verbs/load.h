/* load.h: from a file and the command line's overrides to a checked struct config. */
#ifndef NIBBLE_TRAINER_VERBS_LOAD_H
#define NIBBLE_TRAINER_VERBS_LOAD_H

#include "common/status.h"
#include "trainer/run/config.h"

/* Reads `path` (NULL: nothing but overrides), applies `n` overrides "key.part=value" in order,
 * fills in defaults and checks everything that can be checked without opening other files.
 * Nothing is printed: out->ignored lists what was accepted without effect. On failure *out is
 * empty and the status is STATUS_USAGE (STATUS_MEMORY for allocations), with file:line:column
 * and the key. */
status config_load(const char *path, char **overrides, int n, config *out);

/* The same from text in memory, for a configuration that was stored with a run. `name` stands
 * for the file in messages. */
status config_load_text(const char *words, size_t bytes, const char *name, config *out);

/* "ignored, without effect on the result: KEY, KEY (reason); KEY (reason)", or NULL when there
 * is nothing to say; free it with mem_free. */
char *config_ignored_line(const config *c);

#endif
