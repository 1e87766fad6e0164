/* strings.h: the methods of str that other files use too; inside data/jinja only. */
#ifndef NIBBLE_DATA_JINJA_STRINGS_H
#define NIBBLE_DATA_JINJA_STRINGS_H

#include "data/jinja/text.h"

#define METHOD(name) status jinja_str_##name(machine *m, value self, value *a, value *out)
METHOD(lower);
METHOD(upper);
METHOD(capitalize);
METHOD(title);
METHOD(swapcase);
METHOD(isalpha);
METHOD(isalnum);
METHOD(isdecimal);
METHOD(isdigit);
METHOD(isnumeric);
METHOD(isspace);
METHOD(isascii);
METHOD(islower);
METHOD(isupper);
METHOD(istitle);
METHOD(strip);
METHOD(replace);
METHOD(splitlines);
METHOD(center);
#undef METHOD

extern const builtin jinja_string_methods[];
extern const builtin jinja_dict_methods[];
extern const builtin jinja_list_methods[];

/* What was given for an argument; `usual` where nothing was, or None. TypeError. */
status jinja_take_integer(machine *m, const value *v, int64_t usual, int64_t *out);
/* A string's argument; *out NULL where none was given, or None. TypeError. */
status jinja_take_string(machine *m, const value *v, string **out);

#endif
