/* row_field.h: a field of a row by the name that the configuration gives: the key of that
 * name, else, for names with dots, a way down: `reply.text` is the key text of the object
 * reply, `choices.0` a list's first element. */
#ifndef NIBBLE_DATA_ROW_FIELD_H
#define NIBBLE_DATA_ROW_FIELD_H

#include "common/json.h"

/* NULL where there is none. */
json_t *row_field(const json_t *row, const char *name);

#endif
