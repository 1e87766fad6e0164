/* tiny_program.h: a decoder of L layers written through the public recording interface, for
 * the tests of programs, plans, pages and the executor. Small sizes, all operations of a real
 * one. */
#ifndef NIBBLE_TESTS_TINY_PROGRAM_H
#define NIBBLE_TESTS_TINY_PROGRAM_H

#include "autograd/program.h"

#include <stdio.h>

enum {
    TINY_H = 32,
    TINY_F = 48,
    TINY_V = 96,
    TINY_HEADS = 4,
    TINY_KV = 2,
    TINY_D = 8,
    TINY_R = 4
};

typedef struct tiny {
    parameter_table table;
    program *train, *evaluate;
    parameter_id embedding, norm, head, inv_freq, total;
    parameter_id layer[64][32];
    int layers, per_layer;
    int lowest_adapter; /* layers below have none */
} tiny;

typedef struct tiny_module {
    const char *name;
    int64_t out, in;
} tiny_module;

static const tiny_module tiny_modules[7] = {
    {"q", TINY_HEADS *TINY_D, TINY_H}, {"k", TINY_KV *TINY_D, TINY_H},
    {"v", TINY_KV *TINY_D, TINY_H},    {"o", TINY_H, TINY_HEADS *TINY_D},
    {"gate", TINY_F, TINY_H},          {"up", TINY_F, TINY_H},
    {"down", TINY_H, TINY_F},
};

static inline parameter_id tiny_add(tiny *t, const char *name, int layer, tensor_format f,
                                    mem_class c) {
    char full[64];
    parameter_id id = -1;
    snprintf(full, sizeof full, "%d.%s", layer, name);
    if (parameter_add(&t->table, full, f, c, layer, &id) != STATUS_OK) return -1;
    return id;
}

/* Parameters in the order in which tiny_block declares them. */
static inline void tiny_layer(tiny *t, int l, dtype c, dtype base) {
    int n = 0;
    parameter_id *p = t->layer[l];
    p[n++] = tiny_add(t, "norm1", l, format_of(c, 1, TINY_H), MEM_BASE);
    p[n++] = tiny_add(t, "norm2", l, format_of(c, 1, TINY_H), MEM_BASE);
    for (int m = 0; m < 7; m++) {
        const tiny_module *q = &tiny_modules[m];
        char name[32];
        snprintf(name, sizeof name, "%s.w", q->name);
        p[n++] = tiny_add(t, name, l,
                          dtype_is_4bit(base) ? format_4bit(base, q->out, q->in, true)
                                              : format_of(base, q->out, q->in),
                          MEM_BASE);
        if (l < t->lowest_adapter) {
            p[n++] = PARAMETER_NONE;
            p[n++] = PARAMETER_NONE;
            continue;
        }
        for (int side = 0; side < 2; side++) {
            int64_t rows = side ? q->out : TINY_R, cols = side ? TINY_R : q->in;
            snprintf(name, sizeof name, "%s.%c", q->name, "ab"[side]);
            p[n] = tiny_add(t, name, l, format_of(c, rows, cols), MEM_ADAPTER);
            snprintf(name, sizeof name, "%s.%c.grad", q->name, "ab"[side]);
            parameter_set_gradient(
                &t->table, p[n],
                tiny_add(t, name, 0, format_of(DTYPE_F32, rows, cols), MEM_GRADIENT));
            n++;
        }
    }
    p[n++] = t->inv_freq;
    t->per_layer = n;
}

