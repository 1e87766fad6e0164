/* cublaslt.cpp: matrix products for the emulator, by the CPU back end's gemm_f32.
 *
 * The library is column-major, gemm_f32 row-major: D^T = op(B)^T op(A)^T, so A and B change
 * places. Operands are widened to f32, multiplied on one thread (the bits are a function of the
 * operands and the shape), scaled, added to and rounded once. What a real algorithm relies on is
 * checked: shapes, alignments that were promised to the heuristic, a workspace on the device,
 * which is overwritten as a split product would. */
#include <cublasLt.h>

#include "emulator/engine.h"

extern "C" {
#include "autograd/cpu/gemm.h"
#include "quant/convert.h"
}

#include <memory>
#include <string.h>

struct emulator_lt {
    int unused;
};
struct emulator_lt_product {
    int32_t ta, tb; /* cublasOperation_t */
};
struct emulator_lt_layout {
    cudaDataType type;
    int64_t rows, cols, ld;
};
struct emulator_lt_preference {
    uint64_t workspace;
    uint32_t schemes, align[4]; /* of A, B, C, D */
};

/* What is kept in cublasLtMatmulAlgo_t::data. */
enum { ALGO_MAGIC, ALGO_WORKSPACE, ALGO_ALIGN, ALGO_SHAPE, ALGO_NUMBER };
enum { ALGORITHMS = 3 };
static const uint64_t magic = 0x6c61626c6f6f70; /* any */

/* ---- handles, descriptors ---- */

#define LT_CALL                                                                               \
    api_call call(__func__);                                                                  \
    if (call.error) return lt_error(call.error)

