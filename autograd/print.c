/* print.c: programs as text, and what they cost. */
#include "autograd/program.h"
#include "common/alloc.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static status append(char **text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static status append(char **text, const char *format, ...) {
    char piece[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(piece, sizeof piece, format, args);
    va_end(args);
    char *longer = mem_printf("%s%s", *text ? *text : "", piece);
    if (!longer) return STATUS_MEMORY;
    mem_free(*text);
    *text = longer;
    return STATUS_OK;
}

static void slot_text(const template_ *t, slot_id s, char *text, size_t bytes) {
    if (s < 0) {
        snprintf(text, bytes, "-");
        return;
    }
    static const char letters[] = "ipcac"; /* input, parameter, carry, activation, cache */
    const slot *q = &t->slots[s];
    if (q->kind == SLOT_CARRY)
        snprintf(text, bytes, "carry");
    else if (q->kind == SLOT_INPUT)
        snprintf(text, bytes, "%s", q->name);
    else
        snprintf(text, bytes, "%c%d", q->kind == SLOT_CACHE ? 'k' : letters[q->kind], s);
}

static status print_record(const template_ *t, const record *r, char **text) {
    const operation_row *row = operation_get(r->op);
    char name[32];
    TRY(append(text, "    "));
    for (int o = 0; o < row->outputs; o++) {
        if (r->out[o] < 0) continue;
        const tensor_format *f = &t->slots[r->out[o]].format;
        slot_text(t, r->out[o], name, sizeof name);
        char rows[24] = "T";
        if (f->rows) snprintf(rows, sizeof rows, "%lld", (long long)f->rows);
        TRY(append(text, "%s%s:%s[%s,%lld]", o ? ", " : "", name, dtype_name(f->type), rows,
                   (long long)f->cols));
    }
    TRY(append(text, "%s%s(", row->outputs ? " = " : "", row->name));
    int shown = 0;
    for (int k = 0; k < row->inputs; k++) {
        if (r->in[k] < 0) continue;
        slot_text(t, r->in[k], name, sizeof name);
        TRY(append(text, "%s%s", shown++ ? ", " : "", name));
    }
    if (r->op == OP_LINEAR)
        for (int k = 0; k < r->attr.linear.parts; k++)
            TRY(append(text, "; %lldx%lld r %d", (long long)r->attr.linear.out[k],
                       (long long)r->attr.linear.in, r->attr.linear.rank[k]));
    if (r->op == OP_ATTENTION)
        TRY(append(text, "; heads %d/%d of %d, window %d", r->attr.attention.heads,
                   r->attr.attention.kv_heads, r->attr.attention.head_dim,
                   r->attr.attention.window));
    return append(text, ")\n");
}

static status print_backward(const program *p, const section *s, size_t index, char **text) {
    const template_ *t = &p->templates[s->template_index];
    bool mask[TEMPLATE_SLOTS] = {false}, any = false, before = index > 0;
    for (size_t k = 0; k < t->slot_count; k++) {
        const slot *q = &t->slots[k];
        parameter_id id = q->kind == SLOT_PARAMETER && s->binding_count
                              ? s->bindings[s->binding_count - 1].parameters[q->index]
                              : -1;
        if (id >= 0 && p->table->items[id].gradient >= 0) any = mask[q->index] = true;
    }
    derivation d;
    TRY(derive(t, mask, before || s->binding_count > 1, true, &d));
    status r = append(text, "  backward of its last layer%s:\n",
                      any ? "" : " (nothing trainable here)");
    for (size_t i = 0; i < d.count && r == STATUS_OK; i++) {
        const record *rec = &t->records[d.records[i].record];
        r = append(text, "    %s'", operation_get(rec->op)->name);
        for (int k = 0; k < OP_INPUTS && r == STATUS_OK; k++) {
            if (!(d.records[i].gin >> k & 1)) continue;
            char name[32];
            slot_text(t, rec->in[k], name, sizeof name);
            r = append(text, " d%s %s", name, d.records[i].add >> k & 1 ? "+=" : "=");
        }
        if (r == STATUS_OK) r = append(text, "\n");
    }
    derivation_free(&d);
    return r;
}

status program_print(const program *p, char **text) {
    TRY(append(text, "program %s: %s, capacity %lld rows, %s\n", p->name,
               dtype_name(p->compute), (long long)p->capacity,
               p->backward ? "forward and backward" : "forward"));
    for (size_t i = 0; i < p->section_count; i++) {
        const section *s = &p->sections[i];
        const template_ *t = &p->templates[s->template_index];
        TRY(append(text, "section %s x %zu: %zu operations\n", t->name, s->binding_count,
                   t->record_count));
        for (size_t r = 0; r < t->record_count; r++)
            TRY(print_record(t, &t->records[r], text));
        if (p->backward) TRY(print_backward(p, s, i, text));
    }
    return STATUS_OK;
}
