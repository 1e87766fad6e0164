/* requantize.h: a linear's weight on its way out in 4 bits: rows in the file's 16-bit type in,
 * one 4-bit tensor out, ready for checkpoints/bnb.h.
 *
 * It also counts what that costs: the error that the new codes make, against the weights that
 * came in. Quantizing is not idempotent on a merged weight: its blocks have other maxima than
 * the ones that training saw. Memory: the 4 bits of one weight, and 4 bytes per block. */
#ifndef NIBBLE_TRAINER_MODEL_REQUANTIZE_H
#define NIBBLE_TRAINER_MODEL_REQUANTIZE_H

#include "trainer/model/layout.h"

typedef struct requantizer {
    dtype source;         /* of the rows: F32, BF16, F16 */
    tensor_format format; /* of the weight that goes through */
    void *data;           /* [format_bytes] of it; complete after requantizer_finish */
    float *absmax;        /* [blocks] */
    double weight, error; /* sums of squares over everything that went through */
} requantizer;

/* The format of a linear's weight; block 64. */
tensor_format requantizer_format(const layout_tensor *t, dtype type, bool nested);
/* How many rows make whole blocks: what requantizer_put takes is a multiple of it, except a
 * weight's last rows. 1 .. 64. */
int64_t requantizer_row_unit(const layout_tensor *t);

/* Begins a weight, forgetting the one before. */
status requantizer_begin(requantizer *q, const tensor_format *format, dtype source);
/* Elements [first, first + n) of it, all finite, first on a block. */
status requantizer_put(requantizer *q, int64_t first, const void *values, int64_t n);
/* Its scales and tables. */
status requantizer_finish(requantizer *q);
/* |codes' values - weights| / |weights| over everything so far; 0 when nothing was. The scales
 * count as they are before they are quantized themselves, which moves the third digit. */
double requantizer_error(const requantizer *q);
/* Frees the buffers; a zeroed one may be closed. */
void requantizer_close(requantizer *q);

#endif
