/* weights.h: rows of a 4-bit weight matrix, decoded into a scratch that products read.
 *
 * One fused kernel: nibble, level, scale (itself recovered from 8 bits where nested), one fp32
 * multiplication and one rounding to the scratch's type; bit-equal to quant/nf4_decode.c. It
 * reads 0.52 bytes and writes 2 per weight, so it is to run at the card's copy bandwidth. */
#ifndef NIBBLE_AUTOGRAD_CUDA_WEIGHTS_H
#define NIBBLE_AUTOGRAD_CUDA_WEIGHTS_H

#ifdef __cplusplus
extern "C" {
#endif

#include "autograd/backend.h"

/* Enqueues on the compute stream: rows [first, first + rows) of the 4-bit W [out, in] as
 * `type` (f32, bf16, f16) to `to`, `stride` elements from row to row (>= in); what lies
 * between a row's end and the next is left alone. `to` is on the device, aligned to its
 * elements; pieces of 16 bytes are stored where `to` and `stride` allow. rows == 0 does
 * nothing. STATUS_DEVICE. */
status cuda_weights_decode(backend *b, const tensor *w, int64_t first, int64_t rows,
                           dtype type, void *to, int64_t stride);

#ifdef __cplusplus
}
#endif
#endif
