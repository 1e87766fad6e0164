/* test_program.c: recording and deriving: wrong programs are refused once and by name;
 * gradients flow only where something trainable asks for them; equal gradients share a buffer
 * only where that is safe. */
#include "autograd/program.h"
#include "common/alloc.h"
#include "tiny_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

enum { ROWS = 64 };

static const template_ *block_of(const program *p) {
    return &p->templates[1];
}

/* position of the parameter slot that program_parameter gave the n-th */
static slot_id parameter_slot(const template_ *t, int n) {
    for (size_t s = 0; s < t->slot_count; s++)
        if (t->slots[s].kind == SLOT_PARAMETER && t->slots[s].index == n) return (slot_id)s;
    return SLOT_NONE;
}

static slot_id output_of(const template_ *t, operation op, int nth, int o) {
    for (size_t r = 0; r < t->record_count; r++)
        if (t->records[r].op == op && nth-- == 0) return t->records[r].out[o];
    return SLOT_NONE;
}

static void the_first_error_sticks_and_names_its_call(void **state) {
    parameter_table table;
    program *p;
    parameter_table_init(&table, 64);
    assert_int_equal(program_open(&p, "wrong", &table, DTYPE_F32, ROWS, true), STATUS_OK);
    slot_id ids = program_input(p, "ids", format_of(DTYPE_I32, 0, 1));
    program_template(p, "embed");
    slot_id w = program_parameter(p, format_of(DTYPE_BF16, 10, 8)); /* not the compute type */
    assert_true(program_embedding(p, ids, w, 0) >= 0 || p->failed != STATUS_OK);
    program_glu(p, 77, ACT_SILU); /* a second error */
    assert_int_equal(program_seal(p), STATUS_INTERNAL);
    assert_non_null(strstr(status_message(), "embedding"));
    assert_null(strstr(status_message(), "glu"));
    program_close(p);
    parameter_table_free(&table);
}

/* Layers mostly come in order, which is quick; whatever comes out of order finds its page. */
static void a_page_is_found_in_any_order(void **state) {
    static const int32_t groups[] = {0, 1, 5, 1, 3, 5, -1, 3, 0, -1};
    static const int32_t pages[] = {0, 1, 2, 1, 3, 2, 4, 3, 0, 4};
    parameter_table table;
    parameter_id id;
    parameter_table_init(&table, 64);
    for (int i = 0; i < 10; i++) {
        tensor_format f = format_of(DTYPE_F32, 2, 3);
        assert_int_equal(parameter_add(&table, "w", f, MEM_BASE, groups[i], &id), STATUS_OK);
        assert_int_equal(table.items[id].page, pages[i]);
        assert_int_equal(table.pages[table.items[id].page].group, groups[i]);
    }
    assert_int_equal(
        parameter_add(&table, "w", format_of(DTYPE_F32, 2, 3), MEM_ADAPTER, 1, &id),
        STATUS_OK);
    assert_int_equal(table.items[id].page, 5);
    parameter_table_free(&table);
}

static void a_sealed_program_takes_no_more(void **state) {
    tiny t = {.layers = 0};
    assert_int_equal(tiny_open(&t, 2, 0, DTYPE_F32, DTYPE_F32, ROWS, 64), STATUS_OK);
    size_t records = block_of(t.train)->record_count;
    assert_int_equal(program_glu(t.train, 0, ACT_SILU), SLOT_NONE);
    assert_int_equal(block_of(t.train)->record_count, records);
    assert_int_equal(program_seal(t.train), STATUS_INTERNAL);
    assert_non_null(strstr(status_message(), "sealed"));
    tiny_close(&t);
}

