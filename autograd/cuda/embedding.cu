/* embedding.cu: OP_EMBEDDING, a gather of rows (the table may lie in pinned host memory) and
 * its scatter.
 *
 * An id outside the table (the -1 of bucket padding) gives a row of zeros and no gradient. For
 * the scatter each row's place in the order of (id, row) is counted by comparing it with all
 * others, T^2 comparisons (10 us at 8,192 rows, 2.4 ms at 131,072 by arithmetic); then the
 * rows of one id lie together in their order, and one block adds them up in registers: the
 * CPU's bits, without atomics. */
#include "autograd/cuda/rows.h"

enum { SORT_THREADS = 128, AHEAD = 8 /* rows whose pieces are asked for together */ };

/* ---- forward ---- */

template <typename T> struct embedding_call {
    matrix<T> w, y;   /* [V, H], [rows, H]; of a backward y is dy */
    matrix<float> dw; /* [V, H] */
    const int32_t *ids;
    int64_t vocabulary, cols, per_row, rows;
    float scale; /* 0: none */
};

template <typename T, int n>
static __global__ void __launch_bounds__(ROW_THREADS) gather(embedding_call<T> c) {
    row_place at = row_place_of(c.per_row, n);
    int64_t id = c.ids[at.row];
    bool known = id >= 0 && id < c.vocabulary;
    pack<T, n> p = pack_load<n>(c.w, known ? id : 0, at.col, known ? c.cols : 0);
    if (c.scale != 0) {
        float x[n];
        pack_widen(p, x);
        UNROLL
        for (int i = 0; i < n; i++) x[i] *= c.scale;
        p = pack_narrow<T, n>(x);
    }
    pack_store(c.y, at.row, at.col, c.cols, p);
}

template <typename T> static embedding_call<T> call_of(const op_call *call, const tensor *y) {
    embedding_call<T> c = {};
    c.y = matrix_of<T>(y);
    c.ids = (const int32_t *)call->in[EMBEDDING_IDS].data;
    c.cols = y->cols, c.rows = call->rows;
    c.scale = call->attr->embedding.scale;
    return c;
}

template <typename T> static bool is_wide(const embedding_call<T> &c) {
    return c.w.wide && c.y.wide && c.dw.wide && whole_pieces<T>(c.cols);
}

template <typename T, int n> static void launch_gather(backend *b, embedding_call<T> c) {
    row_grid g = row_grid_of(c.rows, c.cols, n);
    c.per_row = g.per_row;
    LAUNCH((gather<T, n>), (unsigned)g.blocks, g.threads, 0, cuda_stream(b), c);
}

template <typename T> static status forward(backend *b, const op_call *call) {
    const tensor *w = &call->in[EMBEDDING_W];
    embedding_call<T> c = call_of<T>(call, &call->out[0]);
    c.w = matrix_of<T>(w), c.vocabulary = w->rows;
    is_wide(c) ? launch_gather<T, piece<T>::count>(b, c) : launch_gather<T, 1>(b, c);
    return CUDA_LAUNCHED(b, "embedding");
}

status cuda_embedding_forward(backend *b, const op_call *call) {
    static const by_type run = {forward<float>, forward<bf16>, forward<f16>};
    return call->rows ? run[call->compute](b, call) : STATUS_OK;
}

/* ---- backward ---- */

/* order[place] = row and sorted[place] = its id, by (id, row); ids count as unsigned, so that
 * -1 comes last. */
static __global__ void __launch_bounds__(SORT_THREADS)
    sort_rows(const int32_t *ids, int64_t rows, int32_t *order, int32_t *sorted) {
    int64_t row = (int64_t)blockIdx.x * SORT_THREADS + threadIdx.x, place = 0;
    if (row >= rows) return;
    uint32_t id = (uint32_t)ids[row];
    for (int64_t i = 0; i < row; i++) place += (uint32_t)ids[i] <= id;
    for (int64_t i = row + 1; i < rows; i++) place += (uint32_t)ids[i] < id;
    order[place] = (int32_t)row;
    sorted[place] = (int32_t)id;
}

/* dW[id] += scale * dy[row] over the rows of one id in order: the block at the id's first
 * place does it, the others have nothing to do. */
template <typename T, int n>
static __global__ void __launch_bounds__(ROW_THREADS)
    scatter(embedding_call<T> c, const int32_t *order, const int32_t *sorted) {
    const int step = n < 4 ? n : 4; /* f32 in 16 bytes */
    row_place at = row_place_of(c.per_row, n);
    int32_t id = sorted[at.row];
    bool first = at.row == 0 || sorted[at.row - 1] != id;
    if (!first || id < 0 || id >= c.vocabulary || at.col >= c.cols) return;
    float sum[n];
    UNROLL
    for (int i = 0; i < n; i += step)
        pack_widen(pack_load<step>(c.dw, id, at.col + i, c.cols), sum + i);
    bool more = true;
    for (int64_t k = at.row; more; k += AHEAD) {
        pack<T, n> p[AHEAD];
        bool same[AHEAD];
        UNROLL
        for (int j = 0; j < AHEAD; j++) {
            same[j] = k + j < c.rows && sorted[k + j] == id;
            p[j] = pack_load<n>(c.y, order[same[j] ? k + j : k], at.col, c.cols);
        }
        UNROLL
        for (int j = 0; j < AHEAD; j++) {
            float x[n];
            pack_widen(p[j], x);
            UNROLL
            for (int i = 0; i < n; i++)
                if (same[j]) sum[i] = __fadd_rn(sum[i], __fmul_rn(c.scale, x[i]));
        }
        more = same[AHEAD - 1] && k + AHEAD < c.rows && sorted[k + AHEAD] == id;
    }
    UNROLL
    for (int i = 0; i < n; i += step)
        pack_store(c.dw, id, at.col + i, c.cols, pack_narrow<float, step>(sum + i));
}

template <typename T, int n>
static void launch_scatter(backend *b, embedding_call<T> c, const int32_t *order,
                           const int32_t *sorted) {
    row_grid g = row_grid_of(c.rows, c.cols, n);
    c.per_row = g.per_row;
    LAUNCH((scatter<T, n>), (unsigned)g.blocks, g.threads, 0, cuda_stream(b), c, order,
           sorted);
}

template <typename T> static status backward(backend *b, const op_call *call) {
    const tensor *dw = &call->gin[EMBEDDING_W];
    embedding_call<T> c = call_of<T>(call, &call->gout[0]);
    int32_t *order = (int32_t *)call->scratch, *sorted = order + call->rows;
    c.dw = matrix_of<float>(dw), c.vocabulary = dw->rows;
    if (c.scale == 0) c.scale = 1;
    LAUNCH(sort_rows, (unsigned)ceil_div(c.rows, SORT_THREADS), SORT_THREADS, 0,
           cuda_stream(b), c.ids, c.rows, order, sorted);
    is_wide(c) ? launch_scatter<T, piece<T>::count>(b, c, order, sorted)
               : launch_scatter<T, 1>(b, c, order, sorted);
    return CUDA_LAUNCHED(b, "embedding backward");
}

status cuda_embedding_backward(backend *b, const op_call *call) {
    static const by_type run = {backward<float>, backward<bf16>, backward<f16>};
    bool wanted = call->rows && call->gout[0].data && call->gin[EMBEDDING_W].data;
    return wanted ? run[call->compute](b, call) : STATUS_OK;
}
