/* requantize.c: see requantize.h. */
#include "trainer/model/requantize.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "quant/double.h"
#include "quant/dynamic.h"
#include "trainer/model/weights.h"

#include <math.h>
#include <string.h>

enum { PIECE = 1 << 14 /* elements that one thread takes at a time, whole blocks */ };

static quant_type type_of(const requantizer *q) {
    return q->format.type == DTYPE_NF4 ? QUANT_NF4 : QUANT_FP4;
}

tensor_format requantizer_format(const layout_tensor *t, dtype type, bool nested) {
    return format_4bit(type, t->rows, t->cols, nested);
}

int64_t requantizer_row_unit(const layout_tensor *t) {
    int64_t unit = 1;
    while (unit < QUANT_BLOCK && unit * t->cols % QUANT_BLOCK) unit *= 2;
    return unit;
}

status requantizer_begin(requantizer *q, const tensor_format *format, dtype source) {
    int64_t bytes;
    TRY(format_bytes(format, &bytes));
    requantizer_close(q);
    q->format = *format;
    q->source = source;
    q->data = mem_alloc((size_t)bytes, "a 4-bit weight");
    q->absmax = mem_alloc_array((size_t)format_parts_of(format).blocks, sizeof *q->absmax,
                                "a weight's scales");
    return q->data && q->absmax ? STATUS_OK : STATUS_MEMORY;
}

/* Adds |x|^2 and |value - x|^2 of elements [first, first + n) to out[0] and out[1]. */
static void add_squares(const requantizer *q, int64_t first, const void *values, int64_t n,
                        double out[2]) {
    quant_view v = {.type = type_of(q),
                    .count = q->format.rows * q->format.cols,
                    .block = q->format.block,
                    .codes = q->data,
                    .absmax = q->absmax,
                    .code = quant_codebook(type_of(q))};
    float x[PIECE / 16], y[PIECE / 16];
    int64_t size = dtype_bytes(q->source);
    for (int64_t at = 0; at < n; at += PIECE / 16) {
        int64_t m = min_i64(PIECE / 16, n - at);
        convert_array((const char *)values + at * size, quant_source_of(q->source), x,
                      QUANT_SRC_F32, m);
        quant_dequantize_f32(&v, first + at, m, y);
        for (int64_t i = 0; i < m; i++) {
            double d = (double)y[i] - (double)x[i];
            out[0] += (double)x[i] * (double)x[i];
            out[1] += d * d;
        }
    }
}

static status put_piece(requantizer *q, int64_t first, const void *values, int64_t n) {
    return quant_quantize(type_of(q), values, quant_source_of(q->source), n, q->format.block,
                          (uint8_t *)q->data + first / 2, q->absmax + first / q->format.block);
}

status requantizer_put(requantizer *q, int64_t first, const void *values, int64_t n) {
    double weight = 0, error = 0;
    int failed = 0;
    int64_t pieces = (n + PIECE - 1) / PIECE, size = dtype_bytes(q->source);
#pragma omp parallel for schedule(static) reduction(+ : weight, error) reduction(| : failed)
    for (int64_t i = 0; i < pieces; i++) {
        int64_t at = i * PIECE, m = min_i64(PIECE, n - at);
        const char *x = (const char *)values + at * size;
        double squares[2] = {0, 0};
        if (put_piece(q, first + at, x, m) != STATUS_OK)
            failed |= 1;
        else
            add_squares(q, first + at, x, m, squares);
        weight += squares[0];
        error += squares[1];
    }
    q->weight += weight;
    q->error += error;
    return failed ? status_fail(STATUS_INTERNAL, "a weight that cannot be quantized")
                  : STATUS_OK;
}

status requantizer_finish(requantizer *q) {
    format_parts p = format_parts_of(&q->format);
    tensor t = tensor_at(&q->format, q->data);
    memcpy(t.scales.code, quant_codebook(type_of(q)), 16 * sizeof(float));
    *t.scales.offset = 0;
    if (!q->format.nested) {
        memcpy(t.scales.absmax, q->absmax, (size_t)p.blocks * sizeof(float));
        return STATUS_OK;
    }
    memcpy(t.scales.map, dynamic_map_signed(), DYNAMIC_CODES * sizeof(float));
    return quant_nest(q->absmax, p.blocks, t.scales.absmax, t.scales.absmax2, t.scales.offset,
                      dynamic_map_signed());
}

double requantizer_error(const requantizer *q) {
    return q->weight > 0 ? sqrt(q->error / q->weight) : 0;
}

void requantizer_close(requantizer *q) {
    mem_free(q->data);
    mem_free(q->absmax);
    q->data = NULL;
    q->absmax = NULL;
}
