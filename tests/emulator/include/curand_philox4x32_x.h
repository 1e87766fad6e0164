/* curand_philox4x32_x.h of the emulator: Philox4x32-10 (Salmon, Moraes, Dror and Shaw,
 * "Parallel random numbers: as easy as 1, 2, 3", SC 2011) under cuRAND's name. */
#ifndef NIBBLE_TESTS_EMULATOR_CURAND_PHILOX_H
#define NIBBLE_TESTS_EMULATOR_CURAND_PHILOX_H

#include "cuda_runtime.h"

extern "C++" {
static inline uint4 curand_Philox4x32_10(uint4 c, uint2 k) {
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c.x, b = (uint64_t)0xCD9E8D57u * c.z;
        c = make_uint4((unsigned)(b >> 32) ^ c.y ^ k.x, (unsigned)b,
                       (unsigned)(a >> 32) ^ c.w ^ k.y, (unsigned)a);
        k.x += 0x9E3779B9u;
        k.y += 0xBB67AE85u;
    }
    return c;
}
}

#endif
