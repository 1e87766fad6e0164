/* arena.h: memory that is let go as a whole: a compiled template's nodes, a row's values. */
#ifndef NIBBLE_DATA_JINJA_ARENA_H
#define NIBBLE_DATA_JINJA_ARENA_H

#include "data/jinja/jinja.h"

/* Zeroed bytes, 16-byte aligned; NULL when out of memory. */
void *jinja_allocate(jinja_arena *a, size_t bytes);
/* The same without zeroing, for bytes. */
void *jinja_allocate_text(jinja_arena *a, size_t bytes);
/* Forgets everything and keeps the first block. */
void jinja_arena_reset(jinja_arena *a);
void jinja_arena_free(jinja_arena *a);

#endif
