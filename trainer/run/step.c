/* step.c: see step.h. */
#include "trainer/run/step.h"
#include "common/alloc.h"
#include "common/log.h"
#include "quant/adamw.h"

#include <math.h>
#include <string.h>

enum { SCALE_GROWS_AFTER = 2000 /* good fp16 steps, as torch.amp.GradScaler */ };
static const double SCALE_MOST = 0x1p24;

status stepper_open(stepper *p, session *s, const lr_schedule *lr) {
    memset(p, 0, sizeof *p);
    p->s = s;
    p->lr = *lr;
    p->weights = mem_alloc_array((size_t)s->capacity, sizeof *p->weights, "target weights");
    p->squares =
        mem_alloc_array(s->d->trainable_count + 1, sizeof *p->squares, "gradient norms");
    if (p->weights && p->squares) return STATUS_OK;
    stepper_close(p);
    return STATUS_MEMORY;
}

void stepper_close(stepper *p) {
    mem_free(p->weights);
    mem_free(p->squares);
    memset(p, 0, sizeof *p);
}

void step_inputs(run_input in[TRAIN_INPUTS], const micro_batch *m, const float *weights) {
    in[INPUT_IDS] = (run_input){m->ids, m->tokens, 0};
    in[INPUT_POSITIONS] = (run_input){m->positions, m->tokens, 0};
    in[INPUT_STARTS] = (run_input){m->starts, m->documents + 1, 0};
    in[INPUT_TARGETS] = (run_input){m->targets, m->tokens, 0xff};
    in[INPUT_WEIGHTS] = (run_input){weights, weights ? m->tokens : 0, 0};
}

op_load step_load(const micro_batch *m) {
    op_load load = {.targets = m->target_count};
    for (int64_t d = 0; d < m->documents; d++) {
        double n = (double)(m->starts[d + 1] - m->starts[d]);
        load.pairs += n * (n + 1) / 2;
    }
    return load;
}

static status run_micro(stepper *p, const micro_batch *m, float weight, uint64_t number) {
    for (int64_t i = 0; i < m->tokens; i++) p->weights[i] = m->targets[i] >= 0 ? weight : 0;
    run_input in[TRAIN_INPUTS];
    step_inputs(in, m, p->weights);
    run_args args = {.rows = m->tokens,
                     .documents = m->documents,
                     .load = step_load(m),
                     .seed = (uint64_t)p->s->c->seed,
                     .micro = number,
                     .inputs = in};
    return engine_run(p->s->e, p->s->index[PROGRAM_TRAIN], &args);
}

static status run_plain(session *s, session_program which, const adamw_scalars *adam) {
    run_args args = {.rows = 0, .adam = adam};
    return engine_run(s->e, s->index[which], &args);
}

/* A step whose loss or gradients are not finite changes nothing but the counters. */
static status skip(optimizer_state *o, bool fp16, double loss) {
    bool scaled_too_much = fp16 && isfinite(loss) && o->loss_scale > 1;
    o->skipped++;
    o->skipped_in_row = scaled_too_much ? 0 : o->skipped_in_row + 1;
    if (fp16) {
        o->loss_scale /= 2;
        o->good_in_row = 0;
    }
    if (o->skipped_in_row < DIVERGED_AFTER) return STATUS_OK;
    return status_fail(
        STATUS_DIVERGED,
        "step %lld: loss %g and gradients were not finite %d steps in a row; lower "
        "learning_rate, look at the data (train check --show 3), or go on from the last "
        "checkpoint",
        (long long)o->step, loss, o->skipped_in_row);
}

static void grow_scale(optimizer_state *o) {
    if (++o->good_in_row < SCALE_GROWS_AFTER || o->loss_scale >= SCALE_MOST) return;
    o->loss_scale *= 2;
    o->good_in_row = 0;
}

status stepper_run(stepper *p, const batch_group *g, optimizer_state *o,
                   bool (*interrupted)(void), step_result *out) {
    session *s = p->s;
    bool fp16 = s->compute == DTYPE_F16;
    memset(out, 0, sizeof *out);
    TRY(engine_zero_class(s->e, MEM_GRADIENT));
    TRY(decoder_clear_total(s->d, s->e));
    float weight = (float)(o->loss_scale / (double)g->targets);
    for (int a = 0; a < g->micro_count; a++) {
        if (interrupted && interrupted())
            return status_fail(STATUS_INTERRUPTED, "interrupted");
        /* Philox's micro-batch number: global, so that resume repeats the masks */
        uint64_t number =
            (uint64_t)g->index * (uint64_t)s->c->gradient_accumulation_steps + (uint64_t)a;
        TRY(run_micro(p, &g->micro[a], weight, number));
    }
    TRY(run_plain(s, PROGRAM_NORM, NULL));
    double total[2], squares = 0;
    TRY(decoder_read_sums(s->d, s->e, total, p->squares));
    for (size_t i = 0; i < s->d->trainable_count; i++) squares += p->squares[i];
    out->tokens = g->tokens;
    out->targets = g->targets;
    out->loss = total[0] / (double)g->targets;
    out->grad_norm = sqrt(squares) / o->loss_scale;
    out->lr = lr_at(&p->lr, o->adam_t);
    o->step++;
    if (!isfinite(out->loss) || !isfinite(out->grad_norm)) {
        out->skipped = true;
        return skip(o, fp16, out->loss);
    }
    o->skipped_in_row = 0;
    o->adam_t++;
    adamw_scalars adam = adamw_scalars_make(out->lr, s->c->adam_beta1, s->c->adam_beta2,
                                            s->c->adam_epsilon, s->c->weight_decay, o->adam_t);
    double clip = 1, most = s->c->max_grad_norm;
    if (most > 0 && most / (out->grad_norm + 1e-6) < 1) clip = most / (out->grad_norm + 1e-6);
    adam.grad_scale = (float)(clip / o->loss_scale);
    TRY(run_plain(s, PROGRAM_UPDATE, &adam));
    if (fp16) grow_scale(o);
    return engine_sync(s->e);
}