static inline void tiny_block(program *p, const tiny *t, int l, slot_id positions,
                              slot_id starts) {
    slot_id w[7], a[7], b[7];
    slot_id n1 = program_parameter(p, format_of(p->compute, 1, TINY_H));
    slot_id n2 = program_parameter(p, format_of(p->compute, 1, TINY_H));
    for (int m = 0; m < 7; m++) {
        const tiny_module *q = &tiny_modules[m];
        w[m] = program_parameter(p, t->table.items[t->layer[l][2 + 3 * m]].format);
        a[m] = b[m] = SLOT_NONE;
        if (l < t->lowest_adapter) {
            p->templates[p->template_count - 1].parameters += 2; /* bound to none */
            continue;
        }
        a[m] = program_parameter(p, format_of(p->compute, TINY_R, q->in));
        b[m] = program_parameter(p, format_of(p->compute, q->out, TINY_R));
    }
    slot_id inv = program_parameter(p, format_of(DTYPE_F32, 1, TINY_D / 2));
    linear_part part[7];
    for (int m = 0; m < 7; m++)
        part[m] = (linear_part){.w = w[m],
                                .bias = SLOT_NONE,
                                .a = a[m],
                                .b = b[m],
                                .out = tiny_modules[m].out,
                                .rank = TINY_R,
                                .module = m,
                                .scale = 2};
    attention_shape shape = {TINY_HEADS, TINY_KV, TINY_D, 0, 0.35355339f, 0, 0};
    slot_id h = program_carry_in(p, TINY_H), h2;
    slot_id x = program_rmsnorm(p, h, SLOT_NONE, n1, 1e-5f, NULL);
    x = program_linear(p, x, part, 3, 0.1f);
    x = program_rope(p, x, positions, inv, SLOT_NONE, SLOT_NONE, TINY_HEADS, TINY_KV, TINY_D,
                     1e-5f, 1);
    x = program_attention(p, x, starts, SLOT_NONE, SLOT_NONE, &shape);
    x = program_linear(p, x, part + 3, 1, 0.1f);
    x = program_rmsnorm(p, h, x, n2, 1e-5f, &h2);
    x = program_linear(p, x, part + 4, 2, 0.1f);
    x = program_glu(p, x, ACT_SILU);
    x = program_linear(p, x, part + 6, 1, 0.1f);
    program_carry_out(p, program_add(p, h2, x));
}

static inline status tiny_record(tiny *t, program **out, const char *name, dtype c,
                                 int64_t capacity, bool backward) {
    program *p;
    TRY(program_open(&p, name, &t->table, c, capacity, backward));
    *out = p;
    slot_id ids = program_input(p, "ids", format_of(DTYPE_I32, 0, 1));
    slot_id positions = program_input(p, "positions", format_of(DTYPE_I32, 0, 1));
    slot_id starts = program_input(p, "starts", format_of(DTYPE_I32, capacity + 1, 1));
    slot_id targets = program_input(p, "targets", format_of(DTYPE_I32, 0, 1));
    slot_id weights = program_input(p, "weights", format_of(DTYPE_F32, 0, 1));
    int e = program_template(p, "embed");
    program_carry_out(
        p, program_embedding(p, ids, program_parameter(p, format_of(c, TINY_V, TINY_H)), 0));
    program_section(p, e);
    program_bind(p, 0, &t->embedding, 1);
    for (int l = 0; l < t->layers;) {
        int k = program_template(p, l < t->lowest_adapter ? "bare" : "block");
        tiny_block(p, t, l, positions, starts);
        program_section(p, k);
        bool bare = l < t->lowest_adapter;
        for (; l < t->layers && (l < t->lowest_adapter) == bare; l++)
            program_bind(p, l, t->layer[l], t->per_layer);
    }
    int h = program_template(p, "head");
    slot_id norm = program_parameter(p, format_of(c, 1, TINY_H));
    slot_id head = program_parameter(p, format_of(c, TINY_V, TINY_H));
    slot_id total = program_parameter(p, format_of(DTYPE_F64, 1, 2));
    slot_id x = program_rmsnorm(p, program_carry_in(p, TINY_H), SLOT_NONE, norm, 1e-5f, NULL);
    slot_id logp = program_head(p, x, head, targets, weights, NULL);
    program_output(p, logp, "logp");
    program_loss_sum(p, logp, targets, total);
    program_section(p, h);
    program_bind(p, t->layers, (parameter_id[]){t->norm, t->head, t->total}, 3);
    return program_seal(p);
}

static inline status tiny_open(tiny *t, int layers, int lowest_adapter, dtype c, dtype base,
                               int64_t capacity, int64_t align) {
    parameter_table_init(&t->table, align);
    t->layers = layers, t->lowest_adapter = lowest_adapter;
    t->embedding = tiny_add(t, "embedding", -1, format_of(c, TINY_V, TINY_H), MEM_EMBEDDING);
    t->norm = tiny_add(t, "norm", -1, format_of(c, 1, TINY_H), MEM_EMBEDDING);
    t->head = tiny_add(t, "head", -1, format_of(c, TINY_V, TINY_H), MEM_EMBEDDING);
    t->inv_freq = tiny_add(t, "inv_freq", -1, format_of(DTYPE_F32, 1, TINY_D / 2), MEM_STATE);
    t->total = tiny_add(t, "total", -1, format_of(DTYPE_F64, 1, 2), MEM_STATE);
    for (int l = 0; l < layers; l++) tiny_layer(t, l, c, base);
    TRY(tiny_record(t, &t->train, "train", c, capacity, true));
    return tiny_record(t, &t->evaluate, "evaluate", c, capacity, false);
}

static inline void tiny_close(tiny *t) {
    program_close(t->train);
    program_close(t->evaluate);
    parameter_table_free(&t->table);
}

#endif
