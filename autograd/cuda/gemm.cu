/* gemm.cu: see gemm.h. cuBLASLt is column-major: C^T = op(B)^T op(A)^T, so the operands change
 * places and their stored forms need no copy.
 *
 * What the library needs for a shape (descriptors and the algorithm) is made once and kept. The
 * rows of a micro-batch come in steps of 64, so a run meets a few hundred shapes at most. Sums
 * split over blocks may only be put together through the workspace, in a fixed order: the
 * library's scheme in place is left out. */
extern "C" {
#include "autograd/cuda/gemm.h"
#include "common/alloc.h"
}

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <stdio.h>
#include <string.h>

enum { BUCKETS = 1024, WHOLE = 16 /* bytes; operands at multiples of it may use all loads */ };

/* A kept shape; align is WHOLE or the size of an element. */
typedef struct plan {
    cuda_gemm_shape shape;
    int64_t align;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t first, second, result; /* B, A and C, as the library sees them */
    cublasLtMatmulAlgo_t algorithm;
    size_t space;
    struct plan *next;
} plan;

struct cuda_gemm {
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    plan *buckets[BUCKETS];
};

/* ---- errors ---- */

static status refused(cublasStatus_t error, const char *what) {
    return status_fail(STATUS_DEVICE, "cuBLASLt: %s: %s", what,
                       cublasLtGetStatusString(error));
}

static status check(cublasStatus_t error, const char *what) {
    return error == CUBLAS_STATUS_SUCCESS ? STATUS_OK : refused(error, what);
}

static status no_algorithm(const cuda_gemm_shape *s, cublasStatus_t error) {
    return status_fail(
        STATUS_DEVICE,
        "cuBLASLt has no algorithm for the product [%lld, %lld] = [.., %lld] in "
        "%s to %s: %s",
        (long long)s->m, (long long)s->n, (long long)s->k, dtype_name(s->in),
        dtype_name(s->out), cublasLtGetStatusString(error));
}

/* ---- opening ---- */

status cuda_gemm_open(cuda_gemm **out, int device) {
    cuda_gemm *g = *out = (cuda_gemm *)mem_alloc(sizeof *g, "cuBLASLt");
    uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    if (!g) return STATUS_MEMORY;
    status s = check(cublasLtCreate(&g->handle), "starting");
    if (s == STATUS_OK)
        s = check(cublasLtMatmulPreferenceCreate(&g->preference), "preferences");
    if (s == STATUS_OK)
        s = check(cublasLtMatmulPreferenceSetAttribute(
                      g->preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes,
                      sizeof schemes),
                  "the order of sums");
    if (s == STATUS_OK) return STATUS_OK;
    cuda_gemm_close(g);
    *out = NULL;
    return s;
}

static void plan_free(plan *p) {
    if (p->operation) cublasLtMatmulDescDestroy(p->operation);
    if (p->first) cublasLtMatrixLayoutDestroy(p->first);
    if (p->second) cublasLtMatrixLayoutDestroy(p->second);
    if (p->result) cublasLtMatrixLayoutDestroy(p->result);
    mem_free(p);
}

void cuda_gemm_close(cuda_gemm *g) {
    if (!g) return;
    for (int i = 0; i < BUCKETS; i++)
        for (plan *p = g->buckets[i], *next; p; p = next) {
            next = p->next;
            plan_free(p);
        }
    if (g->preference) cublasLtMatmulPreferenceDestroy(g->preference);
    if (g->handle) cublasLtDestroy(g->handle);
    mem_free(g);
}

