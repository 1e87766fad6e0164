/* schedule.c: unrolls a program: forward over all layers, then recompute and backward in
 * reverse. What to store is store.c's decision; where things go is place.c's. */
#include "autograd/schedule.h"
#include "autograd/store.h"
#include "common/alloc.h"

#include <stdlib.h>
#include <string.h>

/* One layer of the unrolled program. */
typedef struct instance {
    const template_ *t;
    const section *s;
    const binding *b;
    int16_t section;
    int32_t binding;
    activation_mode mode;
    derivation d;                 /* count 0: no backward */
    bool *stored;                 /* [slots] kept from forward to backward */
    bool *rerun;                  /* [records] recomputed before the backward */
    buffer_id *value;             /* [slots] */
    bool *skipped;                /* [records] run by the backward, or after it */
    int32_t first_step, end_step; /* forward */
    int32_t backward_first;
} instance;

typedef struct unroll {
    schedule *out;
    const program *p;
    backend *b;
    instance *items;
    int count;
    status failed;
} unroll;

int program_layers(const program *p) {
    size_t n = 0;
    for (size_t i = 0; i < p->section_count; i++) n += p->sections[i].binding_count;
    return (int)n;
}

static bool good(unroll *u, status s) {
    if (u->failed == STATUS_OK) u->failed = s;
    return u->failed == STATUS_OK;
}

/* ---- buffers ---- */
static buffer_id add_buffer(unroll *u, mem_class class, tensor_format f, int32_t first) {
    schedule *s = u->out;
    if (mem_grow(&s->buffers, &s->buffer_capacity, s->buffer_count + 1, sizeof *s->buffers,
                 "buffers")) {
        good(u, STATUS_MEMORY);
        return REF_NONE;
    }
    buffer b = {.class = class,
                .format = f,
                .follows_batch = f.rows == 0,
                .first = first,
                .last = first,
                .host_offset = -1};
    if (b.follows_batch) b.format.rows = u->p->capacity;
    good(u, format_bytes(&b.format, &b.bytes));
    s->buffers[s->buffer_count] = b;
    return (buffer_id)s->buffer_count++;
}

static void touch(unroll *u, buffer_id id, int32_t at) {
    if (id < 0) return;
    buffer *b = &u->out->buffers[id];
    if (at > b->last) b->last = at;
    if (at < b->first) b->first = at;
}

static int32_t now(const unroll *u) {
    return (int32_t)u->out->step_count;
}

