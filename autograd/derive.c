/* derive.c: the backward pass of a template, from its records. Pure. */
#include "autograd/program.h"
#include "common/alloc.h"

#include <string.h>

/* Which slots need a gradient: trainable parameters, the carry if asked for, and what is
 * computed from them. */
static void spread(const template_ *t, const bool *trainable, bool want_carry, bool *wants) {
    for (size_t s = 0; s < t->slot_count; s++) {
        const slot *q = &t->slots[s];
        wants[s] = (q->kind == SLOT_PARAMETER && trainable && trainable[q->index]) ||
                   (q->kind == SLOT_CARRY && want_carry);
    }
    for (size_t i = 0; i < t->record_count; i++) {
        const record *r = &t->records[i];
        const operation_row *row = operation_get(r->op);
        bool any = false;
        for (int k = 0; k < row->inputs; k++)
            any |= r->in[k] >= 0 && wants[r->in[k]] && (row->differentiable >> k & 1);
        if (any && row->has_backward)
            for (int o = 0; o < row->outputs; o++)
                if (r->out[o] >= 0) wants[r->out[o]] = true;
    }
}

static int last_consumer(const template_ *t, slot_id s, int except) {
    int last = -1;
    for (size_t i = 0; i < t->record_count; i++) {
        if ((int)i == except) continue;
        const operation_row *row = operation_get(t->records[i].op);
        for (int k = 0; k < row->inputs; k++)
            if (t->records[i].in[k] == s) last = (int)i;
    }
    return last;
}

/* Two inputs of record i have equal gradients: b's may live in a's buffer if a's gradient is
 * set here and nothing else is added to it before b's producer has read it. */
static bool can_share(const template_ *t, int i, slot_id a, slot_id b) {
    const slot *sa = &t->slots[a], *sb = &t->slots[b];
    if (a == b || sa->kind == SLOT_PARAMETER || sb->kind != SLOT_ACTIVATION) return false;
    if (a == t->carry_out || b == t->carry_out) return false;
    int other = last_consumer(t, a, i);
    return last_consumer(t, b, i) < 0 && other < i && other < sb->producer;
}

/* The table's masks are supersets: a norm of (x + residual) reads the sum and not x, a
 * rotation without norms is undone from the positions alone. */
static uint32_t inputs_read(const record *r) {
    uint32_t mask = operation_get(r->op)->reads_inputs;
    if (r->op == OP_RMSNORM && r->in[RMSNORM_RESIDUAL] >= 0) mask &= ~(1u << RMSNORM_X);
    if (r->op == OP_ROPE && r->in[ROPE_Q_NORM] < 0 && r->in[ROPE_K_NORM] < 0)
        mask &= ~(1u << ROPE_X);
    return mask;
}

static void mark_reads(const record *r, bool *needed) {
    const operation_row *row = operation_get(r->op);
    uint32_t mask = inputs_read(r);
    for (int k = 0; k < row->inputs; k++)
        if ((mask >> k & 1) && r->in[k] >= 0) needed[r->in[k]] = true;
    for (int o = 0; o < row->outputs; o++)
        if ((row->reads_outputs >> o & 1) && r->out[o] >= 0) needed[r->out[o]] = true;
}

static bool emit(const template_ *t, int i, const bool *wants, derivation *d) {
    const record *r = &t->records[i];
    const operation_row *row = operation_get(r->op);
    backward_record b = {.record = i};
    for (int o = 0; o < row->outputs; o++)
        if (r->out[o] >= 0 && d->has_gradient[r->out[o]]) b.gout |= 1u << o;
    if (!row->has_backward || (!b.gout && !row->fused_backward)) return false;
    slot_id *same = NULL, pair[2];
    if (row->same_gradient[0] >= 0) {
        pair[0] = r->in[row->same_gradient[0]], pair[1] = r->in[row->same_gradient[1]];
        if (pair[0] >= 0 && pair[1] >= 0 && wants[pair[0]] && wants[pair[1]] &&
            !d->has_gradient[pair[0]] && can_share(t, i, pair[0], pair[1]))
            same = pair;
    }
    for (int k = 0; k < row->inputs; k++) {
        slot_id s = r->in[k];
        if (s < 0 || !wants[s] || !(row->differentiable >> k & 1)) continue;
        if (same && s == same[1]) { /* taken care of by the other's buffer */
            d->has_gradient[s] = true;
            d->gradient_as[s] = d->gradient_as[same[0]];
            continue;
        }
        b.gin |= 1u << k;
        if (d->has_gradient[s] || t->slots[s].kind == SLOT_PARAMETER) b.add |= 1u << k;
        d->has_gradient[s] = true;
    }
    if (!b.gin) return false;
    mark_reads(r, d->needed);
    d->records[d->count++] = b;
    return true;
}

status derive(const template_ *t, const bool *trainable, bool want_carry, bool have_carry_out,
              derivation *d) {
    memset(d, 0, sizeof *d);
    size_t n = t->slot_count + 1;
    d->records = mem_alloc_array(t->record_count + 1, sizeof *d->records, "a backward pass");
    d->needed = mem_alloc_array(n, 1, "a backward pass");
    d->has_gradient = mem_alloc_array(n, 1, "a backward pass");
    d->gradient_as = mem_alloc_array(n, sizeof *d->gradient_as, "a backward pass");
    bool *wants = mem_alloc_array(n, 1, "a backward pass");
    if (!d->records || !d->needed || !d->has_gradient || !d->gradient_as || !wants) {
        mem_free(wants);
        derivation_free(d);
        return STATUS_MEMORY;
    }
    for (size_t s = 0; s < t->slot_count; s++) d->gradient_as[s] = (slot_id)s;
    spread(t, trainable, want_carry, wants);
    if (t->carry_out >= 0 && have_carry_out && wants[t->carry_out])
        d->has_gradient[t->carry_out] = true;
    for (size_t i = t->record_count; i-- > 0;) emit(t, (int)i, wants, d);
    mem_free(wants);
    return STATUS_OK;
}

void derivation_free(derivation *d) {
    mem_free(d->records);
    mem_free(d->needed);
    mem_free(d->has_gradient);
    mem_free(d->gradient_as);
    memset(d, 0, sizeof *d);
}
