/* text_buffer.h: a growing byte string. Zero it before the first use, free it with mem_free.
 */
#ifndef NIBBLE_DATA_TEXT_BUFFER_H
#define NIBBLE_DATA_TEXT_BUFFER_H

#include "common/alloc.h"
#include "common/status.h"

#include <stddef.h>
#include <string.h>

typedef struct text_buffer {
    char *data; /* not NUL-terminated */
    size_t bytes, capacity;
} text_buffer;

/* Room for `more` bytes after the present ones, and one: a text that was written to is never
 * NULL, an empty one neither. */
static inline status text_reserve(text_buffer *b, size_t more) {
    return mem_grow(&b->data, &b->capacity, b->bytes + more + 1, 1, "text") ? STATUS_MEMORY
                                                                            : STATUS_OK;
}

static inline status text_append(text_buffer *b, const char *text, size_t bytes) {
    TRY(text_reserve(b, bytes));
    if (bytes) memcpy(b->data + b->bytes, text, bytes);
    b->bytes += bytes;
    return STATUS_OK;
}

static inline status text_append_string(text_buffer *b, const char *text) {
    return text_append(b, text, strlen(text));
}

#endif
