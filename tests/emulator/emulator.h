/* emulator.h: CUDA without a card, for tests: what a test may ask and set.
 *
 * The .cu files of autograd/cuda, compiled by g++ with include/ first on the path, run on the
 * CPU: a grid is a loop over blocks, a block's threads are fibers that change only where CUDA
 * lets threads meet, streams are queues. Everything is deterministic for given settings.
 *
 * Settings come from the environment at the first call and from emulator_set afterwards:
 *   EMULATOR_ORDER    greedy (default): a warp runs until it blocks; reversed: the same from the
 *                     last thread and block down; round: one thread after another; random:SEED
 *   EMULATOR_STREAMS  lazy (default): work runs when something waits for it; eager: at once;
 *                     random:SEED: some of some stream's work after every call
 *   EMULATOR_FAIL     CALL:N:ERROR: the N-th call (from 1) of the runtime function CALL ("any":
 *                     of all) returns the error number; 700 and 719 to 799 stick
 *   EMULATOR_MEMORY   bytes of device memory (default 4 GiB)
 *   EMULATOR_DEVICES  number of cards (default 1)
 *   EMULATOR_CAPABILITY  80, 86, 89 or 90 (default)
 *   EMULATOR_DRIVER   the driver's version (default 13000)
 *   EMULATOR_TRAFFIC  1: counts it; 2: also prints it at the end (default 0)
 *   EMULATOR_SLOW_PRODUCT  which of the algorithms of a matrix product takes its time (-1) */
#ifndef NIBBLE_TESTS_EMULATOR_EMULATOR_H
#define NIBBLE_TESTS_EMULATOR_EMULATOR_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Sets one of the names above ("EMULATOR_ORDER") as the environment would. Aborts on a value
 * that is none. */
void emulator_set(const char *name, const char *value);

/* The first bug that was found in a kernel since the last reset: "kernel, block (0, 0, 0),
 * thread (3, 0, 0): file.cu:12: what"; "" if none. */
const char *emulator_report(void);
/* Reports go to standard error too (default true). */
void emulator_loud(bool loud);

/* A fresh device: frees every allocation, destroys streams and events, clears errors, reports
 * and counts. */
void emulator_reset(void);

/* Since the reset. */
typedef struct emulator_counts {
    int64_t calls;    /* of the runtime */
    int64_t launches; /* of kernels that ran */
    int64_t blocks, threads;
    int64_t device_bytes, host_bytes; /* allocated now */
} emulator_counts;
emulator_counts emulator_count_all(void);

/* How accesses were put together, of the first blocks of the first launches of a kernel
 * (traffic.h); only in the build with the detector. `least`: the fewest that could move the same
 * bytes. */
typedef struct emulator_traffic {
    char kernel[96];
    int64_t launches, blocks;                 /* all; those that were counted */
    int64_t read_sectors, least_read_sectors; /* of 32 bytes, global */
    int64_t write_sectors, least_write_sectors;
    int64_t shared_wavefronts, least_shared_wavefronts;
} emulator_traffic;
/* The sum over kernels whose name contains `kernel`; returns how many there are. */
int emulator_traffic_of(const char *kernel, emulator_traffic *out);
/* A table of all kernels on standard error: found / least. */
void emulator_traffic_print(void);

#ifdef __cplusplus
}
#endif
#endif