static step *add_step(unroll *u, instance *it, int r, phase ph) {
    schedule *s = u->out;
    if (mem_grow(&s->steps, &s->step_capacity, s->step_count + 1, sizeof *s->steps, "steps")) {
        good(u, STATUS_MEMORY);
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
    for (int i = 0; i < OP_INPUTS; i++) touch(u, e->in[i], at), touch(u, e->gin[i], at);
    for (int i = 0; i < OP_OUTPUTS; i++) touch(u, e->out[i], at), touch(u, e->gout[i], at);
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
    int32_t at = now(u);
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
            it->value[s] = add_buffer(u, MEM_ACTIVATION, it->t->slots[s].format, at);
        built.out[o] = it->value[s];
    }
    u->out->steps[at] = built;
    touch_all(u, &built, at);
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

static void forward(unroll *u, int i) {
    instance *it = &u->items[i];
    it->first_step = now(u);
    if (it->t->carry_in >= 0) {
        const instance *before = i ? &u->items[i - 1] : NULL;
        if (!before || before->t->carry_out < 0) {
            good(u, status_fail(STATUS_INTERNAL,
                                "program %s: template %s wants a carry, none is handed over",
                                u->p->name, it->t->name));
            return;
        }
        it->value[it->t->carry_in] = before->value[before->t->carry_out];
    }
    for (size_t s = 0; s < it->t->slot_count; s++)
        if (it->t->slots[s].kind == SLOT_CACHE)
            it->value[s] = add_buffer(u, MEM_CACHE, it->t->slots[s].format, 0);
    for (size_t r = 0; r < it->t->record_count; r++)
        if (!it->skipped[r]) emit_forward(u, it, (int)r, PHASE_FORWARD);
    it->end_step = now(u);
}

/* ---- offloading ---- */
static void add_move(unroll *u, move m) {
    schedule *s = u->out;
    if (mem_grow(&s->moves, &s->move_capacity, s->move_count + 1, sizeof *s->moves, "moves")) {
        good(u, STATUS_MEMORY);
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
        buffer_id back = add_buffer(u, MEM_ACTIVATION, f, back_at);
        if (back < 0) return;
        u->out->buffers[v].host_offset = 0; /* placed later */
        touch(u, v, fence - 1);
        touch(u, back, back_until);
        restored[s] = back;
        add_move(u,
                 (move){.at = it->end_step, .until = fence, .from = v, .to = v, .out = true});
        add_move(
            u,
            (move){.at = back_at, .until = back_until, .from = v, .to = back, .out = false});
    }
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
    return g[root] = add_buffer(u, MEM_ACTIVATION, f, now(u) - 1);
}

static void emit_backward(unroll *u, instance *it, const backward_record *b, buffer_id *g) {
    const record *rec = &it->t->records[b->record];
    const operation_row *row = operation_get(rec->op);
    int32_t at = now(u);
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
            it->value[s] = add_buffer(u, MEM_ACTIVATION, it->t->slots[s].format, at);
        if (row->fused_backward || ((row->reads_outputs >> o & 1) && it->d.needed[s]))
            built.out[o] = it->value[s];
        if (b->gout >> o & 1) built.gout[o] = g[it->d.gradient_as[s]];
    }
    for (int k = 0; k < row->inputs; k++)
        if (b->gin >> k & 1) built.gin[k] = gradient_buffer(u, it, b, k, &built, g);
    u->out->steps[at] = built;
    touch_all(u, &built, at);
}

/* Returns the gradient of the instance's carry, REF_NONE if nothing flows on. */
static buffer_id backward(unroll *u, instance *it, buffer_id incoming, buffer_id *g) {
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
        good(u, STATUS_MEMORY);
        return;
    }
    buffer_id *restored = g + widest, flow = REF_NONE;
    int32_t previous = now(u); /* first backward step of the layer above */
    for (int i = u->count; i-- > 0 && u->failed == STATUS_OK;) {
        instance *it = &u->items[i];
        if (!it->d.count) continue;
        int32_t mine = now(u);
        if (it->mode == ACTIVATIONS_OFFLOAD && it->t->carry_in >= 0) {
            int32_t fence = i + 1 < u->count ? u->items[i + 1].end_step : it->end_step;
            if (fence > previous) fence = previous;
            bool gains = fence > it->end_step; /* else it is needed again at once */
            if (gains) offload(u, it, fence, previous, mine, restored);
            for (size_t s = 0; gains && s < it->t->slot_count; s++)
                if (restored[s] >= 0) it->value[s] = restored[s];
        }
        flow = backward(u, it, flow, g);
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
        good(u, STATUS_MEMORY);
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
                    good(u, STATUS_MEMORY);
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
            buffer_id id = add_buffer(u, MEM_WORKSPACE, format_of(DTYPE_U8, 1, bytes), n);
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
            if (q->kind == SLOT_CACHE) touch(u, v, now(u));
            if (!q->output || v < 0) continue;
            touch(u, v, now(u));
            if (mem_grow(&s->outputs, &s->output_capacity, s->output_count + 1,
                         sizeof *s->outputs, "outputs")) {
                good(u, STATUS_MEMORY);
                return;
            }
            void *names = mem_resize(s->output_names, (s->output_count + 1) * 24, "outputs");
            if (!names) {
                good(u, STATUS_MEMORY);
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
            out->inputs[i] = add_buffer(&u, MEM_INPUT, p->inputs[i].format, 0);
        for (int i = 0; i < u.count && u.failed == STATUS_OK; i++) forward(&u, i);
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
