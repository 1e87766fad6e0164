/* op_bench.h: one case of an operation in one compute type, made ready and run.
 *
 * A bench holds the operands' initial bytes, the reference's copy of the same numbers in
 * double, and what the plain runs gave. A run is one call on fresh copies with guards around
 * them; it checks what can be checked without a reference: nothing outside the operands or in
 * an input is written. Whether the numbers are right is op_test.c's. */
#ifndef NIBBLE_TESTS_OP_BENCH_H
#define NIBBLE_TESTS_OP_BENCH_H

#include "op_test.h"

enum {
    GUARD = 64,      /* bytes before and after every operand */
    FILLER = 0xFF,   /* what they hold, and what is to be set: NaN in every float type */
    WINDOW_GAP = 24, /* extra columns of a windowed operand */
    OPERANDS = OP_INPUTS + 2 * OP_OUTPUTS + OP_INPUTS,
    FIRST_OUT = OP_INPUTS,
    FIRST_GOUT = FIRST_OUT + OP_OUTPUTS,
    FIRST_GIN = FIRST_GOUT + OP_OUTPUTS,
};

/* How a run differs from the plain one. */
typedef struct variant {
    const char *name;
    int threads;
    bool backward, add, in_place;
} variant;

typedef struct bench {
    const op_suite *suite;
    const op_case *c;
    const operation_row *row;
    dtype compute;
    op_call call;                /* counts and attributes; operands' formats, no data */
    void *initial[OPERANDS];     /* bytes at the start of a run; NULL: absent */
    int64_t bytes[OPERANDS];     /* of the block from the first to the last element */
    void *forward[OPERANDS];     /* bytes after the plain forward */
    void *backward[2][OPERANDS]; /* bytes after the plain backward: set, added */
    ref_call ref;
} bench;

/* Half a unit in the last place at 1; element i of an array; x rounded to a type. */
double op_test_half_ulp(dtype type);
double op_test_read(const void *at, dtype type, int64_t i);
double op_test_round(dtype type, double x);

void bench_open(bench *b, const op_suite *suite, const op_case *c, dtype compute);
void bench_close(bench *b);
void *bench_alloc(int64_t bytes);

/* Operand i of OPERANDS: inputs, outputs, gradients of outputs, of inputs. */
tensor *bench_operand(op_call *call, int i);
ref_tensor *bench_reference(ref_call *r, int i);
bool bench_is_parameter(const bench *b, int input);
bool bench_is_written(const bench *b, const variant *v, int i);

/* Fails the test, naming operation, case, type, run and operand. */
void bench_fail(const bench *b, const variant *v, int i, const char *what);

/* Runs the variant and returns the bytes of each operand that it writes in `after` (and of
 * inputs after a forward); others are NULL. */
void bench_run(bench *b, const variant *v, void *after[OPERANDS]);
void bench_free_all(void *after[OPERANDS]);
/* A call of no rows succeeds and writes nothing. */
void bench_run_empty(bench *b, variant v);

#endif
