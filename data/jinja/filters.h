/* filters.h: the tables of filters; inside data/jinja only. */
#ifndef NIBBLE_DATA_JINJA_FILTERS_H
#define NIBBLE_DATA_JINJA_FILTERS_H

#include "data/jinja/strings.h"

#define FILTER(name) static status name(machine *m, value self, value *a, value *out)

extern const builtin jinja_text_filters[];     /* filters.c: one value in, one out */
extern const builtin jinja_sequence_filters[]; /* filters_sequence.c */
extern const builtin jinja_lazy_filters[];     /* filters_lazy.c: map, select ... */

/* "a.b.0": attributes and items one after the other; an integer, or none. `usual` (V_MISSING:
 * none) stands for what is undefined on the way. */
status jinja_attribute_path(machine *m, value of, const value *path, const value *usual,
                            value *out);

#endif
