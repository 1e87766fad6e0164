/* file_list.h: lists of files for files.c: what is in a folder, what matches a pattern, and
 * the data files among them. */
#ifndef NIBBLE_DATA_FILE_LIST_H
#define NIBBLE_DATA_FILE_LIST_H

#include "common/status.h"
#include "data/files.h"

/* All plain files below a folder, sorted, without hidden ones, folders called __something,
 * and what is never data (README.md, dataset_info.json ...). STATUS_DATA when it cannot be
 * read, or holds more than a million. */
status file_list_folder(file_names *out, const char *folder);

/* Appends what a name or pattern means, seen from a folder. STATUS_DATA for a name that is not
 * there; a pattern may match nothing. */
status file_list_add(file_names *out, const char *folder, const char *pattern);

/* Takes a string over, also when it fails. */
status file_list_append(file_names *out, char *path);

/* Drops all formats but the most frequent, and files without a known ending (`named`: unless
 * nothing has one). */
void file_list_keep_format(file_names *f, bool named);

#endif
