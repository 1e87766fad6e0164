/* linear_few.c: OP_LINEAR for a few rows (decoding): W is read once and never written.
 *
 * Each row of W is dequantized piece by piece onto the stack and multiplied with every row of
 * x. The bound is dequantization and, for wide models, memory: 0.52 bytes per weight. */
#include "autograd/cpu/linear.h"

#include "common/checked.h"

enum { PIECE = 2048 /* elements of W on the stack */ };

void linear_few_take(scratch *s, const linear_size *z, int threads, linear_few *out) {
    out->x = scratch_take(s, 4 * z->rows * z->in);
    for (int k = 0; k < z->parts; k++) out->u[k] = scratch_take(s, 4 * z->rows * z->rank[k]);
    linear_adapters_take(s, z, threads, &out->adapters);
}

/* y[:, o] of one part for all rows. */
static void one_output(const op_call *c, const linear_size *z, const linear_few *at,
                       const adapter *p, const quant_view *view, int k, int64_t o,
                       const tensor *y) {
    const tensor *w = &c->in[linear_w(k)], *bias = &c->in[linear_bias(k)];
    float sum[LINEAR_FEW_ROWS] = {0}, piece[PIECE], offset = 0;
    bool ready = w->type == DTYPE_F32; /* W's own row serves */
    for (int64_t i = 0; i < z->in; i += PIECE) {
        int64_t n = min_i64(PIECE, z->in - i);
        if (!ready) weights_load(w, view, o, i, n, z->type, piece);
        weights_dots(ready ? cpu_at(w, o, i) : piece, at->x + i, z->in, z->rows, n, sum);
    }
    if (p->rank) weights_dots(p->b + o * p->rank, at->u[k], p->rank, z->rows, p->rank, sum);
    if (bias->data) cpu_load(bias, 0, o, 1, &offset);
    for (int64_t row = 0; row < z->rows; row++) {
        sum[row] += offset;
        cpu_store(y, row, o, 1, &sum[row]);
    }
}

status linear_few_forward(backend *b, const op_call *c, const linear_size *z,
                          const linear_few *at) {
    const tensor *x = &c->in[LINEAR_X];
    for (int64_t row = 0; row < z->rows; row++)
        cpu_load(x, row, 0, z->in, at->x + row * z->in);
    for (int k = 0; k < z->parts; k++) {
        adapter p = linear_adapter(c, z, &at->adapters, k);
        if (p.rank) TRY(adapter_down(b, &p, x, at->u[k], at->adapters.pieces));
        quant_view view = {0};
        if (z->made[k]) view = tensor_quant_view(&c->in[linear_w(k)]);
        tensor y = linear_part_of(&c->out[0], z, k);
        PARALLEL_FOR(b)
        for (int64_t o = 0; o < z->out[k]; o++) one_output(c, z, at, &p, &view, k, o, &y);
    }
    return STATUS_OK;
}
