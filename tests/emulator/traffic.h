/* traffic.h: how well a kernel's accesses are put together: sectors of global memory, wavefronts
 * of shared memory. Counted in the first blocks of each launch, by kernel. */
#ifndef NIBBLE_TESTS_EMULATOR_TRAFFIC_H
#define NIBBLE_TESTS_EMULATOR_TRAFFIC_H

/* One access of a thread; `place` tells the places in a kernel apart. */
void traffic_add(int thread, const void *place, const void *at, int bytes, bool write,
                 bool shared);
/* The lanes of a warp stand side by side again: what they did so far is put together. */
void traffic_flush(int warp);
void traffic_block_begins(void);
void traffic_block_ends(void);

#endif
