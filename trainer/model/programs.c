/* programs.c: the decoder written down as programs (decoder.h shows the block). Recording
 * only: which parameter is where comes from decoder.c, how it runs from the engine. */
#include "trainer/model/decoder.h"
#include "common/alloc.h"
#include "common/checked.h"

#include <math.h>
#include <string.h>

enum {
    BUCKET = 64, /* rows; a program's capacity is a multiple */
    BLOCK_PARAMETERS = 4 + 4 * MODULE_COUNT + 1,
};

/* What is being recorded. Slots of program inputs are valid in every template. */
typedef struct recorder {
    const decoder *d;
    program *p;
    bool adapters;
    bool caches; /* generation */
    int64_t cache_rows, sequences;
    slot_id ids, positions, starts, targets, weights, past, selected;
    int *templates; /* [layers] template of each layer's block */
} recorder;

/* The parameters of the template being recorded, in the order of its slots. Recording a block
 * and binding it walk the same function, so that the orders cannot differ. */
typedef struct parameters {
    program *p; /* NULL: only listing */
    const parameter_table *table;
    parameter_id ids[BLOCK_PARAMETERS];
    int count;
} parameters;

static slot_id use(parameters *u, parameter_id id) {
    if (id == PARAMETER_NONE) return SLOT_NONE;
    u->ids[u->count++] = id;
    return u->p ? program_parameter(u->p, u->table->items[id].format) : SLOT_NONE;
}

/* ---- the block ---- */

typedef struct block_slots {
    slot_id norm1, norm2, q_norm, k_norm, inv_freq;
    linear_part parts[MODULE_COUNT];
} block_slots;

static linear_part use_linear(const recorder *r, parameters *u, int32_t layer,
                              linear_module m) {
    const decoder_layer *l = &r->d->layers[layer];
    lora_module adapter = r->d->adapters[layer * MODULE_COUNT + (int)m];
    linear_part part = {.w = use(u, l->w[m]),
                        .bias = use(u, l->bias[m]),
                        .a = SLOT_NONE,
                        .b = SLOT_NONE,
                        .out = module_out(r->d->config, m),
                        .module = (int32_t)m};
    if (!adapter.rank || !r->adapters) return part;
    part.a = use(u, l->a[m]);
    part.b = use(u, l->b[m]);
    part.rank = adapter.rank;
    part.scale = adapter.scale;
    return part;
}

static block_slots use_block(const recorder *r, parameters *u, int32_t layer) {
    const decoder_layer *l = &r->d->layers[layer];
    block_slots s = {.norm1 = use(u, l->norm1),
                     .norm2 = use(u, l->norm2),
                     .q_norm = use(u, l->q_norm),
                     .k_norm = use(u, l->k_norm),
                     .inv_freq = use(u, r->d->inv_freq)};
    for (int m = 0; m < MODULE_COUNT; m++)
        s.parts[m] = use_linear(r, u, layer, (linear_module)m);
    return s;
}

static slot_id record_attention(const recorder *r, const block_slots *s, slot_id n1,
                                int32_t layer) {
    const model_config *c = r->d->config;
    program *p = r->p;
    attention_shape shape = {.heads = c->heads,
                             .kv_heads = c->kv_heads,
                             .head_dim = c->head_dim,
                             .window = c->windows[layer],
                             .scale = (float)(1 / sqrt(c->head_dim)),
                             .cache_rows = r->cache_rows};
    slot_id cache = SLOT_NONE, qkv;
    qkv = program_linear(p, n1, &s->parts[MODULE_Q], 3, (float)r->d->dropout);
    qkv = program_rope(p, qkv, r->positions, s->inv_freq, s->q_norm, s->k_norm, c->heads,
                       c->kv_heads, c->head_dim, c->eps, c->rope_factor);
    if (r->caches) /* keys and values of one token side by side */
        cache = program_cache(p, format_of(p->compute, r->sequences * r->cache_rows,
                                           2 * (int64_t)c->kv_heads * c->head_dim));
    slot_id a = program_attention(p, qkv, r->starts, cache, r->past, &shape);
    return program_linear(p, a, &s->parts[MODULE_O], 1, (float)r->d->dropout);
}

