/* unroll.c: the steps of one layer: forward, what is recomputed, backward, and the buffers that
 * they need. */
#include "autograd/unroll.h"
#include "common/alloc.h"

#include <string.h>

bool unroll_good(unroll *u, status s) {
    if (u->failed == STATUS_OK) u->failed = s;
    return u->failed == STATUS_OK;
}

/* ---- buffers ---- */
buffer_id unroll_buffer(unroll *u, mem_class class, tensor_format f, int32_t first) {
    schedule *s = u->out;
    if (mem_grow(&s->buffers, &s->buffer_capacity, s->buffer_count + 1, sizeof *s->buffers,
                 "buffers")) {
        unroll_good(u, STATUS_MEMORY);
        return REF_NONE;
    }
    buffer b = {.class = class,
                .format = f,
                .follows_batch = f.rows == 0,
                .first = first,
                .last = first,
                .host_offset = -1};
    if (b.follows_batch) b.format.rows = u->p->capacity;
    unroll_good(u, format_bytes(&b.format, &b.bytes));
    s->buffers[s->buffer_count] = b;
    return (buffer_id)s->buffer_count++;
}

void unroll_touch(unroll *u, buffer_id id, int32_t at) {
    if (id < 0) return;
    buffer *b = &u->out->buffers[id];
    if (at > b->last) b->last = at;
    if (at < b->first) b->first = at;
}

int32_t unroll_now(const unroll *u) {
    return (int32_t)u->out->step_count;
}

static step *add_step(unroll *u, instance *it, int r, phase ph) {
    schedule *s = u->out;
    if (mem_grow(&s->steps, &s->step_capacity, s->step_count + 1, sizeof *s->steps, "steps")) {
        unroll_good(u, STATUS_MEMORY);
        return NULL;
    }
    step *e = &s->steps[s->step_count++];
    memset(e, 0, sizeof *e);
    e->op = it->t->records[r].op;
    e->phase = ph;
    e->section = it->section;
    e->binding = it->binding;
    e->record = r;
    e->layer = it->b->layer;
    e->attr = &it->t->records[r].attr;
    for (int i = 0; i < OP_INPUTS; i++) e->in[i] = e->gin[i] = REF_NONE;
    for (int i = 0; i < OP_OUTPUTS; i++) e->out[i] = e->gout[i] = REF_NONE;
    e->scratch = REF_NONE;
    return e;
}

/* What a slot refers to: parameter, program input, or the instance's buffer. */
static buffer_id resolve(unroll *u, instance *it, slot_id s) {
    if (s < 0) return REF_NONE;
    const slot *q = &it->t->slots[s];
    if (q->kind == SLOT_PARAMETER) {
        parameter_id id = it->b->parameters[q->index];
        return id < 0 ? REF_NONE : ref_parameter(id);
    }
    if (q->kind == SLOT_INPUT) return u->out->inputs[q->index];
    return it->value[s];
}

static void touch_all(unroll *u, const step *e, int32_t at) {
    for (int i = 0; i < OP_INPUTS; i++)
        unroll_touch(u, e->in[i], at), unroll_touch(u, e->gin[i], at);
    for (int i = 0; i < OP_OUTPUTS; i++)
        unroll_touch(u, e->out[i], at), unroll_touch(u, e->gout[i], at);
}

/* ---- forward and recompute ---- */

/* Whether record r's in-place output may overwrite its input now. */
static bool overwrites(const instance *it, int r, bool recompute) {
    const record *rec = &it->t->records[r];
    const operation_row *row = operation_get(rec->op);
    if (row->in_place_out < 0) return false;
    slot_id in = rec->in[row->in_place_in];
    if (in < 0 || in == it->t->carry_out || rec->out[row->in_place_out] < 0) return false;
    const slot *q = &it->t->slots[in];
    if (q->kind != SLOT_ACTIVATION || q->output || it->stored[in]) return false;
    if (rec->op == OP_ROPE && (rec->in[ROPE_Q_NORM] >= 0 || rec->in[ROPE_K_NORM] >= 0))
        return false;
    if (recompute && it->d.needed[in]) return false;
    for (size_t i = 0; i < it->t->record_count; i++) {
        if ((int)i == r || (recompute && !it->rerun[i])) continue;
        for (int k = 0; k < OP_INPUTS; k++)
            if (it->t->records[i].in[k] == in && ((int)i > r || recompute)) return false;
    }
    return true;
}

static void emit_forward(unroll *u, instance *it, int r, phase ph) {
    const record *rec = &it->t->records[r];
    const operation_row *row = operation_get(rec->op);
    int32_t at = unroll_now(u);
    bool in_place = overwrites(it, r, ph == PHASE_RECOMPUTE);
    step *e = add_step(u, it, r, ph);
    if (!e) return;
    step built = *e; /* add_buffer does not move steps, but keep the writes together */
    for (int k = 0; k < row->inputs; k++) built.in[k] = resolve(u, it, rec->in[k]);
    for (int o = 0; o < row->outputs; o++) {
        slot_id s = rec->out[o];
        if (s < 0) continue;
        if (in_place && o == row->in_place_out)
            it->value[s] = built.in[row->in_place_in];
        else
            it->value[s] = unroll_buffer(u, MEM_ACTIVATION, it->t->slots[s].format, at);
        built.out[o] = it->value[s];
    }
    u->out->steps[at] = built;
    touch_all(u, &built, at);
}

