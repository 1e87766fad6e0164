/* card.c: see card.h. Figures are the makers' datasheets, memory is what nvidia-smi shows. */
#include "autograd/card.h"
#include "autograd/cuda/sizes.h"
#include "common/alloc.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static const card cards[] = {
    {"rtx-3090", 86, 24576, 71, 936, 25},    {"rtx-4080", 89, 16376, 97.5, 717, 25},
    {"rtx-4090", 89, 24564, 165, 1008, 25},  {"rtx-5090", 120, 32607, 209.5, 1792, 50},
    {"a10", 86, 23028, 125, 600, 25},        {"l4", 89, 23034, 121, 300, 25},
    {"a6000", 86, 49140, 155, 768, 25},      {"rtx-6000-ada", 89, 49140, 364, 960, 25},
    {"l40s", 89, 46068, 362, 864, 25},       {"a100-40gb", 80, 40536, 312, 1555, 25},
    {"a100-80gb", 80, 81920, 312, 2039, 25}, {"h100", 90, 81559, 989, 3350, 50},
    {"h200", 90, 143771, 989, 4800, 50},
};
enum {
    CARDS = sizeof cards / sizeof *cards,
    CONTEXT = 900, /* MiB: context, kernels, library, and what backend.cu keeps free */
};

/* Large products were measured at 64 to 80 % of the datasheet (NUMERICS 5), copies at 85 to 92 %,
 * NVMe disks read 3 to 7 GB/s. */
static const double products_reached = 0.7, copies_reached = 0.88, disk_reached = 3e9;

const card *card_find(const char *name) {
    for (int i = 0; i < CARDS; i++)
        if (!strcasecmp(cards[i].name, name)) return &cards[i];
    return NULL;
}

void card_list(char *text, size_t bytes) {
    size_t at = 0;
    if (bytes) *text = 0;
    for (int i = 0; i < CARDS && at < bytes; i++)
        at += (size_t)snprintf(text + at, bytes - at, "%s%s", i ? ", " : "", cards[i].name);
}

/* ---- a back end that is not here ---- */

typedef struct card_backend {
    backend base;
    backend_table table;
    const card *card;
} card_backend;

static void card_close(backend *b) {
    mem_free(b);
}

static void card_describe(backend *b, char *text, size_t bytes) {
    const card *c = ((const card_backend *)b)->card;
    snprintf(text, bytes, "cuda: %s, sm_%d, planned for and not here\n", c->name,
             c->capability);
}

static status card_measure(backend *b, dtype compute, backend_rates *rates) {
    const card *c = ((const card_backend *)b)->card;
    double products = c->products * 1e12 * products_reached;
    *rates = (backend_rates){.gemm_flops = compute == DTYPE_F32
                                               ? products / 8
                                               : products, /* without tensor cores */
                             .copy_bytes = c->bandwidth * 1e9 * copies_reached,
                             .host_bytes = c->bus * 1e9,
                             .disk_bytes = disk_reached};
    return STATUS_OK;
}

static status card_sync(backend *b) {
    return STATUS_OK;
}

static status not_here(backend *b) {
    return status_fail(STATUS_DEVICE, "%s is planned for and not here",
                       ((const card_backend *)b)->card->name);
}
static status card_reserve(backend *b, bool host, int64_t bytes, void **base) {
    *base = NULL;
    return not_here(b);
}
static status card_operation(backend *b, const op_call *call) {
    return not_here(b);
}

status backend_card_open(backend **out, const card *c) {
    *out = NULL;
    card_backend *b = mem_alloc(sizeof *b, "a card");
    if (!b) return STATUS_MEMORY;
    uint32_t types = 1u << DTYPE_F32 | 1u << DTYPE_BF16 | 1u << DTYPE_F16;
    b->card = c;
    b->table = (backend_table){.name = "cuda",
                               .close = card_close,
                               .describe = card_describe,
                               .types = types,
                               .native_types = types,
                               .alignment = CUDA_ALIGN,
                               .reserve = card_reserve,
                               .scratch = cuda_scratch_bytes,
                               .measure = card_measure,
                               .sync = card_sync};
    for (int op = 0; op < OP_COUNT; op++) {
        b->table.forward[op] = card_operation;
        if (operation_get((operation)op)->has_backward) b->table.backward[op] = card_operation;
    }
    b->base = (backend){.table = &b->table,
                        .threads = 1,
                        .memory = (c->memory - CONTEXT) << 20,
                        .context = (int64_t)CONTEXT << 20};
    *out = &b->base;
    return STATUS_OK;
}
