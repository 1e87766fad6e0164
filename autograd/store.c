/* store.c: see store.h. */
#include "autograd/store.h"

static int64_t row_bytes(const slot *q) {
    return q->format.cols * dtype_bits(q->format.type) / 8;
}

void store_choose(const template_ *t, const derivation *d, activation_mode mode, bool *stored,
                  bool *rerun) {
    if (!d->count) return;
    bool needed[TEMPLATE_SLOTS] = {false};
    for (size_t s = 0; s < t->slot_count; s++)
        needed[s] = d->needed[s] && t->slots[s].kind == SLOT_ACTIVATION;
    for (size_t r = t->record_count; r-- > 0;) {
        const record *rec = &t->records[r];
        const operation_row *row = operation_get(rec->op);
        int64_t spares = 0, costs = 0;
        for (int o = 0; o < row->outputs; o++)
            if (rec->out[o] >= 0 && needed[rec->out[o]])
                spares += row_bytes(&t->slots[rec->out[o]]);
        if (!spares || row->fused_backward) continue;
        for (int k = 0; k < row->inputs; k++) {
            slot_id s = rec->in[k];
            if (s >= 0 && t->slots[s].kind == SLOT_ACTIVATION && !needed[s])
                costs += row_bytes(&t->slots[s]);
        }
        rerun[r] = mode == ACTIVATIONS_RECOMPUTE || (row->cheap && costs < spares);
        for (int o = 0; o < row->outputs && !rerun[r]; o++)
            if (rec->out[o] >= 0 && needed[rec->out[o]]) stored[rec->out[o]] = true;
        for (int k = 0; k < row->inputs && rerun[r]; k++) {
            slot_id s = rec->in[k];
            if (s >= 0 && t->slots[s].kind == SLOT_ACTIVATION) needed[s] = true;
        }
    }
}
