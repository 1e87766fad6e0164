/* alloc.c: a 64-byte header before each block holds its size. */
#include "common/alloc.h"
#include "common/checked.h"
#include "common/status.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER = 64 }; /* bytes; keeps the user's block 64-byte aligned */

static atomic_size_t used, peak, blocks;
static atomic_ullong count, failures, fail_at;
static atomic_int fail_always, environment_read;

static void read_environment(void) {
    const char *text = getenv("NIBBLE_ALLOC_FAULT");
    unsigned long long k;
    if (text && sscanf(text, "%llu", &k) == 1) mem_fail_at(k, strstr(text, ":always") != NULL);
}

static int should_fail(void) {
    if (!atomic_load(&environment_read) && !atomic_exchange(&environment_read, 1))
        read_environment();
    unsigned long long n = atomic_fetch_add(&count, 1) + 1;
    unsigned long long k = atomic_load(&fail_at);
    return k && (n == k || (atomic_load(&fail_always) && n >= k));
}

static void account(size_t bytes) {
    size_t now = atomic_fetch_add(&used, bytes) + bytes, high = atomic_load(&peak);
    while (now > high && !atomic_compare_exchange_weak(&peak, &high, now)) {
    }
}

static void *raw_alloc(size_t bytes, int zero, const char *what) {
    void *raw = NULL;
    if (bytes > SIZE_MAX - 2 * HEADER || should_fail() ||
        posix_memalign(&raw, HEADER, bytes + HEADER) != 0) {
        atomic_fetch_add(&failures, 1);
        status_fail(STATUS_MEMORY, "out of memory: %zu bytes for %s", bytes, what);
        return NULL;
    }
    *(size_t *)raw = bytes;
    account(bytes);
    atomic_fetch_add(&blocks, 1);
    void *block = (char *)raw + HEADER;
    if (zero) memset(block, 0, bytes);
    return block;
}

void *mem_alloc(size_t bytes, const char *what) {
    return raw_alloc(bytes, 1, what);
}

void *mem_alloc_array(size_t n, size_t size, const char *what) {
    uint64_t bytes;
    if (!checked_mul_u64(n, size, &bytes)) {
        status_fail(STATUS_MEMORY, "out of memory: %zu x %zu bytes for %s", n, size, what);
        return NULL;
    }
    return raw_alloc(bytes, 1, what);
}

void *mem_resize(void *block, size_t bytes, const char *what) {
    void *fresh = raw_alloc(bytes, 0, what);
    if (!fresh || !block) return fresh;
    size_t old = *(size_t *)((char *)block - HEADER);
    memcpy(fresh, block, old < bytes ? old : bytes);
    mem_free(block);
    return fresh;
}

int mem_grow(void *items_pointer, size_t *capacity, size_t need, size_t size,
             const char *what) {
    if (need <= *capacity) return 0;
    size_t wanted = *capacity ? *capacity * 2 : 16;
    while (wanted < need) wanted = wanted > SIZE_MAX / 2 ? need : wanted * 2;
    uint64_t bytes;
    if (!checked_mul_u64(wanted, size, &bytes)) {
        status_fail(STATUS_MEMORY, "out of memory: %zu x %zu bytes for %s", wanted, size,
                    what);
        return -1;
    }
    void *items;
    memcpy(&items, items_pointer, sizeof items);
    items = mem_resize(items, bytes, what);
    if (!items) return -1;
    memcpy(items_pointer, &items, sizeof items);
    *capacity = wanted;
    return 0;
}

char *mem_strndup(const char *text, size_t n) {
    char *copy = mem_alloc(n + 1, "a string");
    if (copy) memcpy(copy, text, n);
    return copy;
}

char *mem_strdup(const char *text) {
    return mem_strndup(text, strlen(text));
}

char *mem_printf(const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0) return NULL;
    char *text = mem_alloc((size_t)n + 1, "a string");
    if (!text) return NULL;
    va_start(args, format);
    vsnprintf(text, (size_t)n + 1, format, args);
    va_end(args);
    return text;
}

void mem_free(void *block) {
    if (!block) return;
    void *raw = (char *)block - HEADER;
    atomic_fetch_sub(&used, *(size_t *)raw);
    atomic_fetch_sub(&blocks, 1);
    free(raw);
}

size_t mem_used(void) {
    return atomic_load(&used);
}
size_t mem_peak(void) {
    return atomic_load(&peak);
}
size_t mem_blocks(void) {
    return atomic_load(&blocks);
}
uint64_t mem_count(void) {
    return atomic_load(&count);
}
uint64_t mem_failures(void) {
    return atomic_load(&failures);
}

void mem_fail_at(uint64_t k, int from_then_on) {
    atomic_store(&environment_read, 1);
    atomic_store(&fail_always, from_then_on);
    atomic_store(&fail_at, k ? atomic_load(&count) + k : 0);
}
