/* unroll.h: between schedule.c, which decides, and unroll.c, which writes steps: a program being
 * unrolled, an instance per layer. The first failure sticks. */
#ifndef NIBBLE_AUTOGRAD_UNROLL_H
#define NIBBLE_AUTOGRAD_UNROLL_H

#include "autograd/schedule.h"

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

/* Keeps the first failure; whether there is none so far. */
bool unroll_good(unroll *u, status s);
/* A buffer of the class that lives from step `first` on. */
buffer_id unroll_buffer(unroll *u, mem_class class, tensor_format f, int32_t first);
/* The buffer is in use at step `at`; nothing for parameters and absent ones. */
void unroll_touch(unroll *u, buffer_id id, int32_t at);
int32_t unroll_now(const unroll *u); /* the next step's number */

/* Emits the forward steps of instance i. */
void unroll_forward(unroll *u, int i);
/* Emits what is computed again, then the backward steps. `incoming`: the gradient of its
 * carry out; g: [slots] of scratch. Returns the gradient of its carry in, REF_NONE if nothing
 * flows on. */
buffer_id unroll_backward(unroll *u, instance *it, buffer_id incoming, buffer_id *g);

#endif
