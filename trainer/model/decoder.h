/* decoder.h: the one model: its parameters in a table and its programs.
 *
 * The block, for every family (names of the records below):
 *
 *   n1 = rmsnorm(h)           qkv = linear(n1; q, k, v)      qkv = rope(qkv; q_norm, k_norm)
 *   a  = attention(qkv)       o   = linear(a)                (n2, h2) = rmsnorm(h + o)
 *   gu = linear(n2; gate, up) s   = glu(gu)                  d = linear(s)      h = h2 + d
 *
 * Layers that differ (window, adapters, storage of a weight) have templates of their own,
 * equal ones share one. Training, evaluation and generation record the same block; the
 * reference model is the block bound without adapters. Nothing here computes: the engine does.
 *
 * Where parameters live: MEM_BASE one page per layer (weights, biases, norms); MEM_EMBEDDING
 * embedding, final norm, head (a frozen embedding that is not the head too has a page of its
 * own, which base=host leaves on the host); MEM_ADAPTER what is trained, in the compute type
 * (A and B; with full training the layers' own weights); MEM_GRADIENT one f32 page;
 * MEM_OPTIMIZER one page per layer (f32 masters, moments); MEM_STATE rope table, loss totals,
 * sums of squares. */
#ifndef NIBBLE_TRAINER_MODEL_DECODER_H
#define NIBBLE_TRAINER_MODEL_DECODER_H

#include "autograd/execute.h"
#include "autograd/program.h"
#include "trainer/model/lora_spec.h"

typedef enum decoder_training {
    TRAIN_NOTHING, /* evaluate, generate: adapters as they are, no gradients, no states */
    TRAIN_ADAPTERS,
    TRAIN_EVERYTHING, /* unquantized, no adapter */
} decoder_training;

typedef struct decoder_options {
    dtype compute;  /* f32, bf16, f16 */
    dtype quantize; /* of the linears: DTYPE_NF4, DTYPE_FP4; DTYPE_COUNT: the compute type */
    bool nested;    /* double quantization */
    const tensor_format *stored; /* [layers * MODULE_COUNT] what the base's files dictate
                                    (weights.h); rows 0 or NULL: by `quantize` */
    bool tied;             /* head = embedding (weights.h knows, config.json only wishes) */
    const lora_spec *lora; /* NULL: no adapter */
    decoder_training training;
    int optimizer_bits; /* of the moments: 32, or 8 for tensors of at least 4,096 elements */
    int64_t alignment;  /* the back end's */
} decoder_options;

/* The page of a frozen embedding that is not the head as well; others of no layer are in -1. */
enum { EMBEDDING_GROUP = -2 };

/* One trained tensor with everything that belongs to it. */
typedef struct trainable {
    int32_t layer; /* -1: embedding, final norm, head */
    bool decay; /* weight decay applies (not to norms and biases, as Hugging Face's Trainer) */
    int32_t bits; /* 32 or 8 */
    int64_t rows, cols;
    parameter_id working;  /* C [rows, cols], named as in the file it will be written to */
    parameter_id gradient; /* f32 [rows, cols] */
    parameter_id master;   /* f32 [rows, cols] */
    parameter_id m, v;     /* f32 or u8 [rows, cols] */
    parameter_id absmax1, absmax2; /* f32 [1, ceil(n / 256)]; PARAMETER_NONE with 32 bits */
    parameter_id square;           /* f64 [1, 1], sum of the gradient's squares */
} trainable;

typedef struct decoder_layer {                     /* PARAMETER_NONE where there is none */
    parameter_id norm1, norm2;                     /* C [1, H] */
    parameter_id q_norm, k_norm;                   /* C [1, D] */
    parameter_id w[MODULE_COUNT];                  /* [out, in] */
    parameter_id bias[MODULE_COUNT];               /* C [1, out] */
    parameter_id a[MODULE_COUNT], b[MODULE_COUNT]; /* C [r, in], C [out, r] */
} decoder_layer;

typedef struct decoder {
    const model_config *config;
    decoder_options options; /* `stored` and `lora` are not kept */
    lora_module *adapters;   /* [layers * MODULE_COUNT] */
    double dropout;
    parameter_table table;
    decoder_layer *layers;                    /* [config->layers] */
    parameter_id embedding, final_norm, head; /* head == embedding when tied */
    parameter_id inv_freq;                    /* f32 [1, D/2] */
    parameter_id total;    /* f64 [1, 2]: sum of -log p, number of targets */
    trainable *trainables; /* [trainable_count], layers in order; for full training embedding
                              first, final norm and head last */
    size_t trainable_count, trainable_capacity;
} decoder;

/* Registers every parameter; allocates only the tables. `config` must outlive the decoder.
 * STATUS_MODEL when sizes overflow; STATUS_USAGE for options that contradict each other. */
status decoder_open(decoder **out, const model_config *config, const decoder_options *options);
void decoder_close(decoder *d);

/* ---- programs (programs.c) ---- */

/* Inputs of train and evaluate programs, in the order of program_input; T = rows. */
enum {
    INPUT_IDS,       /* i32 [T] */
    INPUT_POSITIONS, /* i32 [T] */
    INPUT_STARTS,    /* i32 [documents + 1] */
    INPUT_TARGETS,   /* i32 [T], -1: none; pad with 0xff */
    INPUT_WEIGHTS,   /* f32 [T], what each target's -log p counts in the loss; evaluate ignores
                        it */
    TRAIN_INPUTS
};
/* Inputs of a generate program; the first three are the same. */
enum {
    INPUT_PAST = 3,     /* i32 [documents], keys that are already in the cache */
    INPUT_SELECTED = 4, /* i32 [selected], rows whose logits are wanted */
    GENERATE_INPUTS
};

/* Forward, head_cross_entropy, loss_sum into d->total; derived backward. */
status decoder_record_train(const decoder *d, program **out, int64_t capacity);
/* Forward only; output "logp" f32 [T, 1]. Without `adapters`: the reference model. */
status decoder_record_evaluate(const decoder *d, program **out, int64_t capacity,
                               bool adapters);

typedef struct generate_shape {
    int64_t capacity;   /* rows of one run: prompts' tokens, or one per sequence */
    int64_t sequences;  /* documents at most */
    int64_t cache_rows; /* tokens of one sequence at most */
    int64_t selected;   /* rows of logits at most */
} generate_shape;
/* Forward with key-value cache; output "logits" f32 [selected, V]. */
status decoder_record_generate(const decoder *d, program **out, const generate_shape *shape,
                               bool adapters);
/* One adamw record per trainable; a template per kind of layer. */
status decoder_record_update(const decoder *d, program **out);
/* One square_sum record per trainable. */
status decoder_record_norm(const decoder *d, program **out);

/* Reads total and, unless NULL, squares [trainable_count] from the device. */
status decoder_read_sums(const decoder *d, engine *e, double total[2], double *squares);
/* Writes what is neither the base's nor the adapter's: the rope table, zero totals. Once,
 * after engine_open. */
status decoder_load_tables(const decoder *d, engine *e);
/* Zeroes d->total before a group. */
status decoder_clear_total(const decoder *d, engine *e);

#endif
