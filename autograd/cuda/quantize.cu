/* quantize.cu: quantizing to 4 bits: see quantize.h.
 *
 * One pass over the weights: a thread holds a piece of 16 bytes, the 8 lanes of a block (16
 * for f32) find its largest magnitude by shuffles and store 4 bytes of codes each. Double
 * quantization follows on the scales, a 64th of the data: sums of parts, then one block of
 * threads per 256 scales, each folding the parts for itself. */
#include "autograd/cuda/quantize.h"

#include "autograd/cuda/codes.h"

enum { THREADS = QUANT_NEST };

/* ---- codes and scales ---- */

/* absmax [blocks]; codes or NULL. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    quantize_blocks(matrix<T> x, int64_t n, code_book given, uint8_t *codes, float *absmax) {
    SHARED(shared);
    code_book *book = (code_book *)shared;
    const int count = piece<T>::count;
    int64_t e = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * count;
    float v[count];
    piece_widen(piece_load(x, 0, e, n), v);
    code_book_share(given, book);
    __syncthreads();
    float scale = block_absmax<count>(v), inverse = __fdiv_rn(1.0f, scale);
    if (e >= n) return;
    if (e % QUANT_BLOCK == 0) absmax[e / QUANT_BLOCK] = scale;
    if (!codes) return;
    uint32_t word = 0;
    UNROLL
    for (int i = 0; i < count; i++) word |= code_find(book, v[i], inverse) << 4 * (i ^ 1);
    codes += e / 2;
    if (e + count > n) { /* the last bytes; of an odd count the last nibble is 0's code */
        for (int i = 0; e + 2 * i < n; i++) codes[i] = (uint8_t)(word >> 8 * i);
    } else if (count == 8) {
        *(uint32_t *)codes = word;
    } else {
        *(uint16_t *)codes = (uint16_t)word;
    }
}

template <typename T>
static status run_blocks(backend *b, const void *x, int64_t n, quant_type type, uint8_t *codes,
                         float *absmax) {
    int64_t blocks = ceil_div(n, THREADS * piece<T>::count);
    LAUNCH(quantize_blocks<T>, (unsigned)blocks, THREADS, sizeof(code_book), cuda_stream(b),
           matrix_flat<T>(x), n, code_book_of(type), codes, absmax);
    return CUDA_LAUNCHED(b, "quantization");
}

static status blocks_of(backend *b, const void *x, dtype from, int64_t n, quant_type type,
                        uint8_t *codes, float *absmax) {
    if (from == DTYPE_BF16) return run_blocks<bf16>(b, x, n, type, codes, absmax);
    if (from == DTYPE_F16) return run_blocks<f16>(b, x, n, type, codes, absmax);
    return run_blocks<float>(b, x, n, type, codes, absmax);
}

/* ---- double quantization ---- */

static __global__ void __launch_bounds__(THREADS)
    mean_parts(const float *absmax, int64_t blocks, double *parts) {
    SHARED(shared);
    double sum = 0;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < blocks;
         i += MEAN_PARTS * THREADS)
        sum += (double)absmax[i];
    sum = block_sum_f64(sum, (double *)shared);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

/* What one block of threads shares. */
typedef struct nest_space {
    float map[DYNAMIC_CODES], node[DYNAMIC_CODES];
    double fold[THREADS];
    float offset, largest[THREADS / WARP];
} nest_space;

/* What nesting writes; NULL: not wanted. `scales` may be the absmax that are read. */
typedef struct nest_result {
    uint8_t *codes;
    float *absmax2, *map, *offset, *scales;
} nest_result;

/* The offset in every thread; ends with a barrier. */
static __device__ __forceinline__ float fold_mean(const double *parts, int64_t blocks,
                                                  nest_space *s) {
    double sum = threadIdx.x < MEAN_PARTS ? parts[threadIdx.x] : 0;
    sum = block_sum_f64(sum, s->fold);
    if (threadIdx.x == 0) s->offset = (float)(sum / (double)blocks);
    __syncthreads();
    return s->offset;
}

/* The largest |d| of the block in every thread. */
static __device__ __forceinline__ float block_largest(float d, nest_space *s) {
    float largest = warp_max(fabsf(d));
    if (threadIdx.x % WARP == 0) s->largest[threadIdx.x / WARP] = largest;
    __syncthreads();
    for (int i = 0; i < THREADS / WARP; i++) largest = fmaxf(largest, s->largest[i]);
    return largest;
}

