/* test_planner.c: plans are checked by what they must guarantee, not by how they were made:
 * every step reads exactly the bytes that its producer wrote, in every mode; peaks are what
 * the buffers add up to; refusals offer remedies that work. */
#include "autograd/execute.h"
#include "autograd/planner.h"
#include "common/alloc.h"
#include "tiny_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

enum { LAYERS = 5, ROWS = 192 };

/* A back end with no memory of its own: the CPU's scratch sizes, nothing runs. */
static backend *rehearse(backend **cpu) {
    backend *b;
    assert_int_equal(backend_cpu_open(cpu, 1), STATUS_OK);
    assert_int_equal(backend_rehearsal_open(&b, *cpu), STATUS_OK);
    return b;
}

/* Plays the schedule on a map "which buffer wrote this 64-byte line last". */
typedef struct lines {
    const plan *p;
    const schedule *s;
    int32_t *owner;
    size_t n;
} lines;

static void write_buffer(lines *m, buffer_id id) {
    if (id < 0) return;
    const buffer *b = &m->s->buffers[id];
    for (int64_t at = b->offset / 64; at < (b->offset + b->bytes + 63) / 64; at++)
        m->owner[at] = id;
}

static void read_buffer(const lines *m, buffer_id id, int32_t step) {
    if (id < 0) return;
    const buffer *b = &m->s->buffers[id];
    assert_true(b->first <= step && step <= b->last);
    for (int64_t at = b->offset / 64; at < (b->offset + b->bytes + 63) / 64; at++)
        if (m->owner[at] != id)
            fail_msg("step %d reads buffer %d, whose bytes are buffer %d's", step, id,
                     m->owner[at]);
}

static void play(const plan *p, int program) {
    const schedule *s = &p->programs[program].schedule;
    lines m = {p, s, NULL, (size_t)p->programs[program].transient_bytes / 64 + 2};
    m.owner = mem_alloc_array(m.n, sizeof *m.owner, "test");
    memset(m.owner, 0xff, m.n * sizeof *m.owner);
    for (size_t i = 0; i < p->programs[program].program->input_count; i++)
        write_buffer(&m, s->inputs[i]);
    size_t next = 0;
    for (int32_t n = 0; n < (int32_t)s->step_count; n++) {
        for (; next < s->move_count && s->moves[next].at <= n; next++) {
            const move *v = &s->moves[next];
            if (v->out) {
                read_buffer(&m, v->from, n);
                assert_true(s->buffers[v->from].last >=
                            v->until - 1); /* stays while it is copied */
            } else {
                write_buffer(&m, v->to);
                assert_true(s->buffers[v->to].first <= v->at);
            }
        }
        const step *e = &s->steps[n];
        const operation_row *row = operation_get(e->op);
        for (int i = 0; i < OP_INPUTS; i++) {
            read_buffer(&m, e->in[i], n);
            if (e->add >> i & 1 && !(e->zero >> i & 1)) read_buffer(&m, e->gin[i], n);
        }
        for (int o = 0; o < OP_OUTPUTS; o++) {
            read_buffer(&m, e->gout[o], n);
            if (e->phase == PHASE_BACKWARD && !row->fused_backward)
                read_buffer(&m, e->out[o], n);
        }
        if (e->scratch != REF_NONE) write_buffer(&m, e->scratch);
        for (int i = 0; i < OP_INPUTS; i++) write_buffer(&m, e->gin[i]);
        for (int o = 0; o < OP_OUTPUTS; o++)
            if (e->phase != PHASE_BACKWARD || row->fused_backward) write_buffer(&m, e->out[o]);
        for (int i = 0; i < OP_INPUTS; i++)
            read_buffer(&m, e->gin[i], n); /* nobody else wrote over them */
    }
    for (size_t i = 0; i < s->output_count; i++)
        read_buffer(&m, s->outputs[i], (int32_t)s->step_count);
    mem_free(m.owner);
}

static int count_steps(const schedule *s, operation op, phase ph) {
    int n = 0;
    for (size_t i = 0; i < s->step_count; i++)
        n += s->steps[i].op == op && s->steps[i].phase == ph;
    return n;
}

static void every_mode_reads_what_was_written(void **state) {
    static const activation_mode modes[] = {ACTIVATIONS_KEEP, ACTIVATIONS_RECOMPUTE,
                                            ACTIVATIONS_OFFLOAD};
    for (int lowest = 0; lowest <= LAYERS; lowest += 2)
        for (int i = 0; i < 3; i++) {
            backend *cpu, *b = rehearse(&cpu);
            tiny t = {.layers = 0};
            assert_int_equal(tiny_open(&t, LAYERS, lowest, DTYPE_F32, DTYPE_NF4, ROWS, 64),
                             STATUS_OK);
            const program *programs[] = {t.train, t.evaluate};
            plan_policy policy = {.activations = modes[i], .base = BASE_RESIDENT};
            plan *p;
            assert_int_equal(plan_make(&p, b, &t.table, programs, 2, &policy, NULL),
                             STATUS_OK);
            play(p, 0);
            play(p, 1);
            const schedule *s = &p->programs[0].schedule;
            int adapted = LAYERS - lowest;
            assert_int_equal(count_steps(s, OP_ATTENTION, PHASE_BACKWARD),
                             adapted ? adapted : 0);
            assert_int_equal(count_steps(s, OP_ATTENTION, PHASE_RECOMPUTE),
                             i == 1 ? adapted : 0);
            assert_int_equal(count_steps(s, OP_EMBEDDING, PHASE_BACKWARD), 0);
            assert_int_equal(s->move_count > 0, i == 2 && adapted);
            plan_free(p);
            tiny_close(&t);
            b->table->close(b);
            cpu->table->close(cpu);
        }
}