static void a_binding_must_fit_its_template(void **state) {
    tiny t = {.layers = 0};
    parameter_id small;
    program *p;
    assert_int_equal(tiny_open(&t, 1, 0, DTYPE_F32, DTYPE_F32, ROWS, 64), STATUS_OK);
    assert_int_equal(parameter_add(&t.table, "small", format_of(DTYPE_F32, TINY_V, TINY_H - 1),
                                   MEM_BASE, 0, &small),
                     STATUS_OK);
    assert_int_equal(program_open(&p, "wrong", &t.table, DTYPE_F32, ROWS, false), STATUS_OK);
    slot_id ids = program_input(p, "ids", format_of(DTYPE_I32, 0, 1));
    int e = program_template(p, "embed");
    program_carry_out(
        p, program_embedding(p, ids,
                             program_parameter(p, format_of(DTYPE_F32, TINY_V, TINY_H)), 0));
    program_section(p, e);
    program_bind(p, 0, &small, 1);
    assert_int_equal(program_seal(p), STATUS_INTERNAL);
    assert_non_null(strstr(status_message(), "small"));
    program_close(p);
    tiny_close(&t);
}

static void gradients_flow_only_where_they_are_asked_for(void **state) {
    tiny t = {.layers = 0};
    assert_int_equal(tiny_open(&t, 2, 0, DTYPE_F32, DTYPE_F32, ROWS, 64), STATUS_OK);
    const template_ *b = block_of(t.train);
    bool mask[64] = {false};
    derivation d;
    /* nothing trainable, nothing wanted below: no backward at all */
    assert_int_equal(derive(b, mask, false, true, &d), STATUS_OK);
    assert_int_equal(d.count, 0);
    derivation_free(&d);
    /* only down's A (module 6; parameters: norm1, norm2, then w, a, b of each): its linear
     * alone */
    mask[2 + 3 * 6 + 1] = true;
    assert_int_equal(derive(b, mask, false, true, &d), STATUS_OK);
    assert_int_equal(d.count, 2); /* add, linear */
    assert_true(d.has_gradient[parameter_slot(b, 2 + 3 * 6 + 1)]);
    assert_false(d.has_gradient[parameter_slot(b, 2 + 3 * 6 + 2)]);
    assert_false(d.has_gradient[output_of(b, OP_GLU, 0,
                                          0)]); /* dX below the lowest adapter is pruned */
    assert_true(d.needed[output_of(b, OP_GLU, 0, 0)]); /* but dA reads x */
    derivation_free(&d);
    /* the layer below wants the carry's gradient: everything on the way has one */
    assert_int_equal(derive(b, mask, true, true, &d), STATUS_OK);
    assert_int_equal(d.count, b->record_count);
    assert_true(d.has_gradient[b->carry_in]);
    derivation_free(&d);
    tiny_close(&t);
}

static void frozen_norms_and_weights_get_no_gradient(void **state) {
    tiny t = {.layers = 0};
    assert_int_equal(tiny_open(&t, 1, 0, DTYPE_F32, DTYPE_NF4, ROWS, 64), STATUS_OK);
    const template_ *b = block_of(t.train);
    bool mask[64] = {false};
    for (int m = 0; m < 7; m++) mask[2 + 3 * m + 1] = mask[2 + 3 * m + 2] = true;
    derivation d;
    assert_int_equal(derive(b, mask, true, true, &d), STATUS_OK);
    for (int n = 0; n < b->parameters; n++)
        assert_int_equal(d.has_gradient[parameter_slot(b, n)], mask[n]);
    for (size_t i = 0; i < d.count; i++) {
        const record *r = &b->records[d.records[i].record];
        if (r->op == OP_LINEAR) assert_int_equal(d.records[i].gin >> linear_w(0) & 1, 0);
        if (r->op == OP_RMSNORM) assert_int_equal(d.records[i].gin >> RMSNORM_W & 1, 0);
    }
    derivation_free(&d);
    tiny_close(&t);
}

/* x + o: the gradients of x and o are equal. o's may live in x's buffer, because o's producer
 * reads it before the first norm adds to x's. */
