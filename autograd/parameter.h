/* parameter.h: everything that outlives a step: weights, adapters, gradients, optimizer
 * states, tables. One table per run, shared by all its programs.
 *
 * A parameter is a format in a page; a page is what the pager moves as one piece: all
 * parameters of one class and one layer, laid out here, once. Where a page lives (device,
 * host, disk) is the plan's decision, not the table's. 8B: a layer's base page is 112.5 MB,
 * 70B: 441 MB. */
#ifndef NIBBLE_AUTOGRAD_PARAMETER_H
#define NIBBLE_AUTOGRAD_PARAMETER_H

#include "autograd/tensor.h"

/* What a byte is for. The plan's table and the arena's accounting go by these. */
typedef enum mem_class {
    MEM_BASE,       /* frozen layer weights; layers' norms and biases too */
    MEM_EMBEDDING,  /* embedding, head, final norm: on the device, but what is `gathered` */
    MEM_ADAPTER,    /* working copies that the operations read, compute type */
    MEM_GRADIENT,   /* f32, one contiguous range in a fixed order */
    MEM_OPTIMIZER,  /* f32 masters and moments (or 8-bit moments) */
    MEM_STATE,      /* rope tables, loss totals, norms */
    MEM_ACTIVATION, /* between the operations of a program */
    MEM_CACHE,      /* key-value cache of generation */
    MEM_INPUT,      /* ids, targets, positions */
    MEM_WORKSPACE,  /* an operation's scratch */
    MEM_CLASS_COUNT
} mem_class;

const char *mem_class_name(mem_class c);

typedef int32_t parameter_id;
enum { PARAMETER_NONE = -1 };

typedef struct parameter {
    char *name; /* "model.layers.3.self_attn.q_proj.weight" */
    tensor_format format;
    int64_t bytes;
    int32_t page;
    int64_t offset;        /* in its page */
    parameter_id gradient; /* whose data is this one's gradient; PARAMETER_NONE: frozen */
} parameter;

typedef struct page {
    mem_class class;
    int32_t group; /* layer; below 0: of none */
    int64_t bytes;
    bool written; /* by a program (optimizer states): must be written back when it leaves */
    bool
        gathered; /* operations only read single rows of it, which a card does from the host too */
} page;

typedef struct parameter_table {
    parameter *items;
    size_t count, capacity;
    page *pages;
    size_t page_count, page_capacity;
    int32_t last[MEM_CLASS_COUNT]; /* the class's page of the highest group; -1: none */
    int64_t alignment;             /* of every parameter in its page, a power of two */
} parameter_table;

/* alignment: the back end's. */
void parameter_table_init(parameter_table *t, int64_t alignment);
void parameter_table_free(parameter_table *t);

/* Adds a parameter to the page of (class, group), made when new. The name is copied. */
status parameter_add(parameter_table *t, const char *name, tensor_format format,
                     mem_class class, int32_t group, parameter_id *out);
/* PARAMETER_NONE when there is no such name. Linear. */
parameter_id parameter_find(const parameter_table *t, const char *name);
void parameter_set_gathered(parameter_table *t, parameter_id id); /* its whole page */
/* `of` is trainable; its gradient accumulates in `gradient` (f32, same rows x cols). */
void parameter_set_gradient(parameter_table *t, parameter_id of, parameter_id gradient);

#endif
