/* adapter.cu: see adapter.h.
 *
 * down: a block of four warps makes 16 rows; each warp takes every fourth piece of 32 columns
 * and the four sums are added in order. No shared memory stands between: a sum over k may visit k
 * in any order as long as both operands do, so a thread gives the eight elements of one 16-byte
 * load to its four places of two fragments.
 *
 *   lane 4g + t loads x[g][32i + 8t .. +7]   words 0 1 -> product 1, words 2 3 -> product 2
 *   and         A[g][32i + 8t .. +7]         the same
 *
 * sum: a block makes 64 columns x up to 64 ranks of one split. Tiles of 64 rows go through
 * registers (where dropout masks them) into shared memory while the tile before is multiplied. */
#include "autograd/cuda/adapter.h"
#include "autograd/cuda/dropout.h"
#include "autograd/cuda/rows.h"

enum {
    WARPS = 4,
    DOWN_ROWS = 16,
    DEPTH = 32,           /* columns that a warp takes at a time */
    SUM_COLS = 64,        /* of a block */
    SUM_ROWS = 64,        /* of a tile */
    PITCH = SUM_COLS + 8, /* elements: 8 rows of 16 bytes fall into different banks */
    TERMS = 3,
    PLAIN = 8, /* ranks at a time without tensor cores */
};

/* ---- masking ---- */

/* Zeroes the dropped ones of eight 16-bit elements; what is kept is multiplied at the end. */
static __device__ __forceinline__ void mask_bits(const dropout &d, int64_t row, int64_t col,
                                                 uint4 *bits) {
    if (!d.on) return;
    float kept[8];
    unsigned *word = (unsigned *)bits;
#pragma unroll
    for (int i = 0; i < 8; i++) kept[i] = 1.0f;
    dropout_piece<8>(d, row, col, kept);
#pragma unroll
    for (int i = 0; i < 4; i++)
        word[i] &= (kept[2 * i] > 0 ? 0xffffu : 0u) | (kept[2 * i + 1] > 0 ? 0xffff0000u : 0u);
}

/* ---- down ---- */

/* A piece of row `row`, or zeros. */
template <typename T>
static __device__ __forceinline__ uint4 row_piece(const matrix<T> &m, int64_t row,
                                                  int64_t rows, int64_t col, int64_t cols) {
    if (row >= rows || col >= cols) return make_uint4(0, 0, 0, 0);
    return piece_load(m, row, col, cols).bits;
}

template <typename T>
static __device__ __forceinline__ void keep_piece(const matrix<T> &to, int64_t row,
                                                  int64_t rows, int64_t col, int64_t cols,
                                                  uint4 bits) {
    piece<T> p;
    p.bits = bits;
    if (row < rows && col < cols) piece_store(to, row, col, cols, p);
}