/* NUMERICS 5: kept per token and layer are h, qkv, attention's y (and lse), o, gate|up. */
static void keeping_stores_what_the_arithmetic_says(void **state) {
    backend *cpu, *b = rehearse(&cpu);
    int64_t peak[2];
    for (int k = 0; k < 2; k++) {
        tiny t = {.layers = 0};
        assert_int_equal(tiny_open(&t, k ? 20 : 10, 0, DTYPE_F32, DTYPE_NF4, ROWS, 64),
                         STATUS_OK);
        const program *programs[] = {t.train};
        plan_policy policy = {.activations = ACTIVATIONS_KEEP, .base = BASE_RESIDENT};
        plan *p;
        assert_int_equal(plan_make(&p, b, &t.table, programs, 1, &policy, NULL), STATUS_OK);
        peak[k] = p->class_device[MEM_ACTIVATION];
        plan_free(p);
        tiny_close(&t);
    }
    int64_t values = TINY_H + (TINY_HEADS + 2 * TINY_KV) * TINY_D + TINY_HEADS * TINY_D +
                     TINY_HEADS + TINY_H + 2 * TINY_F;
    assert_int_equal((peak[1] - peak[0]) / 10, values * 4 * ROWS);
    b->table->close(b);
    cpu->table->close(cpu);
}

static void a_small_budget_is_met_or_refused_with_remedies(void **state) {
    backend *cpu, *b = rehearse(&cpu);
    tiny t = {.layers = 0};
    assert_int_equal(tiny_open(&t, 12, 0, DTYPE_F32, DTYPE_NF4, ROWS, 64), STATUS_OK);
    const program *programs[] = {t.train, t.evaluate};
    plan_policy policy = {.activations = ACTIVATIONS_KEEP, .base = BASE_RESIDENT};
    plan *keep, *rec, *p;
    assert_int_equal(plan_make(&keep, b, &t.table, programs, 2, &policy, NULL), STATUS_OK);
    policy.activations = ACTIVATIONS_RECOMPUTE;
    assert_int_equal(plan_make(&rec, b, &t.table, programs, 2, &policy, NULL), STATUS_OK);
    assert_true(rec->device_bytes < keep->device_bytes);
    /* between the two: keep is refused and says that recompute fits; auto keeps some layers */
    policy.device_budget = (keep->device_bytes + rec->device_bytes) / 2;
    policy.activations = ACTIVATIONS_KEEP;
    assert_int_equal(plan_make(&p, b, &t.table, programs, 2, &policy, NULL), STATUS_MEMORY);
    assert_non_null(strstr(status_message(), "memory.activations=recompute"));
    policy.activations = ACTIVATIONS_AUTO;
    assert_int_equal(plan_make(&p, b, &t.table, programs, 2, &policy, NULL), STATUS_OK);
    assert_true(p->device_bytes <= policy.device_budget &&
                p->device_bytes > rec->device_bytes);
    play(p, 0);
    plan_free(p);
    policy.device_budget = 1000;
    assert_int_equal(plan_make(&p, b, &t.table, programs, 2, &policy, NULL), STATUS_MEMORY);
    assert_non_null(strstr(status_message(), "sequence_len"));
    plan_free(keep);
    plan_free(rec);
    tiny_close(&t);
    b->table->close(b);
    cpu->table->close(cpu);
}

static void traffic_of(engine *e, int64_t *in, int64_t *fetches) {
    engine_traffic t = engine_traffic_of(e, MEM_BASE);
    *in = t.in_bytes;
    *fetches = t.fetches;
}

/* With k slots of L layers a steady micro-step (forward 0..L-1, backward L-1..0) finds the k
 * layers around each turn in place: 2 (L - k) fetches. */
static void streaming_fetches_each_layer_twice_but_for_the_slots(void **state) {
    backend *cpu, *b = rehearse(&cpu);
    for (int k = 1; k <= 4; k++) {
        tiny t = {.layers = 0};
        assert_int_equal(tiny_open(&t, LAYERS, 0, DTYPE_F32, DTYPE_NF4, ROWS, 64), STATUS_OK);
        const program *programs[] = {t.train};
        plan_policy policy = {.activations = ACTIVATIONS_KEEP, .base = BASE_HOST, .slots = k};
        plan *p;
        engine *e;
        assert_int_equal(plan_make(&p, b, &t.table, programs, 1, &policy, NULL), STATUS_OK);
        assert_int_equal(engine_open(&e, b, p, NULL), STATUS_OK);
        run_input none[5] = {{0}};
        run_args args = {.rows = ROWS, .documents = 1, .inputs = none};
        int64_t in[3], fetches[3];
        for (int i = 0; i < 3; i++) {
            assert_int_equal(engine_run(e, 0, &args), STATUS_OK);
            traffic_of(e, &in[i], &fetches[i]);
        }
        assert_int_equal(fetches[2] - fetches[1], 2 * (LAYERS - k));
        assert_int_equal(in[2] - in[1], p->programs[0].pages_in);
        assert_int_equal(in[0], p->programs[0].first_in);
        engine_close(e);
        plan_free(p);
        tiny_close(&t);
    }
    b->table->close(b);
    cpu->table->close(cpu);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_mode_reads_what_was_written),
        cmocka_unit_test(keeping_stores_what_the_arithmetic_says),
        cmocka_unit_test(a_small_budget_is_met_or_refused_with_remedies),
        cmocka_unit_test(streaming_fetches_each_layer_twice_but_for_the_slots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
