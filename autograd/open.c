/* open.c: which back end computes. */
#include "autograd/card.h"
#include "common/log.h"

#include <string.h>

status backend_open(backend **out, const device_request *q) {
    if (q->card) return backend_card_open(out, q->card);
    if (q->choice == DEVICE_CUDA) return backend_cuda_open(out);
    if (q->choice == DEVICE_AUTO && backend_cuda_present()) {
        if (backend_cuda_open(out) == STATUS_OK) return STATUS_OK;
        log_info("the CPU computes: %s", status_message());
        status_clear();
    }
    return backend_cpu_open(out, q->threads);
}

status backend_measure(backend *b, dtype compute, backend_rates *rates) {
    memset(rates, 0, sizeof *rates);
    return b->table->measure(b, compute, rates);
}
