/* program.h: the forward pass, written down once, as records without addresses.
 *
 * A program is a list of sections. A section is a template (a short straight list of records)
 * and one binding per layer: which parameters the template's parameter slots mean there.
 * Sections pass one value on, the carry (the residual stream): a template reads the carry of
 * the section before it and names its own. Example, a whole tiny model:
 *
 *   program_open(&p, "train", &table, DTYPE_BF16, 2048);
 *   slot_id ids = program_input(p, "ids", format_of(DTYPE_I32, 0, 1));       rows 0: follows
 * the batch int t = program_template(p, "embed"); slot_id w = program_parameter(p,
 * format_of(DTYPE_BF16, V, H)); program_carry_out(p, program_embedding(p, ids, w, 0));
 *   program_section(p, t);  program_bind(p, 0, &embedding, 1);
 *   t = program_template(p, "block"); ... program_section(p, t); program_bind(p, layer, ids,
 * n) x L program_seal(p);
 *
 * Builders return a slot, or -1 after an error; the first error sticks, names its call and is
 * returned by program_seal. A sealed program is immutable.
 *
 * Nobody writes a backward pass: derive() walks a template's records in reverse, once per
 * (template, which parameters are trainable, whether the carry's gradient is wanted).
 * Gradients flow only where a trainable parameter asks for them. */
#ifndef NIBBLE_AUTOGRAD_PROGRAM_H
#define NIBBLE_AUTOGRAD_PROGRAM_H

#include "autograd/operation.h"
#include "autograd/parameter.h"

typedef int32_t
    slot_id; /* inputs of the program and slots of the current template share one space */
enum { SLOT_NONE = -1, TEMPLATE_SLOTS = 512 /* at most; a decoder block has about 50 */ };

typedef enum slot_kind {
    SLOT_INPUT,      /* of the program: filled by the host before a run */
    SLOT_PARAMETER,  /* bound per layer */
    SLOT_CARRY,      /* what the section before handed over */
    SLOT_ACTIVATION, /* made by a record */
    SLOT_CACHE, /* key-value cache, one per layer, lives as long as the program is not left */
} slot_kind;

typedef struct slot {
    slot_kind kind;
    tensor_format format; /* rows 0: as many as the batch has */
    int32_t producer;     /* record that makes it; -1 */
    int32_t index; /* SLOT_INPUT: program input; SLOT_PARAMETER: position in the binding */
    bool output;   /* the host reads it after a run */
    char name[24];
} slot;

typedef struct record {
    operation op;
    op_attr attr;
    slot_id in[OP_INPUTS], out[OP_OUTPUTS];
} record;

typedef struct template_ {
    char name[24];
    record *records;
    size_t record_count, record_capacity;
    slot *slots;
    size_t slot_count, slot_capacity;
    int32_t parameters;
    slot_id carry_in, carry_out;
} template_;

typedef struct binding {
    int32_t layer; /* Philox layer and the page group that it belongs to */
    parameter_id *parameters;
} binding;

typedef struct section {
    int32_t template_index;
    binding *bindings;
    size_t binding_count, binding_capacity;
} section;

typedef struct program_input_ {
    char name[24];
    tensor_format format;
} program_input_;

typedef struct program {
    char name[24];
    const parameter_table *table;
    dtype compute;
    int64_t capacity; /* rows at most, a multiple of the bucket */
    bool backward;    /* a training program */
    template_ *templates;
    size_t template_count, template_capacity;
    section *sections;
    size_t section_count, section_capacity;
    program_input_ *inputs;
    size_t input_count, input_capacity;
    bool sealed;
    status failed;
    char message[512];
} program;

/* ---- recording ---- */
status program_open(program **out, const char *name, const parameter_table *table,
                    dtype compute, int64_t capacity, bool backward);
void program_close(program *p);
status program_seal(program *p);

/* Declare inputs before the first template; the id is valid in all of them. format.rows == 0
 * follows the batch. */
slot_id program_input(program *p, const char *name, tensor_format format);
int program_template(program *p, const char *name);
void program_section(program *p, int template_index);
/* Adds a layer to the last section; `parameters` in the order of program_parameter's calls
 * (PARAMETER_NONE where an optional one is absent there). */
void program_bind(program *p, int32_t layer, const parameter_id *parameters, int count);

slot_id program_carry_in(program *p, int64_t width);
void program_carry_out(program *p, slot_id s);
slot_id program_parameter(program *p, tensor_format format);
slot_id program_cache(program *p, tensor_format format);
/* Marks a slot as read by the host after a run. */
void program_output(program *p, slot_id s, const char *name);

/* ---- the operations; SLOT_NONE for what is absent ---- */
slot_id program_embedding(program *p, slot_id ids, slot_id w, float scale);
/* *sum may be NULL when residual is SLOT_NONE. */
slot_id program_rmsnorm(program *p, slot_id x, slot_id residual, slot_id w, float eps,
                        slot_id *sum);
typedef struct linear_part {
    slot_id w, bias, a, b;
    int64_t out;
    int32_t rank, module;
    float scale;
} linear_part;
slot_id program_linear(program *p, slot_id x, const linear_part *parts, int count,
                       float dropout);
slot_id program_rope(program *p, slot_id x, slot_id positions, slot_id inv_freq,
                     slot_id q_norm, slot_id k_norm, int heads, int kv_heads, int head_dim,
                     float eps, float factor);
typedef struct attention_shape {
    int heads, kv_heads, head_dim, window;
    float scale, softcap;
    int64_t cache_rows;
} attention_shape;
slot_id program_attention(program *p, slot_id qkv, slot_id starts, slot_id cache, slot_id past,
                          const attention_shape *shape);
slot_id program_glu(program *p, slot_id x, activation act);
slot_id program_add(program *p, slot_id a, slot_id b);
/* Returns logp; *lse too. */
slot_id program_head(program *p, slot_id x, slot_id w, slot_id targets, slot_id weights,
                     slot_id *lse);
slot_id program_logits(program *p, slot_id x, slot_id w, slot_id selected);
slot_id program_fake_quant(program *p, slot_id w, dtype quant, bool nested);
/* total, out: parameter slots of class MEM_STATE, f64 [1, 2] and [1, 1] */
void program_loss_sum(program *p, slot_id logp, slot_id targets, slot_id total);
void program_square_sum(program *p, slot_id g, slot_id out);
typedef struct adamw_slots {
    slot_id gradient, master, m, v, absmax1, absmax2,
        working; /* absmax: SLOT_NONE for 32 bits */
} adamw_slots;
void program_adamw(program *p, const adamw_slots *s, int bits, bool decay);

/* ---- derived backward ---- */
typedef struct backward_record {
    int32_t record;
    uint32_t gin;  /* bit i: the gradient of input i is computed */
    uint32_t add;  /* bit i: it is added to what a later record set */
    uint32_t gout; /* bit o: output o has a gradient */
} backward_record;

typedef struct derivation {
    backward_record *records;
    size_t count;
    bool *needed;         /* [slots] the value is read by a backward record */
    bool *has_gradient;   /* [slots] */
    slot_id *gradient_as; /* [slots] whose gradient buffer it shares (itself if its own) */
} derivation;

/* `trainable[i]`: parameter position i wants a gradient. Pure: same arguments, same result. */
status derive(const template_ *t, const bool *trainable, bool want_carry, bool have_carry_out,
              derivation *out);
void derivation_free(derivation *d);

/* Records and derived backward as text, for `inspect --program`; append to a growing string.
 */
status program_print(const program *p, char **text);

#endif
