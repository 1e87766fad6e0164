/* row_field.c: see row_field.h. */
#include "data/row_field.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { NAME = 256 }; /* bytes of one step of the way */

static json_t *step(const json_t *value, const char *name) {
    if (!json_is_array(value)) return json_object_get(value, name);
    char *end;
    size_t i = strtoul(name, &end, 10);
    return isdigit((unsigned char)*name) && !*end ? json_array_get(value, i) : NULL;
}

json_t *row_field(const json_t *row, const char *name) {
    json_t *found = json_object_get(row, name);
    const json_t *at = row;
    char part[NAME];
    while (!found && at) {
        size_t n = strcspn(name, ".");
        if (n >= sizeof part) return NULL;
        memcpy(part, name, n);
        part[n] = 0;
        json_t *next = step(at, part);
        if (!name[n]) return next;
        at = next;
        name += n + 1;
    }
    return found;
}
