/* schedule.c: unrolls a program: forward over all layers, then recompute and backward in
 * reverse, each by unroll.c. What to store is store.c's decision; where things go is place.c's. */
#include "autograd/schedule.h"
#include "autograd/store.h"
#include "autograd/unroll.h"
#include "common/alloc.h"

#include <stdlib.h>
#include <string.h>

int program_layers(const program *p) {
    size_t n = 0;
    for (size_t i = 0; i < p->section_count; i++) n += p->sections[i].binding_count;
    return (int)n;
}

/* ---- offloading ---- */
static void add_move(unroll *u, move m) {
    schedule *s = u->out;
    if (mem_grow(&s->moves, &s->move_capacity, s->move_count + 1, sizeof *s->moves, "moves")) {
        unroll_good(u, STATUS_MEMORY);
        return;
    }
    s->moves[s->move_count++] = m;
}

/* Sends the instance's stored values (and its carry) to the host; they come back as new
 * buffers. */
static void offload(unroll *u, instance *it, int32_t fence, int32_t back_at,
                    int32_t back_until, buffer_id *restored) {
    for (size_t s = 0; s < it->t->slot_count; s++) {
        restored[s] = REF_NONE;
        buffer_id v = it->value[s];
        bool carry = (slot_id)s == it->t->carry_in;
        if (v < 0 || !(it->stored[s] || carry)) continue;
        slot_id twin = -1; /* two slots in one buffer travel once */
        for (size_t q = 0; q < s; q++)
            if (it->value[q] == v && restored[q] >= 0) twin = (slot_id)q;
        if (twin >= 0) {
            restored[s] = restored[twin];
            continue;
        }
        tensor_format f = it->t->slots[s].format;
        buffer_id back = unroll_buffer(u, MEM_ACTIVATION, f, back_at);
        if (back < 0) return;
        u->out->buffers[v].host_offset = 0; /* placed later */
        unroll_touch(u, v, fence - 1);
        unroll_touch(u, back, back_until);
        restored[s] = back;
        add_move(u,
                 (move){.at = it->end_step, .until = fence, .from = v, .to = v, .out = true});
        add_move(
            u,
            (move){.at = back_at, .until = back_until, .from = v, .to = back, .out = false});
    }
}

/* ---- the whole ---- */
static bool any_trainable(const unroll *u, const instance *it, bool *mask) {
    bool any = false;
    for (size_t s = 0; s < it->t->slot_count; s++) {
        const slot *q = &it->t->slots[s];
        if (q->kind != SLOT_PARAMETER) continue;
        parameter_id id = it->b->parameters[q->index];
        mask[q->index] = u->p->backward && id >= 0 && u->p->table->items[id].gradient >= 0;
        any |= mask[q->index];
    }
    return any;
}

static status open_instances(unroll *u, const activation_mode *modes) {
    const program *p = u->p;
    u->count = program_layers(p);
    u->items = mem_alloc_array((size_t)u->count + 1, sizeof *u->items, "an unrolled program");
    if (!u->items) return STATUS_MEMORY;
    int n = 0;
    for (size_t i = 0; i < p->section_count; i++)
        for (size_t j = 0; j < p->sections[i].binding_count; j++, n++) {
            instance *it = &u->items[n];
            it->s = &p->sections[i];
            it->t = &p->templates[it->s->template_index];
            it->b = &it->s->bindings[j];
            it->section = (int16_t)i;
            it->binding = (int32_t)j;
            it->mode = modes ? modes[n] : ACTIVATIONS_KEEP;
            size_t slots = it->t->slot_count + 1, records = it->t->record_count + 1;
            it->stored = mem_alloc_array(slots, 1, "an unrolled program");
            it->value = mem_alloc_array(slots, sizeof *it->value, "an unrolled program");
            it->rerun = mem_alloc_array(records, 1, "an unrolled program");
            it->skipped = mem_alloc_array(records, 1, "an unrolled program");
            if (!it->stored || !it->value || !it->rerun || !it->skipped) return STATUS_MEMORY;
            for (size_t s = 0; s < slots; s++) it->value[s] = REF_NONE;
        }
    return STATUS_OK;
}

/* Records that the backward runs itself (fused) and those that read their results wait for it.
 */
static void find_skipped(instance *it) {
    for (size_t b = 0; b < it->d.count; b++) {
        int r = it->d.records[b].record;
        if (operation_get(it->t->records[r].op)->fused_backward) it->skipped[r] = true;
    }
    for (size_t r = 0; r < it->t->record_count; r++)
        for (int k = 0; k < OP_INPUTS; k++) {
            slot_id s = it->t->records[r].in[k];
            int producer = s >= 0 ? it->t->slots[s].producer : -1;
            if (producer >= 0 && it->skipped[producer]) it->skipped[r] = true;
        }
}