/* The library hides the runtime's errors; an injected one is the library's own number. */
static cublasStatus_t lt_error(cudaError_t e) {
    return runtime_sticky() ? CUBLAS_STATUS_EXECUTION_FAILED : (cublasStatus_t)e;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    LT_CALL;
    *handle = new emulator_lt();
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion(void) {
    return 130000;
}

static const struct {
    cublasStatus_t status;
    const char *name, *text;
} statuses[] = {
    {CUBLAS_STATUS_SUCCESS, "CUBLAS_STATUS_SUCCESS", "success"},
    {CUBLAS_STATUS_NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED",
     "the library was not initialized"},
    {CUBLAS_STATUS_ALLOC_FAILED, "CUBLAS_STATUS_ALLOC_FAILED",
     "the resource allocation failed"},
    {CUBLAS_STATUS_INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE",
     "an unsupported value or parameter was passed to the function"},
    {CUBLAS_STATUS_EXECUTION_FAILED, "CUBLAS_STATUS_EXECUTION_FAILED",
     "the GPU program failed to execute"},
    {CUBLAS_STATUS_INTERNAL_ERROR, "CUBLAS_STATUS_INTERNAL_ERROR",
     "an internal cuBLAS operation failed"},
    {CUBLAS_STATUS_NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED",
     "the requested functionality is not supported"},
};

const char *cublasLtGetStatusName(cublasStatus_t status) {
    for (const auto &s : statuses)
        if (s.status == status) return s.name;
    return "unknown";
}
const char *cublasLtGetStatusString(cublasStatus_t status) {
    for (const auto &s : statuses)
        if (s.status == status) return s.text;
    return "unknown status";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *product, cublasComputeType_t,
                                        cudaDataType_t scale) {
    LT_CALL;
    if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *product = new emulator_lt_product{CUBLAS_OP_N, CUBLAS_OP_N};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t product) {
    delete product;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes) {
    LT_CALL;
    if (bytes != sizeof(int32_t)) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(attribute == CUBLASLT_MATMUL_DESC_TRANSA ? &product->ta : &product->tb, value,
           bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
    LT_CALL;
    *layout = new emulator_lt_layout{type, (int64_t)rows, (int64_t)cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

/* The library's defaults: no workspace, every scheme, 256 bytes. */
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    LT_CALL;
    *preference =
        new emulator_lt_preference{0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t
cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                     cublasLtMatmulPreferenceAttributes_t attribute,
                                     const void *value, size_t bytes) {
    LT_CALL;
    void *to =
        attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? (void *)&preference->workspace
        : attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK
            ? (void *)&preference->schemes
            : &preference->align[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES];
    size_t want = attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? 8 : 4;
    if (bytes != want) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- shapes ---- */

static dtype dtype_of(cudaDataType type) {
    return type == CUDA_R_32F ? DTYPE_F32 : type == CUDA_R_16F ? DTYPE_F16 : DTYPE_BF16;
}

/* The row-major product that this column-major one is; false where the library would refuse. */
static bool shape_of(const emulator_lt_product *p, const emulator_lt_layout *a,
                     const emulator_lt_layout *b, const emulator_lt_layout *d, gemm_shape *s) {
    int64_t m = p->ta ? a->cols : a->rows, k = p->ta ? a->rows : a->cols;
    int64_t n = p->tb ? b->rows : b->cols, inner = p->tb ? b->cols : b->rows;
    if (k != inner || m != d->rows || n != d->cols || m < 1 || n < 1 || k < 1) return false;
    if (a->ld < a->rows || b->ld < b->rows || d->ld < d->rows) return false;
    if (a->type != b->type || (d->type != a->type && d->type != CUDA_R_32F)) return false;
    memset(s, 0, sizeof *s);
    s->ta = p->tb != 0;
    s->tb = p->ta != 0;
    s->in = dtype_of(a->type);
    s->out = dtype_of(d->type);
    s->m = n;
    s->n = m;
    s->k = k;
    s->lda = b->ld;
    s->ldb = a->ld;
    s->ldc = d->ld;
    return true;
}

static uint64_t shape_word(const gemm_shape *s) {
    const int64_t numbers[] = {s->ta, s->tb, s->in,  s->out, s->m,
                               s->n,  s->k,  s->lda, s->ldb, s->ldc};
    uint64_t word = 0;
    for (int64_t x : numbers) word = (word ^ (uint64_t)x) * 0x9E3779B97F4A7C15u;
    return word;
}

/* ---- an algorithm ---- */

/* Half of the workspace that is allowed, so that both "it is used" and "all of it is not" occur.
 * Of three algorithms the last cuts K in two sums, so that a table which chose it has other bits;
 * algorithm EMULATOR_SLOW_PRODUCT takes its time, so that measuring finds a better one. */
cublasStatus_t
cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t product,
                               cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                               cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                               cublasLtMatmulPreference_t preference, int wanted,
                               cublasLtMatmulHeuristicResult_t *results, int *found) {
    LT_CALL;
    gemm_shape s;
    *found = 0;
    if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    if (!shape_of(product, a, b, d, &s) || c->rows != d->rows || c->cols != d->cols)
        return CUBLAS_STATUS_INVALID_VALUE;
    for (; *found < wanted && *found < ALGORITHMS; ++*found) {
        cublasLtMatmulHeuristicResult_t *r = &results[*found];
        memset(r, 0, sizeof *r);
        uint64_t *data = r->algo.data;
        data[ALGO_MAGIC] = magic;
        data[ALGO_WORKSPACE] =
            preference->workspace < 1 << 16 ? preference->workspace / 2 : 1 << 15;
        for (int i = 0; i < 4; i++)
            data[ALGO_ALIGN] |= (uint64_t)preference->align[i] << (16 * i);
        data[ALGO_SHAPE] = shape_word(&s);
        data[ALGO_NUMBER] = (uint64_t)*found;
        r->workspaceSize = data[ALGO_WORKSPACE];
        r->state = CUBLAS_STATUS_SUCCESS;
        r->wavesCount = 1;
    }
    return CUBLAS_STATUS_SUCCESS;
}

static bool is_for(const cublasLtMatmulAlgo_t *algorithm, const gemm_shape *s) {
    return algorithm && algorithm->data[ALGO_MAGIC] == magic &&
           algorithm->data[ALGO_SHAPE] == shape_word(s) &&
           algorithm->data[ALGO_NUMBER] < ALGORITHMS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t product,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algorithm,
                                       cublasLtMatmulHeuristicResult_t *result) {
    LT_CALL;
    gemm_shape s;
    if (!shape_of(product, a, b, d, &s) || !is_for(algorithm, &s))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    result->algo = *algorithm;
    result->workspaceSize = algorithm->data[ALGO_WORKSPACE];
    return CUBLAS_STATUS_SUCCESS;
}

static bool aligned(const cublasLtMatmulAlgo_t *algorithm, const void *const at[4]) {
    for (int i = 0; i < 4; i++) {
        uint64_t to = algorithm->data[ALGO_ALIGN] >> (16 * i) & 0xffff;
        if (!to || (uintptr_t)at[i] % to) return false;
    }
    return true;
}

/* ---- the product ---- */

/* Bytes from the first to behind the last element of a row-major matrix. */
static size_t span(int64_t rows, int64_t cols, int64_t ld, dtype type) {
    return (size_t)(((rows - 1) * ld + cols) * (type == DTYPE_F32 ? 4 : 2));
}

static std::vector<float> widened(const void *from, size_t n, dtype type) {
    std::vector<float> to(n);
    if (type == DTYPE_F32)
        memcpy(to.data(), from, 4 * n);
    else if (type == DTYPE_BF16)
        convert_bf16_to_f32((const uint16_t *)from, to.data(), (int64_t)n);
    else
        convert_f16_to_f32((const uint16_t *)from, to.data(), (int64_t)n);
    return to;
}

static void narrow_row(const float *from, void *to, int64_t n, dtype type) {
    if (type == DTYPE_F32)
        memcpy(to, from, (size_t)n * 4);
    else if (type == DTYPE_BF16)
        convert_f32_to_bf16(from, (uint16_t *)to, n);
    else
        convert_f32_to_f16(from, (uint16_t *)to, n);
}

/* alpha op(A) op(B) as one sum over K, or as two. */
static status sum_up(gemm_shape s, uint64_t algorithm, float alpha, const float *a,
                     const float *b, float *to) {
    if ((int)algorithm == emulator_settings.slow_product)
        for (int i = 0; i < 4; i++) TRY(gemm_f32(&s, alpha, a, b, to));
    if (algorithm != ALGORITHMS - 1 || s.k < 2) return gemm_f32(&s, alpha, a, b, to);
    int64_t half = s.k / 2;
    gemm_shape part = s;
    part.k = half;
    TRY(gemm_f32(&part, alpha, a, b, to));
    part.k = s.k - half;
    part.add = true;
    return gemm_f32(&part, alpha, a + (s.ta ? half * s.lda : half),
                    b + (s.tb ? half : half * s.ldb), to);
}

/* C = alpha op(A) op(B) + beta C, all in device memory. */
static void multiply(gemm_shape s, uint64_t algorithm, float alpha, float beta, const void *a,
                     const void *b, char *c) {
    size_t a_bytes = span(s.ta ? s.k : s.m, s.ta ? s.m : s.k, s.lda, s.in);
    size_t b_bytes = span(s.tb ? s.n : s.k, s.tb ? s.k : s.n, s.ldb, s.in);
    size_t in = s.in == DTYPE_F32 ? 4 : 2, out = s.out == DTYPE_F32 ? 4 : 2;
    if (!memory_holds(a, a_bytes) || !memory_holds(b, b_bytes) ||
        !memory_holds(c, span(s.m, s.n, s.ldc, s.out)))
        return runtime_stick(cudaErrorIllegalAddress);
    std::vector<float> wide_a = widened(a, a_bytes / in, s.in);
    std::vector<float> wide_b = widened(b, b_bytes / in, s.in);
    std::vector<float> product((size_t)(s.m * s.n));
    gemm_shape plain = s;
    plain.ldc = s.n;
    plain.in = plain.out = DTYPE_F32;
    plain.add = false;
    if (sum_up(plain, algorithm, alpha, wide_a.data(), wide_b.data(), product.data()) !=
        STATUS_OK)
        return runtime_stick(cudaErrorLaunchFailure);
    for (int64_t row = 0; row < s.m; row++) {
        char *at = c + (size_t)(row * s.ldc) * out;
        float *sum = &product[(size_t)(row * s.n)];
        if (beta != 0) {
            std::vector<float> old = widened(at, (size_t)s.n, s.out);
            for (int64_t i = 0; i < s.n; i++) sum[i] += beta * old[(size_t)i];
        }
        narrow_row(sum, at, s.n, s.out);
    }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t product,
                              const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    LT_CALL;
    gemm_shape s;
    const void *const operands[4] = {a, b, c, d};
    if (!shape_of(product, a_layout, b_layout, d_layout, &s) || c != d ||
        c_layout->ld != d_layout->ld || c_layout->type != d_layout->type)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!is_for(algorithm, &s) || !aligned(algorithm, operands))
        return CUBLAS_STATUS_INVALID_VALUE;
    size_t used = algorithm->data[ALGO_WORKSPACE];
    if (workspace_bytes < used || (used && ((uintptr_t)workspace % 16 || !workspace)))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (stream_check(stream)) return CUBLAS_STATUS_INVALID_VALUE;
    float scale = *(const float *)alpha, keep = *(const float *)beta;
    uint64_t number = algorithm->data[ALGO_NUMBER];
    stream_enqueue(stream, [=] {
        if (used && !memory_holds(workspace, used))
            return runtime_stick(cudaErrorIllegalAddress);
        if (used) memset(workspace, 0xff, used);
        multiply(s, number, scale, keep, b, a, (char *)d);
    });
    return runtime_sticky() ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
