/* alloc.h: the one accounting allocator.
 *
 * Every allocation of ours goes through here, so that a test can make the k-th one fail, a
 * leak is a number, and `outside` memory (what is not in an arena) can be printed. Libraries
 * that take allocator hooks (jansson, pcre2) are given these. Blocks are 64-byte aligned. On
 * failure functions return NULL and set this thread's message ("out of memory: N bytes for
 * WHAT"); callers return STATUS_MEMORY. Thread-safe. */
#ifndef NIBBLE_COMMON_ALLOC_H
#define NIBBLE_COMMON_ALLOC_H

#include <stddef.h>
#include <stdint.h>

/* `bytes` zeroed bytes; 0 gives a valid pointer. `what` is a literal for the message. */
void *mem_alloc(size_t bytes, const char *what);

/* n * size zeroed bytes, the product checked. */
void *mem_alloc_array(size_t n, size_t size, const char *what);

/* As realloc, without moving on failure: the old block stays valid. New bytes are not zeroed.
 */
void *mem_resize(void *block, size_t bytes, const char *what);

/* Grows *items (element size `size`, *capacity elements) to hold at least `need`, doubling.
 * Returns 0, or -1 with the array untouched. */
int mem_grow(void *items_pointer, size_t *capacity, size_t need, size_t size,
             const char *what);

char *mem_strdup(const char *text);
char *mem_strndup(const char *text, size_t n);
/* printf into a fresh string. */
char *mem_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

void mem_free(void *block); /* NULL is fine */

/* Bytes in use now and at most so far, and blocks in use now. */
size_t mem_used(void);
size_t mem_peak(void);
size_t mem_blocks(void);

/* Test hook: the k-th allocation from now fails (k from 1), once or from then on; 0 = never.
 * Also read from NIBBLE_ALLOC_FAULT="k[:always]" at the first allocation. */
void mem_fail_at(uint64_t k, int from_then_on);
/* How many allocations were asked for so far, and how many of them failed: what tells a plan
 * that does not fit (STATUS_MEMORY too) from one that there was no memory to make. */
uint64_t mem_count(void);
uint64_t mem_failures(void);

#endif