void unroll_forward(unroll *u, int i) {
    instance *it = &u->items[i];
    it->first_step = unroll_now(u);
    if (it->t->carry_in >= 0) {
        const instance *before = i ? &u->items[i - 1] : NULL;
        if (!before || before->t->carry_out < 0) {
            unroll_good(
                u, status_fail(STATUS_INTERNAL,
                               "program %s: template %s wants a carry, none is handed over",
                               u->p->name, it->t->name));
            return;
        }
        it->value[it->t->carry_in] = before->value[before->t->carry_out];
    }
    for (size_t s = 0; s < it->t->slot_count; s++)
        if (it->t->slots[s].kind == SLOT_CACHE)
            it->value[s] = unroll_buffer(u, MEM_CACHE, it->t->slots[s].format, 0);
    for (size_t r = 0; r < it->t->record_count; r++)
        if (!it->skipped[r]) emit_forward(u, it, (int)r, PHASE_FORWARD);
    it->end_step = unroll_now(u);
}

/* ---- backward ---- */
static bool shares_gradient(const instance *it, slot_id s) {
    for (size_t q = 0; q < it->t->slot_count; q++)
        if ((slot_id)q != s && it->d.gradient_as[q] == s) return true;
    return it->d.gradient_as[s] != s;
}

/* The buffer that input k's gradient goes to. */
static buffer_id gradient_buffer(unroll *u, instance *it, const backward_record *b, int k,
                                 step *e, buffer_id *g) {
    const record *rec = &it->t->records[b->record];
    const operation_row *row = operation_get(rec->op);
    slot_id s = rec->in[k];
    const slot *q = &it->t->slots[s];
    if (q->kind == SLOT_PARAMETER)
        return ref_parameter(u->p->table->items[it->b->parameters[q->index]].gradient);
    slot_id root = it->d.gradient_as[s];
    if (g[root] != REF_NONE) return g[root];
    if (k == row->in_place_gin && !(b->add >> k & 1)) {
        slot_id out = rec->out[row->in_place_gout];
        if (out >= 0 && (b->gout >> row->in_place_gout & 1) && !shares_gradient(it, out) &&
            !(rec->op == OP_ROPE && rec->in[ROPE_Q_NORM] >= 0) &&
            !(rec->op == OP_ROPE && rec->in[ROPE_K_NORM] >= 0))
            return g[root] = e->gout[row->in_place_gout];
    }
    tensor_format f = q->format;
    if (f.rows) { /* does not follow the batch: a gradient of weights, summed in f32 */
        f = format_of(DTYPE_F32, f.rows, f.cols);
        e->zero |= 1u << k;
        e->add |= 1u << k;
    }
    return g[root] = unroll_buffer(u, MEM_ACTIVATION, f, unroll_now(u) - 1);
}

static void emit_backward(unroll *u, instance *it, const backward_record *b, buffer_id *g) {
    const record *rec = &it->t->records[b->record];
    const operation_row *row = operation_get(rec->op);
    int32_t at = unroll_now(u);
    step *e = add_step(u, it, b->record, PHASE_BACKWARD);
    if (!e) return;
    step built = *e;
    built.add = b->add;
    for (int k = 0; k < row->inputs; k++) {
        slot_id s = rec->in[k];
        if (s < 0) continue;
        slot_kind kind = it->t->slots[s].kind;
        if (kind == SLOT_PARAMETER || kind == SLOT_INPUT || it->d.needed[s])
            built.in[k] = resolve(u, it, s);
    }
    for (int o = 0; o < row->outputs; o++) {
        slot_id s = rec->out[o];
        if (s < 0) continue;
        if (row->fused_backward)
            it->value[s] = unroll_buffer(u, MEM_ACTIVATION, it->t->slots[s].format, at);
        if (row->fused_backward || ((row->reads_outputs >> o & 1) && it->d.needed[s]))
            built.out[o] = it->value[s];
        if (b->gout >> o & 1) built.gout[o] = g[it->d.gradient_as[s]];
    }
    for (int k = 0; k < row->inputs; k++)
        if (b->gin >> k & 1) built.gin[k] = gradient_buffer(u, it, b, k, &built, g);
    u->out->steps[at] = built;
    touch_all(u, &built, at);
}

buffer_id unroll_backward(unroll *u, instance *it, buffer_id incoming, buffer_id *g) {
    for (size_t s = 0; s < it->t->slot_count; s++) g[s] = REF_NONE;
    if (it->t->carry_out >= 0) g[it->d.gradient_as[it->t->carry_out]] = incoming;
    for (size_t r = 0; r < it->t->record_count; r++)
        if (it->rerun[r]) emit_forward(u, it, (int)r, PHASE_RECOMPUTE);
    for (size_t b = 0; b < it->d.count; b++) {
        emit_backward(u, it, &it->d.records[b], g);
        int fused = it->d.records[b].record;
        if (!it->skipped[fused]) continue;
        for (size_t r = 0; r < it->t->record_count; r++)
            if (it->skipped[r] && (int)r != fused) emit_forward(u, it, (int)r, PHASE_FORWARD);
    }
    return it->t->carry_in >= 0 ? g[it->d.gradient_as[it->t->carry_in]] : REF_NONE;
}
