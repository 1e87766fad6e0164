/* gemm.cu: see gemm.h. cuBLASLt is column-major: C^T = op(B)^T op(A)^T, so the operands change
 * places and their stored forms need no copy.
 *
 * What the library needs for a shape (descriptors and the algorithm) is made once and kept. The
 * rows of a micro-batch come in steps of 64, so a run meets a few hundred shapes at most. Sums
 * split over blocks may only be put together through the workspace, in a fixed order: the
 * library's scheme in place is left out. */
#include "autograd/cuda/gemm_plan.h"

extern "C" {
#include "common/alloc.h"
}

#include <stdio.h>
#include <string.h>

enum { WHOLE = 16 /* bytes; operands at multiples of it may use all loads */ };

/* ---- errors ---- */

static status refused(cublasStatus_t error, const char *what) {
    return status_fail(STATUS_DEVICE, "cuBLASLt: %s: %s", what,
                       cublasLtGetStatusString(error));
}

status gemm_check(cublasStatus_t error, const char *what) {
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
    status s = gemm_check(cublasLtCreate(&g->handle), "starting");
    if (s == STATUS_OK)
        s = gemm_check(cublasLtMatmulPreferenceCreate(&g->preference), "preferences");
    if (s == STATUS_OK)
        s = gemm_check(cublasLtMatmulPreferenceSetAttribute(
                           g->preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes,
                           sizeof schemes),
                       "the order of sums");
    if (s == STATUS_OK) return STATUS_OK;
    cuda_gemm_close(g);
    *out = NULL;
    return s;
}

static void plan_free(gemm_plan *p) {
    if (p->operation) cublasLtMatmulDescDestroy(p->operation);
    if (p->first) cublasLtMatrixLayoutDestroy(p->first);
    if (p->second) cublasLtMatrixLayoutDestroy(p->second);
    if (p->result) cublasLtMatrixLayoutDestroy(p->result);
    mem_free(p);
}

void cuda_gemm_close(cuda_gemm *g) {
    if (!g) return;
    for (int i = 0; i < GEMM_BUCKETS; i++)
        for (gemm_plan *p = g->buckets[i], *next; p; p = next) {
            next = p->next;
            plan_free(p);
        }
    if (g->preference) cublasLtMatmulPreferenceDestroy(g->preference);
    if (g->handle) cublasLtDestroy(g->handle);
    mem_free(g->table);
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

bool gemm_same(const cuda_gemm_shape *a, const cuda_gemm_shape *b) {
    return a->ta == b->ta && a->tb == b->tb && a->add == b->add && a->in == b->in &&
           a->out == b->out && a->m == b->m && a->n == b->n && a->k == b->k &&
           a->lda == b->lda && a->ldb == b->ldb && a->ldc == b->ldc;
}

static unsigned bucket_of(const cuda_gemm_shape *s) {
    const int64_t numbers[] = {s->m, s->n, s->k, s->ta * 2 + s->tb, s->lda, s->ldb, s->ldc};
    uint64_t h = 0;
    for (int i = 0; i < 7; i++) h = (h ^ (uint64_t)numbers[i]) * 0x9E3779B97F4A7C15u;
    return (unsigned)(h >> 32) % GEMM_BUCKETS;
}

/* A matrix stored row-major [rows, cols], which the library sees as [cols, rows]. */
static status layout(cublasLtMatrixLayout_t *out, dtype type, int64_t rows, int64_t cols,
                     int64_t ld) {
    return gemm_check(
        cublasLtMatrixLayoutCreate(out, type_of(type), (uint64_t)cols, (uint64_t)rows, ld),
        "a matrix's layout");
}

static status describe_product(gemm_plan *p) {
    const cuda_gemm_shape *s = &p->shape;
    cublasOperation_t first = s->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t second = s->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    TRY(gemm_check(cublasLtMatmulDescCreate(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                   "a product"));
    TRY(gemm_check(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                                  &first, sizeof first),
                   "a product"));
    TRY(gemm_check(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSB,
                                                  &second, sizeof second),
                   "a product"));
    TRY(layout(&p->first, s->in, s->tb ? s->n : s->k, s->tb ? s->k : s->n, s->ldb));
    TRY(layout(&p->second, s->in, s->ta ? s->k : s->m, s->ta ? s->m : s->k, s->lda));
    return layout(&p->result, s->out, s->m, s->n, s->ldc);
}

