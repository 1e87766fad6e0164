/* gemm_plan.h: what gemm.cu, which runs products, and gemm_table.cu, which measures them, share:
 * all that the library needs for a shape, made once and kept. */
#ifndef NIBBLE_AUTOGRAD_CUDA_GEMM_PLAN_H
#define NIBBLE_AUTOGRAD_CUDA_GEMM_PLAN_H

extern "C" {
#include "autograd/cuda/gemm.h"
}

#include <cublasLt.h>
#include <cuda_runtime.h>

enum { GEMM_BUCKETS = 1024 };

/* A kept shape; align is 16, or the size of an element where operands do not lie at 16 bytes. */
typedef struct gemm_plan {
    cuda_gemm_shape shape;
    int64_t align;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t first, second, result; /* B, A and C, as the library sees them */
    cublasLtMatmulAlgo_t algorithm;
    size_t space;
    struct gemm_plan *next;
} gemm_plan;

/* A row of a measured table: for exactly this shape and alignment. */
typedef struct gemm_choice {
    cuda_gemm_shape shape;
    int64_t align;
    cublasLtMatmulAlgo_t algorithm;
    size_t space;
} gemm_choice;

struct cuda_gemm {
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    gemm_plan *buckets[GEMM_BUCKETS];
    int64_t planned;
    gemm_choice *table;
    size_t table_count;
};

/* STATUS_DEVICE with the library's words, STATUS_OK for success. */
status gemm_check(cublasStatus_t error, const char *what);
/* alpha is an argument of every run, not part of a plan. */
bool gemm_same(const cuda_gemm_shape *a, const cuda_gemm_shape *b);
/* The library's proposals for a plan's shape, its first choice first; *count >= 1. */
status gemm_ask(cuda_gemm *g, const gemm_plan *p, int wanted,
                cublasLtMatmulHeuristicResult_t *found, int *count);
/* Enqueues plan p with an algorithm that need not be its own. */
status gemm_enqueue(cuda_gemm *g, const gemm_plan *p, const cublasLtMatmulAlgo_t *algorithm,
                    size_t bytes, cudaStream_t stream, float alpha, const void *a,
                    const void *b, void *c, void *space);

#endif
