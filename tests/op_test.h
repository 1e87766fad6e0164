/* op_test.h: one operation against its fp64 reference.
 *
 * A suite is an operation's reference; a case is one call of it: shapes, attributes, values.
 * op_test makes the operands (random where the case gives none), runs the back end's function
 * and the reference on the same numbers, and asserts, for every compute type of the case:
 *   - outputs, written state and gradients agree with the reference (tolerance below);
 *   - nothing outside an operand's bytes is written, and no input that is not state;
 *   - one, two and three threads give the same bits (but see library_outs); on the card,
 *     where threads mean nothing, each of the three runs must, whatever the library does, and
 *     the emulator takes another order of threads in each;
 *   - activations' gradients are set (over garbage) or added as asked, parameters' always
 * added;
 *   - outputs and gradients that the table allows in an operand's place are the same bits
 * there;
 *   - a call of no rows does nothing;
 *   - the reference's own backward is the derivative of its forward, by central differences
 * along a random direction of each input. It knows no operation: tests/reference_*.c hold
 * references and cases, test_operations.c lists them.
 *
 * Tolerance. With u = half a unit in the last place (2^-24, 2^-8, 2^-11) an element passes if
 * |a - b| <= k u(C) (|b| + rms(b)), k being the case's count of roundings on the way. The
 * reference rounds to C exactly where operation.h says (ref_round), so that in 16 bits nearly
 * every element is the rounded reference itself (or off by f32's tolerance of the rms): at
 * most `flips` of a tensor's elements, those near a tie, may differ. */
#ifndef NIBBLE_TESTS_OP_TEST_H
#define NIBBLE_TESTS_OP_TEST_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "autograd/backend.h"
#include "autograd/operation.h"

/* As a format's type in a case: the compute type of the run. */
#define TYPE_C ((dtype)DTYPE_COUNT)

typedef struct ref_tensor {
    double *x; /* dense [rows, cols]; integers and 4-bit weights too; NULL: absent */
    int64_t rows, cols;
} ref_tensor;

/* What a reference works on. `call` gives attributes and counts; its data is not for reading.
 */
typedef struct ref_call {
    const op_call *call;
    bool rounding; /* false: every rounding is left out (gradient check) */
    ref_tensor in[OP_INPUTS], out[OP_OUTPUTS], gout[OP_OUTPUTS], gin[OP_INPUTS];
} ref_call;

/* x rounded to the compute type (or to `type`), or x itself where the call does not round. */
double ref_round(const ref_call *r, double x);
double ref_round_to(const ref_call *r, dtype type, double x);

typedef struct op_suite {
    operation op;
    /* out (and state inputs) from in; every element of out is written */
    void (*forward)(ref_call *r);
    /* gin += gradient, from in, out (of forward) and gout; gin comes zeroed, unwanted ones
     * NULL */
    void (*backward)(ref_call *r);
    /* what backward differentiates; NULL: sum of gout * out */
    double (*loss)(ref_call *r);
    /* calls op_test for each case */
    void (*run)(const struct op_suite *suite);
} op_suite;

typedef struct op_case {
    const char *name;
    op_attr attr;
    uint32_t types;     /* bit per compute dtype; 0: f32, bf16 and f16 */
    int64_t rows, used; /* used 0: all */
    int64_t documents, selected;
    int64_t capacity; /* rows that scratch is planned for; 0: rows */
    uint64_t seed, micro;
    int32_t layer;
    const struct adamw_scalars *adam;

    tensor_format in[OP_INPUTS], out[OP_OUTPUTS]; /* cols 0: absent */
    const int32_t *ints[OP_INPUTS]; /* values of I32 inputs (copied); NULL: zeros */
    const float
        *values[OP_INPUTS];  /* values of float inputs (copied); NULL: normal * spread */
    float spread[OP_INPUTS]; /* 0: 1 */
    uint32_t no_op_in_place; /* bit 0: forward pair does not apply, bit 1: backward pair */
    bool windows;            /* batch operands lie in wider rows (stride > cols) */

    uint32_t gradients;  /* inputs that get a gradient; 0: forward only */
    uint32_t parameters; /* of these, the ones with f32 gradients, always added to */
    uint32_t gouts;      /* outputs whose gradient is given (C, random) */
    uint32_t unchecked;  /* outputs that are not compared */
    /* outputs and gradients whose last bits may follow the number of threads, being products
     * of a library that cuts them so: compared with the reference instead */
    uint32_t library_outs, library_gins;

    double k_forward, k_backward; /* roundings; 0: 8 */
    double flips;                 /* share of elements; 0: 0.01; 1: not checked */
    /* the same for outputs and gradients in C on the card, whose products take 16-bit operands
     * only, so that what lies between two of them is rounded to C: `flips` is not checked there;
     * 0: as elsewhere */
    double card_k_forward, card_k_backward;
} op_case;

/* Runs one case; fails the running cmocka test with suite, case, type, operand and element. */
void op_test(const op_suite *suite, const op_case *c);

/* Inputs of `op` whose gradient some case has checked so far, and whether any case ran. */
uint32_t op_test_gradients(operation op);
bool op_test_ran(operation op);

/* The back end under test with so many threads (1 to 3), opened once: the CPU's; where the test
 * is built with OP_TEST_CUDA, the card's; with OP_TEST_EMULATED too, the emulator's. Operands lie
 * in its memory, between guards, or on the emulator, which sees every access, alone. */
backend *op_test_backend(int threads);
void op_test_close(void);

/* For tests beyond a case: normal values in a type; values of a type widened. */
void op_test_normal(void *to, dtype type, int64_t n, float spread, uint32_t seed);
void op_test_widen(double *to, const void *from, dtype type, int64_t n);

#endif
