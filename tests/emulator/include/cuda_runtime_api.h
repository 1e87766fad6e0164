/* cuda_runtime_api.h of the emulator: see cuda_runtime.h. */
#include "cuda_runtime.h"