void cuda_gemm_describe(const cuda_gemm *g, char *text, size_t bytes) {
    size_t v = cublasLtGetVersion();
    snprintf(text, bytes, "cuBLASLt %zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
}

/* ---- plans ---- */

static cudaDataType_t type_of(dtype type) {
    return type == DTYPE_F32 ? CUDA_R_32F : type == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

/* alpha is an argument of every run, not part of the plan. */
static bool same(const cuda_gemm_shape *a, const cuda_gemm_shape *b) {
    return a->ta == b->ta && a->tb == b->tb && a->add == b->add && a->in == b->in &&
           a->out == b->out && a->m == b->m && a->n == b->n && a->k == b->k &&
           a->lda == b->lda && a->ldb == b->ldb && a->ldc == b->ldc;
}

static unsigned bucket_of(const cuda_gemm_shape *s) {
    const int64_t numbers[] = {s->m, s->n, s->k, s->ta * 2 + s->tb, s->lda, s->ldb, s->ldc};
    uint64_t h = 0;
    for (int i = 0; i < 7; i++) h = (h ^ (uint64_t)numbers[i]) * 0x9E3779B97F4A7C15u;
    return (unsigned)(h >> 32) % BUCKETS;
}

/* A matrix stored row-major [rows, cols], which the library sees as [cols, rows]. */
static status layout(cublasLtMatrixLayout_t *out, dtype type, int64_t rows, int64_t cols,
                     int64_t ld) {
    return check(
        cublasLtMatrixLayoutCreate(out, type_of(type), (uint64_t)cols, (uint64_t)rows, ld),
        "a matrix's layout");
}

static status describe_product(plan *p) {
    const cuda_gemm_shape *s = &p->shape;
    cublasOperation_t first = s->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t second = s->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    TRY(check(cublasLtMatmulDescCreate(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
              "a product"));
    TRY(check(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &first,
                                             sizeof first),
              "a product"));
    TRY(check(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSB,
                                             &second, sizeof second),
              "a product"));
    TRY(layout(&p->first, s->in, s->tb ? s->n : s->k, s->tb ? s->k : s->n, s->ldb));
    TRY(layout(&p->second, s->in, s->ta ? s->k : s->m, s->ta ? s->m : s->k, s->lda));
    return layout(&p->result, s->out, s->m, s->n, s->ldc);
}

static status choose_algorithm(cuda_gemm *g, plan *p) {
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    uint32_t align = (uint32_t)p->align;
    uint64_t space = (uint64_t)cuda_gemm_space(p->shape.m, p->shape.n);
    TRY(check(cublasLtMatmulPreferenceSetAttribute(g->preference,
                                                   CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                   &space, sizeof space),
              "the workspace"));
    memset(&found, 0, sizeof found);
    for (int i = 0; i < 4; i++)
        TRY(check(cublasLtMatmulPreferenceSetAttribute(g->preference, alignments[i], &align,
                                                       sizeof align),
                  "alignment"));
    cublasStatus_t e =
        cublasLtMatmulAlgoGetHeuristic(g->handle, p->operation, p->first, p->second, p->result,
                                       p->result, g->preference, 1, &found, &count);
    if (e != CUBLAS_STATUS_SUCCESS || count < 1) return no_algorithm(&p->shape, e);
    p->algorithm = found.algo;
    p->space = found.workspaceSize;
    return STATUS_OK;
}

static status find(cuda_gemm *g, const cuda_gemm_shape *s, int64_t align, plan **out) {
    plan **bucket = &g->buckets[bucket_of(s)];
    for (plan *p = *bucket; p; p = p->next)
        if (p->align == align && same(&p->shape, s)) {
            *out = p;
            return STATUS_OK;
        }
    plan *p = *out = (plan *)mem_alloc(sizeof *p, "a product's plan");
    if (!p) return STATUS_MEMORY;
    p->shape = *s;
    p->align = align;
    status e = describe_product(p);
    if (e == STATUS_OK) e = choose_algorithm(g, p);
    if (e != STATUS_OK) {
        plan_free(p);
        return e;
    }
    p->next = *bucket;
    *bucket = p;
    return STATUS_OK;
}

static bool empty(const cuda_gemm_shape *s) {
    return s->m == 0 || s->n == 0 || s->k == 0;
}

/* WHOLE when rows of all operands can start at multiples of it. */
static int64_t alignment_of(const cuda_gemm_shape *s, uintptr_t addresses) {
    int64_t in = dtype_bytes(s->in), out = dtype_bytes(s->out);
    int64_t bytes = (int64_t)addresses | s->lda * in | s->ldb * in | s->ldc * out;
    return bytes % WHOLE == 0 ? (int64_t)WHOLE : in;
}

status cuda_gemm_plan(cuda_gemm *g, const cuda_gemm_shape *s) {
    plan *p;
    return empty(s) ? STATUS_OK : find(g, s, alignment_of(s, 0), &p);
}

/* ---- running ---- */

static status run_empty(void *stream, const cuda_gemm_shape *s, char *c) {
    size_t bytes = (size_t)dtype_bytes(s->out);
    if (s->m == 0 || s->n == 0 || s->add) return STATUS_OK;
    for (int64_t row = 0; row < s->m; row++) {
        cudaError_t e = cudaMemsetAsync(c + (size_t)(row * s->ldc) * bytes, 0,
                                        (size_t)s->n * bytes, (cudaStream_t)stream);
        if (e != cudaSuccess)
            return status_fail(STATUS_DEVICE, "cudaMemsetAsync: %s", cudaGetErrorString(e));
    }
    return STATUS_OK;
}

status cuda_gemm_run(cuda_gemm *g, void *stream, const cuda_gemm_shape *s, const void *a,
                     const void *b, void *c, void *space) {
    plan *p;
    float beta = s->add ? 1.0f : 0.0f;
    if (empty(s)) return run_empty(stream, s, (char *)c);
    TRY(find(g, s, alignment_of(s, (uintptr_t)a | (uintptr_t)b | (uintptr_t)c), &p));
    return check(cublasLtMatmul(g->handle, p->operation, &s->alpha, b, p->first, a, p->second,
                                &beta, c, p->result, c, p->result, &p->algorithm, space,
                                p->space, (cudaStream_t)stream),
                 "a product");
}