static int record_block(const recorder *r, int32_t layer) {
    const model_config *c = r->d->config;
    program *p = r->p;
    float dropout = (float)r->d->dropout;
    int t = program_template(p, "block");
    parameters u = {.p = p, .table = &r->d->table};
    slot_id h = program_carry_in(p, c->hidden), h2 = SLOT_NONE;
    block_slots s = use_block(r, &u, layer);
    slot_id n1 = program_rmsnorm(p, h, SLOT_NONE, s.norm1, c->eps, NULL);
    slot_id o = record_attention(r, &s, n1, layer);
    slot_id n2 = program_rmsnorm(p, h, o, s.norm2, c->eps, &h2);
    slot_id gu = program_linear(p, n2, &s.parts[MODULE_GATE], 2, dropout);
    slot_id down =
        program_linear(p, program_glu(p, gu, c->act), &s.parts[MODULE_DOWN], 1, dropout);
    program_carry_out(p, program_add(p, h2, down));
    return t;
}

/* ---- layers that are alike share a template ---- */

static bool same_format(const tensor_format *a, const tensor_format *b) {
    return a->type == b->type && a->rows == b->rows && a->cols == b->cols &&
           a->block == b->block && a->nested == b->nested;
}

static bool same_layers(const recorder *r, int32_t a, int32_t b) {
    const decoder *d = r->d;
    if (d->config->windows[a] != d->config->windows[b]) return false;
    for (int m = 0; m < MODULE_COUNT; m++) {
        const parameter *items = d->table.items;
        lora_module x = d->adapters[a * MODULE_COUNT + m],
                    y = d->adapters[b * MODULE_COUNT + m];
        if (!same_format(&items[d->layers[a].w[m]].format, &items[d->layers[b].w[m]].format))
            return false;
        if (r->adapters && (x.rank != y.rank || (x.rank && x.scale != y.scale))) return false;
    }
    return true;
}

static int block_template(recorder *r, int32_t layer) {
    for (int32_t l = 0; l < layer; l++)
        if (same_layers(r, l, layer)) return r->templates[l];
    return record_block(r, layer);
}

static void bind_block(const recorder *r, int32_t layer) {
    parameters u = {.table = &r->d->table};
    use_block(r, &u, layer);
    program_bind(r->p, layer, u.ids, u.count);
}

static status record_blocks(recorder *r) {
    int32_t layers = r->d->config->layers;
    r->templates = mem_alloc_array((size_t)layers, sizeof *r->templates, "templates");
    if (!r->templates) return STATUS_MEMORY;
    for (int32_t l = 0; l < layers; l++) {
        r->templates[l] = block_template(r, l);
        if (!l || r->templates[l] != r->templates[l - 1])
            program_section(r->p, r->templates[l]);
        bind_block(r, l);
    }
    return STATUS_OK;
}

/* ---- what stands around the blocks ---- */

/* A section of one binding that belongs to no layer. */
static void bind_once(program *p, int template_index, const parameter_id *ids, int count) {
    program_section(p, template_index);
    program_bind(p, -1, ids, count);
}

static void record_embedding(const recorder *r) {
    int t = program_template(r->p, "embed");
    slot_id w = program_parameter(r->p, r->d->table.items[r->d->embedding].format);
    program_carry_out(r->p, program_embedding(r->p, r->ids, w, 0));
    bind_once(r->p, t, &r->d->embedding, 1);
}

/* The final norm; its result and the head's weight for the records that follow. */
static slot_id record_final_norm(const recorder *r, slot_id *head) {
    const decoder *d = r->d;
    slot_id h = program_carry_in(r->p, d->config->hidden);
    slot_id norm = program_parameter(r->p, d->table.items[d->final_norm].format);
    *head = program_parameter(r->p, d->table.items[d->head].format);
    return program_rmsnorm(r->p, h, SLOT_NONE, norm, d->config->eps, NULL);
}

static void record_loss(const recorder *r) {
    const decoder *d = r->d;
    int t = program_template(r->p, "head");
    slot_id w, n = record_final_norm(r, &w);
    slot_id total = program_parameter(r->p, d->table.items[d->total].format);
    slot_id logp = program_head(r->p, n, w, r->targets, r->weights, NULL);
    program_loss_sum(r->p, logp, r->targets, total);
    if (!r->p->backward) program_output(r->p, logp, "logp");
    bind_once(r->p, t, (parameter_id[]){d->final_norm, d->head, d->total}, 3);
}