/* A block has the QUANT_NEST scales of one second-level scale. */
static __global__ void __launch_bounds__(THREADS)
    nest(const float *absmax, int64_t blocks, const double *parts, code_map map,
         nest_result out) {
    SHARED(shared);
    nest_space *s = (nest_space *)shared;
    int64_t b = (int64_t)blockIdx.x * QUANT_NEST + threadIdx.x;
    s->map[threadIdx.x] = map.x[threadIdx.x];
    float scale = b < blocks ? absmax[b] : 0;
    float offset = fold_mean(parts, blocks, s);
    heap_fill(s->map, s->node);
    float d = b < blocks ? __fadd_rn(scale, -offset) : 0;
    float largest = block_largest(d, s); /* its barrier covers the heap too */
    unsigned code = map_find(s->node, d == 0 ? 0 : __fmul_rn(d, __fdiv_rn(1.0f, largest)));
    if (out.map && blockIdx.x == 0) out.map[threadIdx.x] = s->map[threadIdx.x];
    if (out.offset && b == 0) *out.offset = offset;
    if (out.absmax2 && threadIdx.x == 0) out.absmax2[blockIdx.x] = largest;
    if (b >= blocks) return;
    if (out.codes) out.codes[b] = (uint8_t)code;
    if (out.scales && isfinite(offset))
        out.scales[b] = __fadd_rn(__fmul_rn(s->map[code], largest), offset);
    else if (out.scales)
        out.scales[b] = scale;
}

/* `space`: the scales [blocks], then the parts. */
static status run_nest(backend *b, void *space, int64_t blocks, nest_result out) {
    float *absmax = (float *)space;
    double *parts = (double *)((char *)space + round_up_i64(4 * blocks, TENSOR_ALIGN));
    LAUNCH(mean_parts, MEAN_PARTS, THREADS, THREADS * sizeof(double), cuda_stream(b), absmax,
           blocks, parts);
    LAUNCH(nest, (unsigned)quant_nest_count(blocks), THREADS, sizeof(nest_space),
           cuda_stream(b), absmax, blocks, parts, code_map_of(dynamic_map_signed()), out);
    return CUDA_LAUNCHED(b, "double quantization");
}

/* ---- doors ---- */

static __global__ void write_tables(code_book book, float *code, float *offset) {
    if (threadIdx.x < 16) code[threadIdx.x] = book.level[threadIdx.x];
    if (threadIdx.x == 0 && offset) *offset = 0;
}

status cuda_quantize(backend *b, const void *x, dtype from, const tensor *w, void *scratch) {
    int64_t n = w->rows * w->cols, blocks = quant_block_count(n, QUANT_BLOCK);
    quant_type type = w->type == DTYPE_FP4 ? QUANT_FP4 : QUANT_NF4;
    const tensor_scales *s = &w->scales;
    if (w->block != QUANT_BLOCK)
        return status_fail(STATUS_INTERNAL, "quantization on the card: blocks of %d, not %d",
                           QUANT_BLOCK, w->block);
    if (n == 0) return STATUS_OK;
    LAUNCH(write_tables, 1, WARP, 0, cuda_stream(b), code_book_of(type), s->code,
           w->nested ? (float *)NULL : s->offset);
    float *absmax = (float *)(w->nested ? scratch : s->absmax);
    TRY(blocks_of(b, x, from, n, type, (uint8_t *)w->data, absmax));
    if (!w->nested) return STATUS_OK;
    nest_result out = {(uint8_t *)s->absmax, s->absmax2, s->map, s->offset, NULL};
    return run_nest(b, scratch, blocks, out);
}

status cuda_quantize_scales(backend *b, const void *x, dtype from, int64_t n, void *scratch) {
    if (n == 0) return STATUS_OK;
    nest_result out = {NULL, NULL, NULL, NULL, (float *)scratch};
    TRY(blocks_of(b, x, from, n, QUANT_NF4, NULL, (float *)scratch));
    return run_nest(b, scratch, quant_block_count(n, QUANT_BLOCK), out);
}