template <typename T, int tiles>
__global__ void __launch_bounds__(WARPS *WARP)
    down_kernel(matrix<T> x, matrix<T> w, int64_t rows, int64_t cols, int64_t r, float scale,
                dropout drop, matrix<T> copy, float *out) {
    SHARED(memory);
    float(*sums)[DOWN_ROWS][8 * tiles] = (float(*)[DOWN_ROWS][8 * tiles]) memory;
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    int g = lane / 4, t = lane % 4;
    int64_t row = (int64_t)blockIdx.x * DOWN_ROWS, first = (int64_t)blockIdx.y * 8 * tiles;
    float acc[tiles][4] = {};
#pragma unroll 2
    for (int64_t k = (int64_t)warp * DEPTH; k < cols; k += WARPS * DEPTH) {
        int64_t col = k + 8 * t;
        uint4 low = row_piece(x, row + g, rows, col, cols);
        uint4 high = row_piece(x, row + g + 8, rows, col, cols);
        uint4 with[tiles];
#pragma unroll
        for (int j = 0; j < tiles; j++)
            with[j] = row_piece(w, first + 8 * j + g, r, col, cols);
        if (copy.at && blockIdx.y == 0) {
            keep_piece(copy, row + g, rows, col, cols, low);
            keep_piece(copy, row + g + 8, rows, col, cols, high);
        }
        mask_bits(drop, row + g, col, &low);
        mask_bits(drop, row + g + 8, col, &high);
        uint32_t one[4] = {low.x, high.x, low.y, high.y};
        uint32_t two[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
        for (int j = 0; j < tiles; j++) {
            uint32_t b_one[2] = {with[j].x, with[j].y}, b_two[2] = {with[j].z, with[j].w};
            mma_16816<T>(acc[j], one, b_one);
            mma_16816<T>(acc[j], two, b_two);
        }
    }
#pragma unroll
    for (int j = 0; j < tiles; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            sums[warp][g + (i / 2) * 8][8 * j + 2 * t + i % 2] = acc[j][i];
    __syncthreads();
    float factor = drop.on ? scale * drop.keep : scale;
    for (int i = (int)threadIdx.x; i < DOWN_ROWS * 8 * tiles; i += WARPS * WARP) {
        int at_row = i / (8 * tiles), at = i % (8 * tiles);
        float sum = 0;
#pragma unroll
        for (int s = 0; s < WARPS; s++) sum += sums[s][at_row][at];
        if (row + at_row < rows && first + at < r)
            out[(row + at_row) * r + first + at] = factor * sum;
    }
}

/* One warp per row and PLAIN ranks. */
template <typename T>
__global__ void down_plain_kernel(matrix<T> x, matrix<T> w, int64_t rows, int64_t cols,
                                  int64_t r, float scale, dropout drop, float *out) {
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    int64_t first = (int64_t)blockIdx.y * PLAIN;
    int lane = (int)threadIdx.x % WARP;
    float acc[PLAIN] = {};
    for (int64_t col = 4 * lane; row < rows && col < cols; col += 4 * WARP) {
        float piece[4];
        for (int i = 0; i < 4; i++)
            piece[i] = col + i < cols ? to_f32<T>(x.at[row * x.stride + col + i]) : 0.0f;
        dropout_piece<4>(drop, row, col, piece);
        for (int j = 0; j < PLAIN && first + j < r; j++)
            for (int i = 0; i < 4 && col + i < cols; i++)
                acc[j] =
                    fmaf(piece[i], to_f32<T>(w.at[(first + j) * w.stride + col + i]), acc[j]);
    }
    for (int j = 0; j < PLAIN; j++) {
        float sum = warp_sum(acc[j]);
        if (lane == 0 && row < rows && first + j < r) out[row * r + first + j] = scale * sum;
    }
}

/* Rows that begin `ld` elements apart. */
template <typename T> static matrix<T> rows_at(const void *at, int64_t ld) {
    return (matrix<T>){(T *)at, ld,
                       (uintptr_t)at % 16 == 0 && ld * (int64_t)sizeof(T) % 16 == 0};
}

template <typename T, int tiles>
static void launch_down(backend *b, const adapter_wide *wide, const void *w, int64_t r,
                        float scale, float *out) {
    const tensor *t = &wide->t;
    dim3 grid((unsigned)ceil_div(t->rows, DOWN_ROWS), (unsigned)ceil_div(r, 8 * tiles));
    LAUNCH((down_kernel<T, tiles>), grid, WARPS * WARP,
           sizeof(float) * WARPS * DOWN_ROWS * 8 * tiles, cuda_stream(b), matrix_of<T>(t),
           rows_at<T>(w, t->cols), t->rows, t->cols, r, scale, wide->drop,
           rows_at<T>(wide->copy, wide->ld), out);
}

template <typename T>
static void launch_down_plain(backend *b, const adapter_wide *wide, const void *w, int64_t r,
                              float scale, float *out) {
    const tensor *t = &wide->t;
    dim3 grid((unsigned)ceil_div(t->rows, WARPS), (unsigned)ceil_div(r, PLAIN));
    LAUNCH((down_plain_kernel<T>), grid, WARPS * WARP, 0, cuda_stream(b), matrix_of<T>(t),
           rows_at<T>(w, t->cols), t->rows, t->cols, r, scale, wide->drop, out);
}

template <typename T>
static void down_16(backend *b, const adapter_wide *wide, const void *w, int64_t r,
                    float scale, float *out) {
    if (r <= 8)
        launch_down<T, 1>(b, wide, w, r, scale, out);
    else if (r <= 16)
        launch_down<T, 2>(b, wide, w, r, scale, out);
    else
        launch_down<T, 4>(b, wide, w, r, scale, out);
}

status cuda_adapter_down(backend *b, const adapter_wide *wide, const void *w, int64_t r,
                         float scale, float *out) {
    if (wide->t.rows == 0 || r == 0) return STATUS_OK;
    if (wide->t.type == DTYPE_BF16)
        down_16<bf16>(b, wide, w, r, scale, out);
    else if (wide->t.type == DTYPE_F16)
        down_16<f16>(b, wide, w, r, scale, out);
    else {
        if (wide->copy) TRY(cuda_rows_copy(b, &wide->t, wide->copy, wide->ld));
        launch_down_plain<float>(b, wide, w, r, scale, out);
    }
    return CUDA_LAUNCHED(b, "an adapter's product");
}

/* ---- transposing ---- */

template <typename T>
__global__ void turn_kernel(matrix<T> t, int64_t rows, int64_t cols, T *turned) {
    int64_t row = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    for (int64_t col = 0; col < cols; col++)
        turned[col * rows + row] = t.at[row * t.stride + col];
}

template <typename T> static void launch_turn(backend *b, const tensor *t, void *turned) {
    LAUNCH((turn_kernel<T>), (unsigned)ceil_div(t->rows, 128), 128, 0, cuda_stream(b),
           matrix_of<T>(t), t->rows, t->cols, (T *)turned);
}

status cuda_adapter_turn(backend *b, const tensor *t, void *turned) {
    if (t->rows == 0) return STATUS_OK;
    if (t->type == DTYPE_F32)
        launch_turn<float>(b, t, turned);
    else
        launch_turn<uint16_t>(b, t, turned);
    return CUDA_LAUNCHED(b, "an adapter's transpose");
}

/* ---- sums over rows ---- */

/* Where element (column, rank) of a partial sum stands. */
static __device__ __forceinline__ int64_t place(bool as_rows, int64_t col, int64_t cols,
                                                int64_t rank, int64_t r) {
    return as_rows ? rank * cols + col : col * r + rank;
}

/* A tile of thin as terms [term][rank][row]. */
template <int tiles>
static __device__ __forceinline__ void load_terms(const float *thin, int64_t row, int64_t end,
                                                  int64_t first, int64_t r,
                                                  bf16 (*terms)[8 * tiles][PITCH]) {
    for (int i = (int)threadIdx.x; i < SUM_ROWS * 8 * tiles; i += WARPS * WARP) {
        int at = i / (8 * tiles), rank = i % (8 * tiles);
        float x = row + at < end && first + rank < r ? thin[(row + at) * r + first + rank] : 0;
#pragma unroll
        for (int term = 0; term < TERMS; term++) {
            bf16 part = __float2bfloat16_rn(x);
            terms[term][rank][at] = part;
            x -= __bfloat162float(part);
        }
    }
}

enum { TILE_PIECES = SUM_ROWS * SUM_COLS / 8 / (WARPS * WARP) /* per thread */ };

/* This thread's pieces of the tile that begins at `row`, masked. */
static __device__ __forceinline__ void load_tile(const matrix<bf16> &x, int64_t row,
                                                 int64_t end, int64_t col, int64_t cols,
                                                 const dropout &drop,
                                                 uint4 pieces[TILE_PIECES]) {
#pragma unroll
    for (int i = 0; i < TILE_PIECES; i++) {
        int at = (int)threadIdx.x + i * WARPS * WARP;
        pieces[i] = row_piece(x, row + at / 8, end, col + at % 8 * 8, cols);
    }
#pragma unroll
    for (int i = 0; i < TILE_PIECES; i++) {
        int at = (int)threadIdx.x + i * WARPS * WARP;
        mask_bits(drop, row + at / 8, col + at % 8 * 8, &pieces[i]);
    }
}

/* acc += tile^T terms: each warp 16 columns, all ranks of the block. */
template <int tiles>
static __device__ __forceinline__ void multiply_tile(const bf16 (*wide)[PITCH],
                                                     const bf16 (*terms)[8 * tiles][PITCH],
                                                     float acc[tiles][4]) {
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int k = 0; k < SUM_ROWS; k += 16) {
        uint32_t a[4];
        ldmatrix_x4_trans(
            a, &wide[k + (lane >> 4) * 8 + (lane & 7)][warp * 16 + ((lane >> 3) & 1) * 8]);
#pragma unroll
        for (int j = 0; j < tiles; j++)
#pragma unroll
            for (int term = 0; term < TERMS; term++) {
                const bf16 *at = &terms[term][8 * j + g][k + 2 * t];
                uint32_t b[2] = {*(const uint32_t *)at, *(const uint32_t *)(at + 8)};
                mma_16816<bf16>(acc[j], a, b);
            }
    }
}

template <int tiles>
__global__ void __launch_bounds__(WARPS *WARP)
    sum_kernel(matrix<bf16> x, const float *thin, int64_t rows, int64_t cols, int64_t r,
               bool as_rows, dropout drop, float *out) {
    SHARED(memory);
    bf16(*wide)[PITCH] = (bf16(*)[PITCH])memory;
    bf16(*terms)[8 * tiles][PITCH] =
        (bf16(*)[8 * tiles][PITCH])(memory + sizeof(bf16) * SUM_ROWS * PITCH);
    int64_t col = (int64_t)blockIdx.x * SUM_COLS, first = (int64_t)blockIdx.z * 8 * tiles;
    int64_t row = (int64_t)blockIdx.y * ADAPTER_SPLIT, end = row + ADAPTER_SPLIT;
    if (end > rows) end = rows;
    float acc[tiles][4] = {};
    uint4 pieces[TILE_PIECES];
    load_tile(x, row, end, col, cols, drop, pieces);
    for (; row < end; row += SUM_ROWS) {
#pragma unroll
        for (int i = 0; i < TILE_PIECES; i++) {
            int at = (int)threadIdx.x + i * WARPS * WARP;
            *(uint4 *)&wide[at / 8][at % 8 * 8] = pieces[i];
        }
        load_terms<tiles>(thin, row, end, first, r, terms);
        __syncthreads();
        load_tile(x, row + SUM_ROWS, end, col, cols, drop, pieces);
        multiply_tile<tiles>(wide, terms, acc);
        __syncthreads();
    }
    int lane = (int)threadIdx.x % WARP;
    int64_t own = col + threadIdx.x / WARP * 16 + lane / 4;
    float factor = drop.on ? drop.keep : 1.0f;
    out += (int64_t)blockIdx.y * r * cols;
    for (int j = 0; j < tiles; j++)
        for (int i = 0; i < 4; i++) {
            int64_t c = own + i / 2 * 8, rank = first + 8 * j + 2 * (lane % 4) + i % 2;
            if (c < cols && rank < r)
                out[place(as_rows, c, cols, rank, r)] = factor * acc[j][i];
        }
}

/* One thread per column and PLAIN ranks. */
template <typename T>
__global__ void sum_plain_kernel(matrix<T> x, const float *thin, int64_t rows, int64_t cols,
                                 int64_t r, bool as_rows, dropout drop, float *out) {
    int64_t col = (int64_t)blockIdx.x * SUM_COLS + threadIdx.x;
    int64_t first = (int64_t)blockIdx.z * PLAIN;
    int64_t row = (int64_t)blockIdx.y * ADAPTER_SPLIT, end = row + ADAPTER_SPLIT;
    if (end > rows) end = rows;
    if (col >= cols) return;
    float acc[PLAIN] = {};
    for (; row < end; row++) {
        float value = to_f32<T>(x.at[row * x.stride + col]);
        if (drop.on) {
            uint64_t e = (uint64_t)(row * drop.width + col);
            uint4 w = dropout_words(drop, e / 4);
            value = dropout_one(drop,
                                e % 4 == 0   ? w.x
                                : e % 4 == 1 ? w.y
                                : e % 4 == 2 ? w.z
                                             : w.w,
                                value);
        }
        for (int j = 0; j < PLAIN && first + j < r; j++)
            acc[j] = fmaf(value, thin[row * r + first + j], acc[j]);
    }
    out += (int64_t)blockIdx.y * r * cols;
    for (int j = 0; j < PLAIN && first + j < r; j++)
        out[place(as_rows, col, cols, first + j, r)] = acc[j];
}

/* gradient += the splits, in order. */
__global__ void sum_finish_kernel(const float *parts, int64_t splits, int64_t n,
                                  float *gradient) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float sum = 0;
    for (int64_t s = 0; s < splits; s++) sum += parts[s * n + i];
    gradient[i] += sum;
}