static void equal_gradients_share_where_it_is_safe(void **state) {
    tiny t = {.layers = 0};
    assert_int_equal(tiny_open(&t, 1, 0, DTYPE_F32, DTYPE_F32, ROWS, 64), STATUS_OK);
    const template_ *b = block_of(t.train);
    bool mask[64] = {false};
    for (int m = 0; m < 7; m++) mask[2 + 3 * m + 1] = true;
    derivation d;
    assert_int_equal(derive(b, mask, true, true, &d), STATUS_OK);
    slot_id o = output_of(b, OP_LINEAR, 1, 0), down = output_of(b, OP_LINEAR, 3, 0),
            h2 = output_of(b, OP_RMSNORM, 1, RMSNORM_SUM);
    assert_int_equal(d.gradient_as[o], b->carry_in);
    assert_int_equal(d.gradient_as[down], h2);
    derivation_free(&d);
    tiny_close(&t);
}

/* h feeds the sum and, later in the layer, something else: then sharing would let the later
 * gradient leak into o's. */
static void unequal_gradients_do_not_share(void **state) {
    parameter_table table;
    program *p;
    parameter_table_init(&table, 64);
    assert_int_equal(program_open(&p, "fork", &table, DTYPE_F32, ROWS, true), STATUS_OK);
    int k = program_template(p, "fork");
    slot_id w = program_parameter(p, format_of(DTYPE_F32, TINY_H, TINY_H));
    linear_part part = {
        .w = w, .bias = SLOT_NONE, .a = SLOT_NONE, .b = SLOT_NONE, .out = TINY_H};
    slot_id h = program_carry_in(p, TINY_H);
    slot_id o = program_linear(p, h, &part, 1, 0);
    slot_id sum = program_add(p, h, o);
    program_carry_out(
        p,
        program_add(p, sum, program_linear(p, h, &part, 1, 0))); /* h again, after the sum */
    program_section(p, k);
    assert_int_equal(program_seal(p), STATUS_OK);
    bool mask[1] = {true};
    derivation d;
    assert_int_equal(derive(&p->templates[0], mask, true, true, &d), STATUS_OK);
    assert_int_equal(d.gradient_as[o], o);
    derivation_free(&d);
    program_close(p);
    parameter_table_free(&table);
}

static void printing_shows_records_and_backward(void **state) {
    tiny t = {.layers = 0};
    char *text = NULL;
    assert_int_equal(tiny_open(&t, 3, 1, DTYPE_F32, DTYPE_NF4, ROWS, 64), STATUS_OK);
    assert_int_equal(program_print(t.train, &text), STATUS_OK);
    assert_non_null(strstr(text, "section block x 2"));
    assert_non_null(strstr(text, "section bare x 1"));
    assert_non_null(strstr(text, "head_cross_entropy"));
    assert_non_null(strstr(text, "attention'"));
    mem_free(text);
    tiny_close(&t);
}

static void allocation_failures_leave_nothing(void **state) {
    size_t before = mem_blocks();
    for (uint64_t k = 1;; k++) {
        tiny t = {.layers = 0};
        mem_fail_at(k, 0);
        status s = tiny_open(&t, 2, 1, DTYPE_F32, DTYPE_F32, ROWS, 64);
        mem_fail_at(0, 0);
        tiny_close(&t);
        assert_int_equal(mem_blocks(), before);
        if (s == STATUS_OK) break;
        assert_true(k < 2000);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_error_sticks_and_names_its_call),
        cmocka_unit_test(a_page_is_found_in_any_order),
        cmocka_unit_test(a_sealed_program_takes_no_more),
        cmocka_unit_test(a_binding_must_fit_its_template),
        cmocka_unit_test(gradients_flow_only_where_they_are_asked_for),
        cmocka_unit_test(frozen_norms_and_weights_get_no_gradient),
        cmocka_unit_test(equal_gradients_share_where_it_is_safe),
        cmocka_unit_test(unequal_gradients_do_not_share),
        cmocka_unit_test(printing_shows_records_and_backward),
        cmocka_unit_test(allocation_failures_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
