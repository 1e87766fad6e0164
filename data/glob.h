/* glob.h: file names by pattern, as the hub's data_files have them (fsspec's glob): * and ?
 * for any characters of one name, [a-z] and [!a-z] for one of some, ** as a whole name for
 * any folders, none among them; at the end of a pattern it stands for every file below. */
#ifndef NIBBLE_DATA_GLOB_H
#define NIBBLE_DATA_GLOB_H

#include <stdbool.h>

bool glob_is_pattern(const char *text);
/* Time is bounded by the product of the lengths: patterns come from other people's files. */
bool glob_matches(const char *pattern, const char *path);

#endif
