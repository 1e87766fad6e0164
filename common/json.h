/* json.h: strict reading of JSON through jansson: duplicate keys refused, at most 32-deep
 * configuration files (jansson's own limit bounds the rest), sizes capped, messages with
 * file:line:column. Typed getters that say what they expected. jansson's types are used as
 * they are: this is no wrapper, only the missing manners. jansson allocates through alloc.h
 * once json_setup was called (main and every test call it first). */
#ifndef NIBBLE_COMMON_JSON_H
#define NIBBLE_COMMON_JSON_H

#include "common/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

void json_setup(void);

/* Parses a file of at most `limit` bytes; `code` is the status for bad content (STATUS_MODEL,
 * STATUS_DATA ...), also for a missing file. A Git-LFS pointer file is recognized and named.
 */
status json_read_file(const char *path, int64_t limit, status code, json_t **out);
/* Parses text; `where` names it in messages ("rows.jsonl:17"). */
status json_read_text(const char *text, size_t bytes, const char *where, status code,
                      json_t **out);

/* One call of json_loadb that is safe when memory ends: then STATUS_MEMORY. STATUS_OK with *out
 * NULL: the text is wrong and *e says where. For callers with messages of their own. */
status json_parse(const char *text, size_t bytes, size_t flags, json_error_t *e, json_t **out);

/* Getters on an object. A missing key or null leaves *out as it is and is fine; a wrong type
 * is `code` with "where: key must be ..., it is ...". Integers accept integral reals (4096.0).
 */
status json_get_int(const json_t *object, const char *key, int64_t *out, const char *where,
                    status code);
status json_get_real(const json_t *object, const char *key, double *out, const char *where,
                     status code);
status json_get_bool(const json_t *object, const char *key, bool *out, const char *where,
                     status code);
/* *out points into the object. */
status json_get_text(const json_t *object, const char *key, const char **out,
                     const char *where, status code);

const char *json_type_name(const json_t *value);

/* Building, with an error that sticks: jansson's own calls drop what there was no memory for.
 * *object (*list) becomes NULL, and stays it, when `value` is NULL or cannot be added; `value`
 * is taken over in any case. So a value is whole or NULL, and one check at its end is enough. */
void json_put(json_t **object, const char *key, json_t *value);
void json_push(json_t **list, json_t *value);
/* A deep copy, whole or NULL. */
json_t *json_clone(const json_t *value);

/* Compact text (JSON_COMPACT | extra flags), to be freed with mem_free; NULL when out of
 * memory. Reals print with 17 significant digits unless JSON_REAL_PRECISION is among the
 * flags. */
char *json_write_text(const json_t *value, size_t flags);

#endif
