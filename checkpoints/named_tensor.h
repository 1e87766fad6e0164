/* named_tensor.h: a tensor on its way into a file: a name, a format, and where its bytes are.
 *
 * Everything that this folder writes (adapters, checkpoints) is a list of these. The bytes are
 * either in memory (`data`) or fetched piece by piece through `read`, for what is paged out.
 */
#ifndef NIBBLE_CHECKPOINTS_NAMED_TENSOR_H
#define NIBBLE_CHECKPOINTS_NAMED_TENSOR_H

#include "autograd/tensor.h"

#include <string.h>

typedef struct named_tensor {
    const char *name;     /* not owned */
    tensor_format format; /* dense, rows x cols; anything 4-bit goes as DTYPE_U8, 1 x bytes */
    const void *data;     /* dense, row-major; NULL: call `read` */
    /* Bytes [first, first + bytes) of the tensor into `out`. */
    status (*read)(void *context, int64_t first, int64_t bytes, void *out);
    void *context;
} named_tensor;

static inline status named_tensor_read(const named_tensor *t, int64_t first, int64_t bytes,
                                       void *out) {
    if (!t->data) return t->read(t->context, first, bytes, out);
    memcpy(out, (const char *)t->data + first, (size_t)bytes);
    return STATUS_OK;
}

#endif
