/* arena.c: blocks in a row, each twice as large as the one before. */
#include "data/jinja/arena.h"
#include "common/alloc.h"

#include <string.h>

typedef struct jinja_block {
    struct jinja_block *next;
    size_t size, used;
    _Alignas(16) char bytes[];
} block;

enum { FIRST_BLOCK = 32 << 10, LARGEST_BLOCK = 4 << 20 };

static block *add_block(jinja_arena *a, size_t bytes) {
    size_t size = a->now ? a->now->size * 2 : FIRST_BLOCK;
    if (size > LARGEST_BLOCK) size = LARGEST_BLOCK;
    if (size < bytes) size = bytes;
    block *b = mem_alloc(sizeof *b + size, "a template's values");
    if (!b) return NULL;
    b->size = size;
    if (a->now)
        a->now->next = b;
    else
        a->first = b;
    return a->now = b;
}

void *jinja_allocate(jinja_arena *a, size_t bytes) {
    void *out = jinja_allocate_text(a, bytes);
    return out ? memset(out, 0, bytes) : NULL;
}

void *jinja_allocate_text(jinja_arena *a, size_t bytes) {
    bytes = (bytes + 15) & ~(size_t)15;
    block *b = a->now;
    if ((!b || b->size - b->used < bytes) && !(b = add_block(a, bytes))) return NULL;
    void *out = b->bytes + b->used;
    b->used += bytes;
    a->used += bytes;
    return out;
}

static void free_blocks(block *b) {
    while (b) {
        block *next = b->next;
        mem_free(b);
        b = next;
    }
}

void jinja_arena_reset(jinja_arena *a) {
    if (a->first) {
        free_blocks(a->first->next);
        a->first->next = NULL;
        a->first->used = 0;
    }
    a->now = a->first;
    a->used = 0;
}

void jinja_arena_free(jinja_arena *a) {
    free_blocks(a->first);
    memset(a, 0, sizeof *a);
}
