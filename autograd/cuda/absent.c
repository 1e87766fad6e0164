/* absent.c: what stands in for the CUDA back end in a build without it. */
#include "autograd/backend.h"

bool backend_cuda_present(void) {
    return false;
}

status backend_cuda_open(backend **out) {
    *out = NULL;
    return status_fail(STATUS_DEVICE,
                       "--device cuda: this build has no CUDA back end; "
                       "CMAKE_ARGS=-DNIBBLE_CUDA=ON ./run ... "
                       "makes one where nvcc is installed, --device cpu runs everywhere");
}
