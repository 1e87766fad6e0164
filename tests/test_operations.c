/* test_operations.c: every operation of the table against its fp64 reference (op_test.h), and
 * that none is left out. The references and cases are in reference_*.c. */
#include "op_test.h"

#include "common/alloc.h"
#include "quant/simd.h"

extern const op_suite suite_rmsnorm, suite_rope, suite_attention, suite_glu, suite_add;
extern const op_suite suite_embedding, suite_linear, suite_head, suite_logits, suite_loss_sum;
extern const op_suite suite_fake_quant, suite_square_sum, suite_adamw;

static const op_suite *const suites[] = {
    &suite_rmsnorm, &suite_rope, &suite_attention, &suite_glu, &suite_add,
    &suite_embedding, &suite_linear, &suite_head, &suite_logits, &suite_fake_quant,
    &suite_loss_sum, &suite_square_sum, &suite_adamw,
};
enum { SUITES = sizeof suites / sizeof *suites };

/* With every instruction set of this processor, the plainest first; the card has none. */
static void test_suite(void **state) {
    const op_suite *suite = *state;
    simd_level best = op_test_backend(1)->host_visible ? simd_get() : SIMD_NONE;
    for (int level = SIMD_NONE; level <= (int)best; level++) {
        simd_limit((simd_level)level);
        suite->run(suite);
    }
    simd_limit(SIMD_AVX512);
}

/* Runs last: no operation without a case, no differentiable input without a gradient check. */
static void test_table_is_covered(void **state) {
    for (int op = 0; op < OP_COUNT; op++) {
        const operation_row *row = operation_get((operation)op);
        if (!op_test_ran((operation)op)) fail_msg("%s has no case", row->name);
        uint32_t missing = row->differentiable & ~op_test_gradients((operation)op);
        if (row->has_backward && missing)
            fail_msg("%s: no case checks the gradient of inputs %#x", row->name, missing);
    }
}

static int close_back_ends(void **state) {
    op_test_close();
    return mem_blocks() != 0;
}

int main(void) {
    struct CMUnitTest tests[SUITES + 1];
    for (int i = 0; i < SUITES; i++)
        tests[i] = (struct CMUnitTest){operation_get(suites[i]->op)->name, test_suite, NULL,
                                       NULL, (void *)suites[i]};
    tests[SUITES] = (struct CMUnitTest)cmocka_unit_test(test_table_is_covered);
    return cmocka_run_group_tests(tests, NULL, close_back_ends);
}
