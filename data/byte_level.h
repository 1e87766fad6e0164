/* byte_level.h: GPT-2's alphabet of 256 printable characters for the 256 bytes. */
#ifndef NIBBLE_DATA_BYTE_LEVEL_H
#define NIBBLE_DATA_BYTE_LEVEL_H

#include "common/status.h"
#include "data/text_buffer.h"

#include <stdbool.h>
#include <stddef.h>

/* Appends the characters for bytes. */
status byte_level_write(const char *text, size_t bytes, text_buffer *out);

/* Appends the bytes for characters; *is is false, and nothing appended, when one of them is
 * not of the alphabet. The text is valid UTF-8. */
status byte_level_read(const char *text, size_t bytes, text_buffer *out, bool *is);

#endif