/* Derives every layer's backward, from the last to the first: a layer gets a gradient from
 * above only if one flows, and hands one down only if something below is trainable. */
static status derive_all(unroll *u) {
    size_t widest = 1;
    for (int i = 0; i < u->count; i++)
        if ((size_t)u->items[i].t->parameters > widest)
            widest = (size_t)u->items[i].t->parameters;
    bool *mask = mem_alloc_array(widest, 1, "an unrolled program");
    if (!mask) return STATUS_MEMORY;
    int lowest = u->count; /* the first layer with something trainable */
    for (int i = u->count; i-- > 0;)
        if (any_trainable(u, &u->items[i], mask)) lowest = i;
    bool flows = false;
    status s = STATUS_OK;
    for (int i = u->count; i-- > 0 && s == STATUS_OK;) {
        instance *it = &u->items[i];
        memset(mask, 0, widest);
        any_trainable(u, it, mask);
        s = derive(it->t, mask, lowest < i && u->p->backward, flows, &it->d);
        if (s != STATUS_OK) break;
        flows = it->t->carry_in >= 0 && it->d.has_gradient[it->t->carry_in];
        store_choose(it->t, &it->d, it->mode, it->stored, it->rerun);
        find_skipped(it);
    }
    mem_free(mask);
    return s;
}

static void backward_all(unroll *u) {
    size_t widest = 1;
    for (int i = 0; i < u->count; i++)
        if (u->items[i].t->slot_count > widest) widest = u->items[i].t->slot_count;
    buffer_id *g = mem_alloc_array(2 * widest, sizeof *g, "an unrolled program");
    if (!g) {
        unroll_good(u, STATUS_MEMORY);
        return;
    }
    buffer_id *restored = g + widest, flow = REF_NONE;
    int32_t previous = unroll_now(u); /* first backward step of the layer above */
    for (int i = u->count; i-- > 0 && u->failed == STATUS_OK;) {
        instance *it = &u->items[i];
        if (!it->d.count) continue;
        int32_t mine = unroll_now(u);
        if (it->mode == ACTIVATIONS_OFFLOAD && it->t->carry_in >= 0) {
            int32_t fence = i + 1 < u->count ? u->items[i + 1].end_step : it->end_step;
            if (fence > previous) fence = previous;
            bool gains = fence > it->end_step; /* else it is needed again at once */
            if (gains) offload(u, it, fence, previous, mine, restored);
            for (size_t s = 0; gains && s < it->t->slot_count; s++)
                if (restored[s] >= 0) it->value[s] = restored[s];
        }
        flow = unroll_backward(u, it, flow, g);
        previous = mine;
    }
    mem_free(g);
}

static int by_at(const void *a, const void *b) {
    const move *x = a, *y = b;
    if (x->at != y->at) return x->at < y->at ? -1 : 1;
    return x->from < y->from ? -1 : x->from > y->from;
}

/* Contiguous visits to pages, and the scratch of every step. */
static void finish(unroll *u) {
    schedule *s = u->out;
    int32_t *open = mem_alloc_array(u->p->table->page_count + 1, sizeof *open, "page uses");
    if (!open) {
        unroll_good(u, STATUS_MEMORY);
        return;
    }
    for (size_t i = 0; i < u->p->table->page_count; i++) open[i] = -1;
    for (int32_t n = 0; n < (int32_t)s->step_count && u->failed == STATUS_OK; n++) {
        const step e = s->steps[n];
        const operation_row *row = operation_get(e.op);
        for (int k = 0; k < 2 * OP_INPUTS; k++) {
            buffer_id ref = k < OP_INPUTS ? e.in[k] : e.gin[k - OP_INPUTS];
            if (!ref_is_parameter(ref)) continue;
            int32_t pg = u->p->table->items[ref_parameter_id(ref)].page, at = open[pg];
            bool same = at >= 0 && s->steps[s->uses[at].first].section == e.section &&
                        s->steps[s->uses[at].first].binding == e.binding &&
                        (s->steps[s->uses[at].first].phase == PHASE_FORWARD) ==
                            (e.phase == PHASE_FORWARD);
            if (!same) {
                if (mem_grow(&s->uses, &s->use_capacity, s->use_count + 1, sizeof *s->uses,
                             "page uses")) {
                    unroll_good(u, STATUS_MEMORY);
                    break;
                }
                at = open[pg] = (int32_t)s->use_count++;
                s->uses[at] = (page_use){.page = pg, .first = n};
            }
            s->uses[at].last = n;
            s->uses[at].written |= k < OP_INPUTS && (row->state_inputs >> k & 1);
        }
        op_shape shape;
        step_shape(s, u->p, (size_t)n, u->p->capacity, &shape);
        int64_t bytes = u->b->table->scratch(u->b, &shape);
        if (bytes > 0) {
            buffer_id id = unroll_buffer(u, MEM_WORKSPACE, format_of(DTYPE_U8, 1, bytes), n);
            s->steps[n].scratch = id;
        }
    }
    mem_free(open);
    if (s->move_count) qsort(s->moves, s->move_count, sizeof *s->moves, by_at);
}

