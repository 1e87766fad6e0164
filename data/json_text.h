/* json_text.h: JSON written value by value into a text buffer, for rows of files that are no
 * JSON themselves (CSV, Parquet). What is written is trusted to be UTF-8: who parses it says
 * where it is not. */
#ifndef NIBBLE_DATA_JSON_TEXT_H
#define NIBBLE_DATA_JSON_TEXT_H

#include "common/status.h"
#include "data/text_buffer.h"

#include <stddef.h>
#include <stdint.h>

/* "text" with quotes, and what JSON wants escaped. */
status json_text_string(text_buffer *b, const char *text, size_t bytes);
status json_text_integer(text_buffer *b, int64_t value);
status json_text_unsigned(text_buffer *b, uint64_t value);
/* So that it reads back as the same double, and as a real; what is not finite is null. */
status json_text_real(text_buffer *b, double value);

#endif