static void record_logits(const recorder *r) {
    const decoder *d = r->d;
    int t = program_template(r->p, "head");
    slot_id w, n = record_final_norm(r, &w);
    program_output(r->p, program_logits(r->p, n, w, r->selected), "logits");
    bind_once(r->p, t, (parameter_id[]){d->final_norm, d->head}, 2);
}

static void declare_inputs(recorder *r, int64_t documents) {
    r->ids = program_input(r->p, "ids", format_of(DTYPE_I32, 0, 1));
    r->positions = program_input(r->p, "positions", format_of(DTYPE_I32, 0, 1));
    r->starts = program_input(r->p, "starts", format_of(DTYPE_I32, documents + 1, 1));
    r->targets = r->weights = r->past = r->selected = SLOT_NONE;
}

static status close_recording(recorder *r, status s, program **out) {
    mem_free(r->templates);
    if (s == STATUS_OK) s = program_seal(r->p);
    if (s != STATUS_OK) {
        program_close(r->p);
        r->p = NULL;
    }
    *out = r->p;
    return s;
}

/* ---- the programs ---- */

static status record_scored(const decoder *d, program **out, const char *name,
                            int64_t capacity, bool backward, bool adapters) {
    recorder r = {.d = d, .adapters = adapters};
    capacity = round_up_i64(capacity, BUCKET);
    *out = NULL;
    TRY(program_open(&r.p, name, &d->table, d->options.compute, capacity, backward));
    declare_inputs(&r, capacity);
    r.targets = program_input(r.p, "targets", format_of(DTYPE_I32, 0, 1));
    r.weights = program_input(r.p, "weights", format_of(DTYPE_F32, 0, 1));
    record_embedding(&r);
    status s = record_blocks(&r);
    if (s == STATUS_OK) record_loss(&r);
    return close_recording(&r, s, out);
}

status decoder_record_train(const decoder *d, program **out, int64_t capacity) {
    return record_scored(d, out, "train", capacity, true, true);
}

status decoder_record_evaluate(const decoder *d, program **out, int64_t capacity,
                               bool adapters) {
    return record_scored(d, out, adapters ? "evaluate" : "reference", capacity, false,
                         adapters);
}

status decoder_record_generate(const decoder *d, program **out, const generate_shape *shape,
                               bool adapters) {
    recorder r = {.d = d,
                  .adapters = adapters,
                  .caches = true,
                  .cache_rows = shape->cache_rows,
                  .sequences = shape->sequences};
    int64_t capacity = round_up_i64(shape->capacity, BUCKET);
    *out = NULL;
    TRY(program_open(&r.p, adapters ? "generate" : "generate_base", &d->table,
                     d->options.compute, capacity, false));
    declare_inputs(&r, shape->sequences);
    r.past = program_input(r.p, "past", format_of(DTYPE_I32, shape->sequences, 1));
    r.selected = program_input(r.p, "selected", format_of(DTYPE_I32, shape->selected, 1));
    record_embedding(&r);
    status s = record_blocks(&r);
    if (s == STATUS_OK) record_logits(&r);
    return close_recording(&r, s, out);
}

/* ---- programs over the trained tensors: a template per kind of layer ---- */

/* Trainables [first, first + n): those of one layer. */
typedef struct group {
    size_t first, n;
} group;

static group group_at(const decoder *d, size_t first) {
    group g = {first, 1};
    while (first + g.n < d->trainable_count &&
           d->trainables[first + g.n].layer == d->trainables[first].layer)
        g.n++;
    return g;
}

static bool same_groups(const decoder *d, group a, group b) {
    if (a.n != b.n) return false;
    for (size_t i = 0; i < a.n; i++) {
        const trainable *x = &d->trainables[a.first + i], *y = &d->trainables[b.first + i];
        if (x->rows != y->rows || x->cols != y->cols || x->bits != y->bits ||
            x->decay != y->decay)
            return false;
    }
    return true;
}

