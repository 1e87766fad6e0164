/* layout.h: the tensors that a model's files hold, by name and shape: what config.json
 * promises.
 *
 * Reading checks files against it, exporting writes it. Order: embedding, layers (linears,
 * biases, norms), final norm, head. */
#ifndef NIBBLE_TRAINER_MODEL_LAYOUT_H
#define NIBBLE_TRAINER_MODEL_LAYOUT_H

#include "trainer/model/model_config.h"

enum { LAYOUT_NAME_MAX = 96 };

typedef struct layout_tensor {
    char name[LAYOUT_NAME_MAX]; /* "model.layers.3.self_attn.q_proj.weight" */
    int rank;                   /* 1: [cols]; 2: [rows, cols] */
    int64_t rows, cols;         /* rank 1: rows == 1 */
    int32_t layer;              /* -1: embedding, final norm, head */
    int module;                 /* linear_module of a linear's weight; else -1 */
} layout_tensor;

typedef struct model_layout {
    layout_tensor *tensors;
    size_t count, capacity;
} model_layout;

/* `tied`: there is no lm_head.weight. */
status model_layout_make(model_layout *out, const model_config *c, bool tied);
void model_layout_free(model_layout *l);

#define LAYOUT_EMBEDDING "model.embed_tokens.weight"
#define LAYOUT_NORM      "model.norm.weight"
#define LAYOUT_HEAD      "lm_head.weight"

#endif
