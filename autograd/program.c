/* program.c: recording. Each builder checks its operands' shapes, appends one record and makes
 * the output slots; the first error sticks. Deriving the backward pass is derive.c's matter.
 */
#include "autograd/program.h"
#include "common/alloc.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- errors that stick ---- */
static bool refuse(program *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool refuse(program *p, const char *format, ...) {
    if (p->failed != STATUS_OK) return false;
    va_list args;
    va_start(args, format);
    vsnprintf(p->message, sizeof p->message, format, args);
    va_end(args);
    p->failed = STATUS_INTERNAL;
    return false;
}

static bool memory(program *p) {
    if (p->failed == STATUS_OK) {
        p->failed = STATUS_MEMORY;
        snprintf(p->message, sizeof p->message, "%s", status_message());
    }
    return false;
}

static bool open_for(program *p, const char *call) {
    if (p->failed != STATUS_OK) return false;
    if (p->sealed) return refuse(p, "program %s: %s after it was sealed", p->name, call);
    return true;
}

/* ---- the program, its templates and sections ---- */
status program_open(program **out, const char *name, const parameter_table *table,
                    dtype compute, int64_t capacity, bool backward) {
    program *p = *out = mem_alloc(sizeof *p, "a program");
    if (!p) return STATUS_MEMORY;
    snprintf(p->name, sizeof p->name, "%s", name);
    p->table = table;
    p->compute = compute;
    p->capacity = capacity;
    p->backward = backward;
    return STATUS_OK;
}

void program_close(program *p) {
    if (!p) return;
    for (size_t i = 0; i < p->template_count; i++) {
        mem_free(p->templates[i].records);
        mem_free(p->templates[i].slots);
    }
    for (size_t i = 0; i < p->section_count; i++) {
        for (size_t j = 0; j < p->sections[i].binding_count; j++)
            mem_free(p->sections[i].bindings[j].parameters);
        mem_free(p->sections[i].bindings);
    }
    mem_free(p->templates);
    mem_free(p->sections);
    mem_free(p->inputs);
    mem_free(p);
}

status program_seal(program *p) {
    p->sealed = true;
    if (p->failed != STATUS_OK) return status_set(p->failed, p->message);
    return STATUS_OK;
}

static template_ *current(program *p, const char *call) {
    if (!open_for(p, call)) return NULL;
    if (!p->template_count) {
        refuse(p, "program %s: %s before the first template", p->name, call);
        return NULL;
    }
    return &p->templates[p->template_count - 1];
}

static slot_id add_slot(program *p, template_ *t, slot_kind kind, tensor_format format,
                        int producer, int index) {
    if (t->slot_count >= TEMPLATE_SLOTS) {
        refuse(p, "program %s: template %s has more than %d slots", p->name, t->name,
               TEMPLATE_SLOTS);
        return SLOT_NONE;
    }
    if (mem_grow(&t->slots, &t->slot_capacity, t->slot_count + 1, sizeof *t->slots, "slots")) {
        memory(p);
        return SLOT_NONE;
    }
    t->slots[t->slot_count] =
        (slot){.kind = kind, .format = format, .producer = producer, .index = index};
    return (slot_id)t->slot_count++;
}

slot_id program_input(program *p, const char *name, tensor_format format) {
    if (!open_for(p, "program_input")) return SLOT_NONE;
    if (p->template_count) {
        refuse(p, "program %s: input %s declared after the first template", p->name, name);
        return SLOT_NONE;
    }
    if (mem_grow(&p->inputs, &p->input_capacity, p->input_count + 1, sizeof *p->inputs,
                 "inputs")) {
        memory(p);
        return SLOT_NONE;
    }
    program_input_ *in = &p->inputs[p->input_count];
    snprintf(in->name, sizeof in->name, "%s", name);
    in->format = format;
    return (slot_id)p->input_count++;
}

int program_template(program *p, const char *name) {
    if (!open_for(p, "program_template")) return -1;
    if (mem_grow(&p->templates, &p->template_capacity, p->template_count + 1,
                 sizeof *p->templates, "templates")) {
        memory(p);
        return -1;
    }
    template_ *t = &p->templates[p->template_count];
    memset(t, 0, sizeof *t);
    snprintf(t->name, sizeof t->name, "%s", name);
    t->carry_in = t->carry_out = SLOT_NONE;
    p->template_count++;
    for (size_t i = 0; i < p->input_count;
         i++) { /* slot ids of inputs are the same everywhere */
        slot_id s = add_slot(p, t, SLOT_INPUT, p->inputs[i].format, -1, (int)i);
        if (s < 0) return -1;
        snprintf(t->slots[s].name, sizeof t->slots[s].name, "%s", p->inputs[i].name);
    }
    return (int)p->template_count - 1;
}

void program_section(program *p, int index) {
    if (!open_for(p, "program_section")) return;
    if (index < 0 || (size_t)index >= p->template_count) {
        refuse(p, "program %s: section of template %d, there are %zu", p->name, index,
               p->template_count);
        return;
    }
    if (mem_grow(&p->sections, &p->section_capacity, p->section_count + 1, sizeof *p->sections,
                 "sections")) {
        memory(p);
        return;
    }
    p->sections[p->section_count++] = (section){.template_index = index};
}

static bool same_format(const tensor_format *a, const tensor_format *b) {
    return a->type == b->type && a->rows == b->rows && a->cols == b->cols &&
           a->nested == b->nested;
}

void program_bind(program *p, int32_t layer, const parameter_id *ids, int count) {
    if (!open_for(p, "program_bind")) return;
    if (!p->section_count) {
        refuse(p, "program %s: program_bind before program_section", p->name);
        return;
    }
    section *s = &p->sections[p->section_count - 1];
    const template_ *t = &p->templates[s->template_index];
    if (count != t->parameters) {
        refuse(p, "program %s: template %s binds %d parameters, %d were given", p->name,
               t->name, t->parameters, count);
        return;
    }
    for (size_t i = 0; i < t->slot_count; i++) {
        const slot *q = &t->slots[i];
        if (q->kind != SLOT_PARAMETER) continue;
        parameter_id id = ids[q->index];
        const tensor_format *f = id >= 0 ? &p->table->items[id].format : NULL;
        if (!f || !same_format(f, &q->format)) {
            refuse(p,
                   "program %s: template %s, layer %d: %s is %s [%lld, %lld], parameter %d "
                   "wants %s [%lld, %lld]",
                   p->name, t->name, layer, f ? p->table->items[id].name : "(none)",
                   f ? dtype_name(f->type) : "-", f ? (long long)f->rows : 0,
                   f ? (long long)f->cols : 0, q->index, dtype_name(q->format.type),
                   (long long)q->format.rows, (long long)q->format.cols);
            return;
        }
    }
    parameter_id *copy = mem_alloc_array((size_t)count + 1, sizeof *copy, "a binding");
    if (!copy || mem_grow(&s->bindings, &s->binding_capacity, s->binding_count + 1,
                          sizeof *s->bindings, "bindings")) {
        mem_free(copy);
        memory(p);
        return;
    }
    if (count) memcpy(copy, ids, (size_t)count * sizeof *copy);
    s->bindings[s->binding_count++] = (binding){.layer = layer, .parameters = copy};
}

slot_id program_carry_in(program *p, int64_t width) {
    template_ *t = current(p, "program_carry_in");
    if (!t) return SLOT_NONE;
    return t->carry_in = add_slot(p, t, SLOT_CARRY, format_of(p->compute, 0, width), -1, 0);
}

void program_carry_out(program *p, slot_id s) {
    template_ *t = current(p, "program_carry_out");
    if (t && s < 0) refuse(p, "program %s: template %s hands over nothing", p->name, t->name);
    if (t) t->carry_out = s;
}

slot_id program_parameter(program *p, tensor_format format) {
    template_ *t = current(p, "program_parameter");
    if (!t) return SLOT_NONE;
    return add_slot(p, t, SLOT_PARAMETER, format, -1, t->parameters++);
}

slot_id program_cache(program *p, tensor_format format) {
    template_ *t = current(p, "program_cache");
    return t ? add_slot(p, t, SLOT_CACHE, format, -1, 0) : SLOT_NONE;
}

void program_output(program *p, slot_id s, const char *name) {
    template_ *t = current(p, "program_output");
    if (!t) return;
    if (s < 0 || (size_t)s >= t->slot_count) {
        refuse(p, "program %s: output %s is no slot", p->name, name);
        return;
    }
    t->slots[s].output = true;
    snprintf(t->slots[s].name, sizeof t->slots[s].name, "%s", name);
}

/* ---- records ---- */
static record *add_record(program *p, operation op, const char *call) {
    template_ *t = current(p, call);
    if (!t) return NULL;
    if (mem_grow(&t->records, &t->record_capacity, t->record_count + 1, sizeof *t->records,
                 "records")) {
        memory(p);
        return NULL;
    }
    record *r = &t->records[t->record_count++];
    memset(r, 0, sizeof *r);
    r->op = op;
    for (int i = 0; i < OP_INPUTS; i++) r->in[i] = SLOT_NONE;
    for (int i = 0; i < OP_OUTPUTS; i++) r->out[i] = SLOT_NONE;
    return r;
}

/* Puts input i; checks that it is there and has the columns and type expected (cols 0: any;
 * type DTYPE_COUNT: any). */
static void take(program *p, record *r, int i, slot_id s, dtype type, int64_t cols) {
    const operation_row *row = operation_get(r->op);
    template_ *t = &p->templates[p->template_count - 1];
    r->in[i] = s;
    if (s == SLOT_NONE) {
        if (!(row->optional_inputs >> i & 1))
            refuse(p, "program %s: %s in %s lacks input %d", p->name, row->name, t->name, i);
        return;
    }
    if (s < 0 || (size_t)s >= t->slot_count) {
        refuse(p, "program %s: input %d of %s in %s is no slot", p->name, i, row->name,
               t->name);
        return;
    }
    const tensor_format *f = &t->slots[s].format;
    if ((cols && f->cols != cols) || (type != DTYPE_COUNT && f->type != type))
        refuse(p, "program %s: input %d of %s in %s is %s x %lld, expected %s x %lld", p->name,
               i, row->name, t->name, dtype_name(f->type), (long long)f->cols,
               type == DTYPE_COUNT ? "any" : dtype_name(type), (long long)cols);
}

static slot_id give(program *p, record *r, int o, tensor_format format) {
    template_ *t = &p->templates[p->template_count - 1];
    slot_id s = add_slot(p, t, SLOT_ACTIVATION, format, (int)(r - t->records), 0);
    r->out[o] = s;
    return s;
}

static tensor_format format_in(program *p, slot_id s) {
    template_ *t = &p->templates[p->template_count - 1];
    return s >= 0 && (size_t)s < t->slot_count ? t->slots[s].format
                                               : format_of(p->compute, 0, 0);
}

slot_id program_embedding(program *p, slot_id ids, slot_id w, float scale) {
    record *r = add_record(p, OP_EMBEDDING, "program_embedding");
    if (!r) return SLOT_NONE;
    r->attr.embedding.scale = scale;
    take(p, r, EMBEDDING_IDS, ids, DTYPE_I32, 1);
    take(p, r, EMBEDDING_W, w, p->compute, 0);
    return give(p, r, 0, format_of(p->compute, 0, format_in(p, w).cols));
}

slot_id program_rmsnorm(program *p, slot_id x, slot_id residual, slot_id w, float eps,
                        slot_id *sum) {
    record *r = add_record(p, OP_RMSNORM, "program_rmsnorm");
    if (!r) return SLOT_NONE;
    int64_t h = format_in(p, w).cols;
    r->attr.rmsnorm.eps = eps;
    take(p, r, RMSNORM_X, x, p->compute, h);
    take(p, r, RMSNORM_RESIDUAL, residual, p->compute, h);
    take(p, r, RMSNORM_W, w, p->compute, 0);
    slot_id y = give(p, r, RMSNORM_Y, format_of(p->compute, 0, h));
    if (residual != SLOT_NONE) {
        slot_id s = give(p, r, RMSNORM_SUM, format_of(p->compute, 0, h));
        if (sum) *sum = s;
    }
    give(p, r, RMSNORM_RSTD, format_of(DTYPE_F32, 0, 1));
    return y;
}

slot_id program_linear(program *p, slot_id x, const linear_part *parts, int count,
                       float dropout) {
    record *r = add_record(p, OP_LINEAR, "program_linear");
    if (!r) return SLOT_NONE;
    if (count < 1 || count > LINEAR_PARTS) {
        refuse(p, "program %s: a linear of %d parts", p->name, count);
        return SLOT_NONE;
    }
    int64_t in = format_in(p, x).cols, total = 0;
    r->attr.linear.parts = count;
    r->attr.linear.in = in;
    r->attr.linear.dropout = dropout;
    take(p, r, LINEAR_X, x, p->compute, 0);
    for (int k = 0; k < count; k++) {
        const linear_part *q = &parts[k];
        r->attr.linear.out[k] = q->out;
        r->attr.linear.rank[k] = q->a == SLOT_NONE ? 0 : q->rank;
        r->attr.linear.scale[k] = q->scale;
        r->attr.linear.module[k] = q->module;
        take(p, r, linear_w(k), q->w, DTYPE_COUNT, in);
        take(p, r, linear_bias(k), q->bias, p->compute, q->out);
        take(p, r, linear_a(k), q->a, p->compute, in);
        take(p, r, linear_b(k), q->b, p->compute, q->a == SLOT_NONE ? 0 : q->rank);
        if ((q->a == SLOT_NONE) != (q->b == SLOT_NONE))
            refuse(p, "program %s: a linear part with only one of A and B", p->name);
        total += q->out;
    }
    return give(p, r, 0, format_of(p->compute, 0, total));
}

slot_id program_rope(program *p, slot_id x, slot_id positions, slot_id inv_freq,
                     slot_id q_norm, slot_id k_norm, int heads, int kv_heads, int head_dim,
                     float eps, float factor) {
    record *r = add_record(p, OP_ROPE, "program_rope");
    if (!r) return SLOT_NONE;
    int64_t width = (int64_t)(heads + 2 * kv_heads) * head_dim;
    r->attr.rope.heads = heads, r->attr.rope.kv_heads = kv_heads,
    r->attr.rope.head_dim = head_dim;
    r->attr.rope.eps = eps, r->attr.rope.factor = factor;
    take(p, r, ROPE_X, x, p->compute, width);
    take(p, r, ROPE_POSITIONS, positions, DTYPE_I32, 1);
    take(p, r, ROPE_INV_FREQ, inv_freq, DTYPE_F32, head_dim / 2);
    take(p, r, ROPE_Q_NORM, q_norm, p->compute, head_dim);
    take(p, r, ROPE_K_NORM, k_norm, p->compute, head_dim);
    slot_id y = give(p, r, ROPE_Y, format_of(p->compute, 0, width));
    if (q_norm != SLOT_NONE || k_norm != SLOT_NONE)
        give(p, r, ROPE_RSTD, format_of(DTYPE_F32, 0, heads + kv_heads));
    return y;
}

slot_id program_attention(program *p, slot_id qkv, slot_id starts, slot_id cache, slot_id past,
                          const attention_shape *a) {
    record *r = add_record(p, OP_ATTENTION, "program_attention");
    if (!r) return SLOT_NONE;
    r->attr.attention.heads = a->heads, r->attr.attention.kv_heads = a->kv_heads;
    r->attr.attention.head_dim = a->head_dim, r->attr.attention.window = a->window;
    r->attr.attention.scale = a->scale, r->attr.attention.softcap = a->softcap;
    r->attr.attention.cache_rows = a->cache_rows;
    take(p, r, ATTENTION_QKV, qkv, p->compute,
         (int64_t)(a->heads + 2 * a->kv_heads) * a->head_dim);
    take(p, r, ATTENTION_STARTS, starts, DTYPE_I32, 1);
    take(p, r, ATTENTION_CACHE, cache, p->compute, 2 * (int64_t)a->kv_heads * a->head_dim);
    take(p, r, ATTENTION_PAST, past, DTYPE_I32, 1);
    slot_id y =
        give(p, r, ATTENTION_Y, format_of(p->compute, 0, (int64_t)a->heads * a->head_dim));
    give(p, r, ATTENTION_LSE, format_of(DTYPE_F32, 0, a->heads));
    return y;
}

slot_id program_glu(program *p, slot_id x, activation act) {
    record *r = add_record(p, OP_GLU, "program_glu");
    if (!r) return SLOT_NONE;
    r->attr.glu.act = act;
    take(p, r, 0, x, p->compute, 0);
    return give(p, r, 0, format_of(p->compute, 0, format_in(p, x).cols / 2));
}

slot_id program_add(program *p, slot_id a, slot_id b) {
    record *r = add_record(p, OP_ADD, "program_add");
    if (!r) return SLOT_NONE;
    int64_t width = format_in(p, a).cols;
    take(p, r, 0, a, p->compute, width);
    take(p, r, 1, b, p->compute, width);
    return give(p, r, 0, format_of(p->compute, 0, width));
}

slot_id program_head(program *p, slot_id x, slot_id w, slot_id targets, slot_id weights,
                     slot_id *lse) {
    record *r = add_record(p, OP_HEAD_CROSS_ENTROPY, "program_head");
    if (!r) return SLOT_NONE;
    take(p, r, HEAD_X, x, p->compute, format_in(p, w).cols);
    take(p, r, HEAD_W, w, p->compute, 0);
    take(p, r, HEAD_TARGETS, targets, DTYPE_I32, 1);
    take(p, r, HEAD_WEIGHTS, weights, DTYPE_F32, 1);
    slot_id logp = give(p, r, HEAD_LOGP, format_of(DTYPE_F32, 0, 1));
    slot_id second = give(p, r, HEAD_LSE, format_of(DTYPE_F32, 0, 1));
    if (lse) *lse = second;
    return logp;
}

slot_id program_logits(program *p, slot_id x, slot_id w, slot_id selected) {
    record *r = add_record(p, OP_LOGITS, "program_logits");
    if (!r) return SLOT_NONE;
    take(p, r, LOGITS_X, x, p->compute, format_in(p, w).cols);
    take(p, r, LOGITS_W, w, p->compute, 0);
    take(p, r, LOGITS_SELECTED, selected, DTYPE_I32, 1);
    tensor_format f = format_in(p, selected);
    return give(p, r, 0, format_of(DTYPE_F32, f.rows, format_in(p, w).rows));
}

slot_id program_fake_quant(program *p, slot_id w, dtype quant, bool nested) {
    record *r = add_record(p, OP_FAKE_QUANT, "program_fake_quant");
    if (!r) return SLOT_NONE;
    r->attr.fake_quant.quant = quant;
    r->attr.fake_quant.nested = nested;
    take(p, r, 0, w, p->compute, 0);
    return give(p, r, 0, format_in(p, w));
}

void program_loss_sum(program *p, slot_id logp, slot_id targets, slot_id total) {
    record *r = add_record(p, OP_LOSS_SUM, "program_loss_sum");
    if (!r) return;
    take(p, r, LOSS_LOGP, logp, DTYPE_F32, 1);
    take(p, r, LOSS_TARGETS, targets, DTYPE_I32, 1);
    take(p, r, LOSS_TOTAL, total, DTYPE_F64, 2);
}

void program_square_sum(program *p, slot_id g, slot_id out) {
    record *r = add_record(p, OP_SQUARE_SUM, "program_square_sum");
    if (!r) return;
    take(p, r, SQUARE_G, g, DTYPE_F32, 0);
    take(p, r, SQUARE_OUT, out, DTYPE_F64, 1);
}

void program_adamw(program *p, const adamw_slots *s, int bits, bool decay) {
    record *r = add_record(p, OP_ADAMW, "program_adamw");
    if (!r) return;
    r->attr.adamw.bits = bits;
    r->attr.adamw.decay = decay;
    take(p, r, ADAMW_G, s->gradient, DTYPE_F32, 0);
    take(p, r, ADAMW_MASTER, s->master, DTYPE_F32, 0);
    take(p, r, ADAMW_M, s->m, bits == 8 ? DTYPE_U8 : DTYPE_F32, 0);
    take(p, r, ADAMW_V, s->v, bits == 8 ? DTYPE_U8 : DTYPE_F32, 0);
    take(p, r, ADAMW_ABSMAX1, s->absmax1, DTYPE_F32, 0);
    take(p, r, ADAMW_ABSMAX2, s->absmax2, DTYPE_F32, 0);
    take(p, r, ADAMW_WORKING, s->working, p->compute, 0);
}