enum { TRAINABLE_PARAMETERS = 7 };

/* What an operation over trained tensors adds to a template, and the parameters that it binds.
 */
typedef struct trained_operation {
    const char *name;
    void (*record)(program *p, const decoder *d, const trainable *t);
    int (*bind)(const trainable *t, parameter_id ids[TRAINABLE_PARAMETERS]);
} trained_operation;

static int bind_update(const trainable *t, parameter_id ids[TRAINABLE_PARAMETERS]) {
    const parameter_id all[] = {t->gradient, t->master,  t->m,      t->v,
                                t->working,  t->absmax1, t->absmax2};
    memcpy(ids, all, sizeof all);
    return t->bits == 8 ? 7 : 5;
}

static void record_update(program *p, const decoder *d, const trainable *t) {
    const parameter *items = d->table.items;
    adamw_slots s = {.gradient = program_parameter(p, items[t->gradient].format),
                     .master = program_parameter(p, items[t->master].format),
                     .m = program_parameter(p, items[t->m].format),
                     .v = program_parameter(p, items[t->v].format),
                     .working = program_parameter(p, items[t->working].format),
                     .absmax1 = SLOT_NONE,
                     .absmax2 = SLOT_NONE};
    if (t->bits == 8) {
        s.absmax1 = program_parameter(p, items[t->absmax1].format);
        s.absmax2 = program_parameter(p, items[t->absmax2].format);
    }
    program_adamw(p, &s, t->bits, t->decay);
}

static int bind_norm(const trainable *t, parameter_id ids[TRAINABLE_PARAMETERS]) {
    ids[0] = t->gradient;
    ids[1] = t->square;
    return 2;
}

static void record_norm(program *p, const decoder *d, const trainable *t) {
    slot_id g = program_parameter(p, d->table.items[t->gradient].format);
    program_square_sum(p, g, program_parameter(p, d->table.items[t->square].format));
}

/* The template of a group: an earlier one's when they are alike. */
static int group_template(program *p, const decoder *d, const trained_operation *op, group g,
                          const int *templates) {
    for (group h = group_at(d, 0); h.first < g.first; h = group_at(d, h.first + h.n))
        if (same_groups(d, h, g)) return templates[h.first];
    int t = program_template(p, op->name);
    for (size_t i = 0; i < g.n; i++) op->record(p, d, &d->trainables[g.first + i]);
    return t;
}

static status bind_group(program *p, const decoder *d, const trained_operation *op, group g) {
    parameter_id *ids = mem_alloc_array(g.n * TRAINABLE_PARAMETERS, sizeof *ids, "a binding");
    if (!ids) return STATUS_MEMORY;
    int count = 0;
    for (size_t i = 0; i < g.n; i++)
        count += op->bind(&d->trainables[g.first + i], ids + count);
    program_bind(p, d->trainables[g.first].layer, ids, count);
    mem_free(ids);
    return STATUS_OK;
}

static status record_groups(program *p, const decoder *d, const trained_operation *op,
                            int *templates) {
    int last = -1;
    for (size_t i = 0; i < d->trainable_count;) {
        group g = group_at(d, i);
        int t = templates[i] = group_template(p, d, op, g, templates);
        if (t != last) program_section(p, t);
        TRY(bind_group(p, d, op, g));
        last = t;
        i += g.n;
    }
    return STATUS_OK;
}

static status record_trained(const decoder *d, program **out, const trained_operation *op) {
    recorder r = {.d = d};
    *out = NULL;
    TRY(program_open(&r.p, op->name, &d->table, d->options.compute, BUCKET, false));
    r.templates = mem_alloc_array(d->trainable_count + 1, sizeof *r.templates, "templates");
    status s = r.templates ? record_groups(r.p, d, op, r.templates) : STATUS_MEMORY;
    return close_recording(&r, s, out);
}

status decoder_record_update(const decoder *d, program **out) {
    static const trained_operation op = {"update", record_update, bind_update};
    return record_trained(d, out, &op);
}

status decoder_record_norm(const decoder *d, program **out) {
    static const trained_operation op = {"norm", record_norm, bind_norm};
    return record_trained(d, out, &op);
}
