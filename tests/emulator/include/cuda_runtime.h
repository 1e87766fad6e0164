/* cuda_runtime.h of the emulator: what g++ finds where nvcc finds NVIDIA's. C++ linkage even
 * where a header of the back end includes it inside extern "C". */
#ifndef NIBBLE_TESTS_EMULATOR_CUDA_RUNTIME_H
#define NIBBLE_TESTS_EMULATOR_CUDA_RUNTIME_H

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __align__(n)    __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__
/* No __shared__: shared memory is dynamic, through SHARED. */

extern "C++" {
#include "emulator/types.h"
#include "emulator/runtime_api.h"
#include "emulator/intrinsics.h"
}

#endif
