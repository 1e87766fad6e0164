/* card.h: NVIDIA cards by name, to plan for one that is not here: its memory, and the rates that
 * are to be expected of it. What operations need on it is cuda/sizes.h's, so such a plan's
 * addresses and peaks are those of a run there; its seconds are an estimate. */
#ifndef NIBBLE_AUTOGRAD_CARD_H
#define NIBBLE_AUTOGRAD_CARD_H

#include "autograd/backend.h"

typedef struct card {
    const char *name;      /* "rtx-4090" */
    int capability;        /* 89 */
    int64_t memory;        /* MiB that its driver shows, ECC on where that is the default */
    double products;       /* TFLOP/s of the datasheet: dense bf16, sums in f32 */
    double bandwidth, bus; /* GB/s of memory; GB/s of PCIe one way */
} card;

/* By name, letters of either case; NULL: not known. */
const card *card_find(const char *name);
/* "rtx-3090, rtx-4090, ..." */
void card_list(char *text, size_t bytes);
/* A back end that plans for the card and computes nothing. */
status backend_card_open(backend **out, const card *c);

#endif
