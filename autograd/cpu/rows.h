/* rows.h: what the row-by-row operations (norm, rope, activation) share: the piece of a row
 * that lies on the stack in f32, and gradients that are set or added.
 *
 * These loops are bound by memory; they read operands piece by piece as f32 (in their place
 * where they are), round where operation.h says, and leave vectorizing to the compiler
 * (SIMD_TWICE). What they read and write may be the same elements, never shifted ones, which
 * EACH_APART says to it. */
#ifndef NIBBLE_AUTOGRAD_CPU_ROWS_H
#define NIBBLE_AUTOGRAD_CPU_ROWS_H

#include "autograd/cpu/cpu.h"
#include "common/checked.h"
#include "quant/simd.h"

enum {
    ROW_PIECE = 512, /* elements at a time, a multiple of ROW_LANES */
    ROW_LANES = 16,  /* partial sums of a row's reduction: the same on every processor */
    ROW_SPLITS =
        32, /* fixed parts of the rows, each with its own sum of a weight's gradient */
    HEAD_DIM_MAX = 256
};

/* Rows of part `i` of ROW_SPLITS: [first, last), a function of the number of rows only. */
static inline int64_t row_split(int64_t rows, int i) {
    return rows * i / ROW_SPLITS;
}

#define EACH_APART _Pragma("GCC ivdep")

/* Where to compute a piece of the gradient of activation `input`: in its place where it is set,
 * and f32; else in `space`. */
static inline float *row_target(const op_call *call, int input, int64_t row, int64_t col,
                                float *space) {
    if (call->add >> input & 1) return space;
    return cpu_place(&call->gin[input], row, col, space);
}

/* Stores (or, where the call says so, adds) a piece of the gradient of activation `input` that
 * lies in row_target; `g` [n <= ROW_PIECE] is used up. */
static inline void row_gradient(const op_call *call, int input, int64_t row, int64_t col,
                                int64_t n, float *g) {
    const tensor *t = &call->gin[input];
    if (call->add >> input & 1) {
        float space[ROW_PIECE], *old = cpu_view(t, row, col, n, space);
        for (int64_t i = 0; i < n; i++) g[i] += old[i];
    }
    cpu_settle(t, row, col, n, g);
}

#endif
