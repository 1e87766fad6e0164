/* fuzz.h: what the libFuzzer targets share.
 *
 * A target makes files of its input, calls the reader that a user's file would meet, and uses
 * what comes out of it the way the program does. A finding is: a sanitizer's report, a leak,
 * more time or memory than the run's limits, a refusal without a message or with a code that
 * the reader does not promise, and whatever the target requires of what was accepted.
 *
 * Files that are mostly JSON are cut at NUL bytes, which JSON cannot hold: the first part is
 * mutated as JSON (json_mutator.c), the others byte by byte. */
#ifndef NIBBLE_FUZZ_H
#define NIBBLE_FUZZ_H

#include "common/alloc.h"
#include "common/file.h"
#include "common/json.h"
#include "common/log.h"
#include "common/status.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <sanitizer/lsan_interface.h>

/* The promise is broken: libFuzzer keeps the input. */
#define fuzz_require(condition) fuzz_check((condition), #condition, __FILE__, __LINE__)
void fuzz_check(bool holds, const char *condition, const char *file, int line);

/* A status is STATUS_OK, or one of `allowed` (bits 1 << STATUS_...) with a message. */
bool fuzz_succeeds(status s, unsigned allowed);
#define MAY_FAIL(code) (1u << (code))

/* Once, first: quiet logs, jansson's allocator, a scratch folder in memory where there is one. */
void fuzz_setup(void);
/* scratch/name, in one of eight turning buffers. */
const char *fuzz_path(const char *name);
/* (Over)writes scratch/name and returns its path; a name with a folder makes that too. */
const char *fuzz_write(const char *name, const void *data, size_t bytes);

/* Cuts at NUL bytes into at most `limit` parts, the last one with all that is left; parts that
 * are not there are empty. */
typedef struct fuzz_part {
    const char *text;
    size_t bytes;
} fuzz_part;
void fuzz_cut(const uint8_t *data, size_t size, fuzz_part *parts, int limit);

/* Allocations of ours now and at the end of an input are to be the same. */
typedef size_t fuzz_blocks;
static inline fuzz_blocks fuzz_begin(void) {
    return mem_blocks();
}
static inline void fuzz_end(fuzz_blocks before) {
    if (mem_blocks() != before) __lsan_do_leak_check(); /* says where they were made */
    fuzz_require(mem_blocks() == before);
}

/* ---- json_mutator.c ---- */

/* Changes one thing in JSON text of `bytes` (removes, copies, moves or replaces a value or a
 * key) and returns the new length, at most `room`; 0 when it is no JSON or does not fit. */
size_t fuzz_mutate_json(char *text, size_t bytes, size_t room, unsigned seed);
/* libFuzzer's own mutations, of `bytes` in a buffer of `room`. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t room);
/* One step for inputs of `first` plain bytes, then parts cut by NUL, the first of them JSON. */
size_t fuzz_mutate(uint8_t *data, size_t size, size_t room, unsigned seed, size_t first);

#endif
