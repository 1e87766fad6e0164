/* store.h: which values a layer stores for its backward pass, and which records it runs again.
 *
 * keep: walking the records in reverse, a needed output of a matrix product or of attention is
 * stored. A cheap record is run again instead when the inputs that this additionally stores
 * are smaller than the outputs that it spares: norms and GLU always, so that per token exactly
 * h, qkv, attention's y, o and gate|up are stored (8B: 47,104 values a layer, NUMERICS 5).
 * recompute: nothing but the carry. offload: as keep. */
#ifndef NIBBLE_AUTOGRAD_STORE_H
#define NIBBLE_AUTOGRAD_STORE_H

#include "autograd/schedule.h"

/* stored[slots] and rerun[records] are zeroed on entry. */
void store_choose(const template_ *t, const derivation *d, activation_mode mode, bool *stored,
                  bool *rerun);

#endif