/* Slots that the host reads must outlive the run's last step. */
static void keep_outputs(unroll *u) {
    schedule *s = u->out;
    for (int i = 0; i < u->count; i++)
        for (size_t k = 0; k < u->items[i].t->slot_count; k++) {
            const slot *q = &u->items[i].t->slots[k];
            buffer_id v = u->items[i].value[k];
            if (q->kind == SLOT_CACHE) unroll_touch(u, v, unroll_now(u));
            if (!q->output || v < 0) continue;
            unroll_touch(u, v, unroll_now(u));
            if (mem_grow(&s->outputs, &s->output_capacity, s->output_count + 1,
                         sizeof *s->outputs, "outputs")) {
                unroll_good(u, STATUS_MEMORY);
                return;
            }
            void *names = mem_resize(s->output_names, (s->output_count + 1) * 24, "outputs");
            if (!names) {
                unroll_good(u, STATUS_MEMORY);
                return;
            }
            s->output_names = names;
            memcpy(s->output_names[s->output_count], q->name, 24);
            s->outputs[s->output_count++] = v;
        }
}

status schedule_make(schedule *out, const program *p, backend *b,
                     const activation_mode *modes) {
    memset(out, 0, sizeof *out);
    unroll u = {.out = out, .p = p, .b = b};
    out->inputs = mem_alloc_array(p->input_count + 1, sizeof *out->inputs, "inputs");
    status s = out->inputs ? open_instances(&u, modes) : STATUS_MEMORY;
    if (s == STATUS_OK) s = derive_all(&u);
    if (s == STATUS_OK) {
        for (size_t i = 0; i < p->input_count; i++)
            out->inputs[i] = unroll_buffer(&u, MEM_INPUT, p->inputs[i].format, 0);
        for (int i = 0; i < u.count && u.failed == STATUS_OK; i++) unroll_forward(&u, i);
        if (u.failed == STATUS_OK && p->backward) backward_all(&u);
        if (u.failed == STATUS_OK) keep_outputs(&u);
        if (u.failed == STATUS_OK) finish(&u);
        s = u.failed;
    }
    for (int i = 0; i < u.count && u.items; i++) {
        derivation_free(&u.items[i].d);
        mem_free(u.items[i].stored);
        mem_free(u.items[i].rerun);
        mem_free(u.items[i].value);
        mem_free(u.items[i].skipped);
    }
    mem_free(u.items);
    if (s != STATUS_OK) schedule_free(out);
    return s;
}

void schedule_free(schedule *s) {
    mem_free(s->steps);
    mem_free(s->buffers);
    mem_free(s->moves);
    mem_free(s->uses);
    mem_free(s->inputs);
    mem_free(s->outputs);
    mem_free(s->output_names);
    memset(s, 0, sizeof *s);
}

static tensor_format ref_format(const schedule *s, const program *p, buffer_id ref,
                                int64_t rows) {
    if (ref == REF_NONE) return format_of(DTYPE_COUNT, 0, 0);
    if (ref_is_parameter(ref)) return p->table->items[ref_parameter_id(ref)].format;
    tensor_format f = s->buffers[ref].format;
    if (s->buffers[ref].follows_batch) f.rows = rows;
    return f;
}

void step_shape(const schedule *s, const program *p, size_t n, int64_t rows, op_shape *out) {
    const step *e = &s->steps[n];
    memset(out, 0, sizeof *out);
    out->op = e->op;
    out->attr = e->attr;
    out->compute = p->compute;
    out->rows = rows;
    out->backward = e->phase == PHASE_BACKWARD;
    for (int i = 0; i < OP_INPUTS; i++) {
        out->in[i] = ref_format(s, p, e->in[i], rows);
        if (e->gin[i] != REF_NONE) out->gradients |= 1u << i;
    }
    for (int i = 0; i < OP_OUTPUTS; i++) {
        out->out[i] = ref_format(s, p, e->out[i], rows);
        if (out->backward && e->out[i] == REF_NONE)
            out->out[i] = ref_format(s, p, e->gout[i], rows);
        if (out->backward && e->gout[i] != REF_NONE) out->gouts |= 1u << i;
    }
}