status gemm_ask(cuda_gemm *g, const gemm_plan *p, int wanted,
                cublasLtMatmulHeuristicResult_t *found, int *count) {
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    uint32_t align = (uint32_t)p->align;
    uint64_t space = (uint64_t)cuda_gemm_space(p->shape.m, p->shape.n);
    *count = 0;
    TRY(gemm_check(
        cublasLtMatmulPreferenceSetAttribute(
            g->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &space, sizeof space),
        "the workspace"));
    for (int i = 0; i < 4; i++)
        TRY(gemm_check(cublasLtMatmulPreferenceSetAttribute(g->preference, alignments[i],
                                                            &align, sizeof align),
                       "alignment"));
    cublasStatus_t e =
        cublasLtMatmulAlgoGetHeuristic(g->handle, p->operation, p->first, p->second, p->result,
                                       p->result, g->preference, wanted, found, count);
    return e != CUBLAS_STATUS_SUCCESS || *count < 1 ? no_algorithm(&p->shape, e) : STATUS_OK;
}

/* An algorithm out of a file is only bytes until the library has looked at it. */
static status take_choice(cuda_gemm *g, gemm_plan *p, const gemm_choice *c) {
    cublasLtMatmulHeuristicResult_t checked;
    memset(&checked, 0, sizeof checked);
    cublasStatus_t e = cublasLtMatmulAlgoCheck(g->handle, p->operation, p->first, p->second,
                                               p->result, p->result, &c->algorithm, &checked);
    if (e != CUBLAS_STATUS_SUCCESS || checked.workspaceSize > c->space)
        return status_fail(STATUS_MODEL,
                           "the measured table's algorithm for a product [%lld, %lld] = [.., "
                           "%lld] is none of this library's: remove the file and measure anew",
                           (long long)p->shape.m, (long long)p->shape.n,
                           (long long)p->shape.k);
    p->algorithm = c->algorithm;
    p->space = c->space;
    return STATUS_OK;
}

/* The table's choice for this shape, where it has one; else the library's first. */
static status choose_algorithm(cuda_gemm *g, gemm_plan *p) {
    for (size_t i = 0; i < g->table_count; i++) {
        const gemm_choice *c = &g->table[i];
        if (c->align != p->align || !gemm_same(&c->shape, &p->shape)) continue;
        return take_choice(g, p, c);
    }
    cublasLtMatmulHeuristicResult_t found;
    int count;
    memset(&found, 0, sizeof found);
    TRY(gemm_ask(g, p, 1, &found, &count));
    p->algorithm = found.algo;
    p->space = found.workspaceSize;
    return STATUS_OK;
}

static status find(cuda_gemm *g, const cuda_gemm_shape *s, int64_t align, gemm_plan **out) {
    gemm_plan **bucket = &g->buckets[bucket_of(s)];
    for (gemm_plan *p = *bucket; p; p = p->next)
        if (p->align == align && gemm_same(&p->shape, s)) {
            *out = p;
            return STATUS_OK;
        }
    gemm_plan *p = *out = (gemm_plan *)mem_alloc(sizeof *p, "a product's plan");
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
    g->planned++;
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
    gemm_plan *p;
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

status gemm_enqueue(cuda_gemm *g, const gemm_plan *p, const cublasLtMatmulAlgo_t *algorithm,
                    size_t bytes, cudaStream_t stream, float alpha, const void *a,
                    const void *b, void *c, void *space) {
    float beta = p->shape.add ? 1.0f : 0.0f;
    return gemm_check(cublasLtMatmul(g->handle, p->operation, &alpha, b, p->first, a,
                                     p->second, &beta, c, p->result, c, p->result, algorithm,
                                     space, bytes, stream),
                      "a product");
}

status cuda_gemm_run(cuda_gemm *g, void *stream, const cuda_gemm_shape *s, const void *a,
                     const void *b, void *c, void *space) {
    gemm_plan *p;
    if (empty(s)) return run_empty(stream, s, (char *)c);
    TRY(find(g, s, alignment_of(s, (uintptr_t)a | (uintptr_t)b | (uintptr_t)c), &p));
    return gemm_enqueue(g, p, &p->algorithm, p->space, (cudaStream_t)stream, s->alpha, a, b, c,
                        space);
}