template <int tiles>
static void launch_sum(backend *b, const adapter_wide *wide, const float *thin, int64_t r,
                       bool as_rows, float *space) {
    const tensor *t = &wide->t;
    dim3 grid((unsigned)ceil_div(t->cols, SUM_COLS),
              (unsigned)ceil_div(t->rows, ADAPTER_SPLIT), (unsigned)ceil_div(r, 8 * tiles));
    LAUNCH((sum_kernel<tiles>), grid, WARPS * WARP,
           sizeof(bf16) * PITCH * (SUM_ROWS + TERMS * 8 * tiles), cuda_stream(b),
           matrix_of<bf16>(t), thin, t->rows, t->cols, r, as_rows, wide->drop, space);
}

template <typename T>
static void launch_sum_plain(backend *b, const adapter_wide *wide, const float *thin,
                             int64_t r, bool as_rows, float *space) {
    const tensor *t = &wide->t;
    dim3 grid((unsigned)ceil_div(t->cols, SUM_COLS),
              (unsigned)ceil_div(t->rows, ADAPTER_SPLIT), (unsigned)ceil_div(r, PLAIN));
    LAUNCH((sum_plain_kernel<T>), grid, SUM_COLS, 0, cuda_stream(b), matrix_of<T>(t), thin,
           t->rows, t->cols, r, as_rows, wide->drop, space);
}

status cuda_adapter_sum(backend *b, const adapter_wide *wide, const float *thin, int64_t r,
                        bool as_rows, float *gradient, float *space) {
    const tensor *t = &wide->t;
    int64_t n = t->cols * r;
    if (t->rows == 0 || n == 0) return STATUS_OK;
    if (t->type == DTYPE_F32)
        launch_sum_plain<float>(b, wide, thin, r, as_rows, space);
    else if (t->type == DTYPE_F16)
        launch_sum_plain<f16>(b, wide, thin, r, as_rows, space);
    else if (r <= 8)
        launch_sum<1>(b, wide, thin, r, as_rows, space);
    else if (r <= 16)
        launch_sum<2>(b, wide, thin, r, as_rows, space);
    else
        launch_sum<4>(b, wide, thin, r, as_rows, space);
    LAUNCH(sum_finish_kernel, (unsigned)ceil_div(n, 256), 256, 0, cuda_stream(b), space,
           ceil_div(t->rows, ADAPTER_SPLIT), n, gradient);
    return CUDA_LAUNCHED(b, "an adapter's gradient");
}
