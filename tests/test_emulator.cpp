/* test_emulator.cpp: the emulator finds the bugs that it is there to find, and nothing else.
 *
 * Built once per variant of the kernels (PLANTED_BUILD: plain, sanitized or shadow). Each planted
 * bug runs in a process of its own, as some of them end it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

#include "emulator/emulator.h"
#include "emulator/planted.h"
#include "emulator/samples.h"

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TEXT_OF(x) #x
#define TEXT(x)    TEXT_OF(x)

static const char *const orders[] = {"greedy", "reversed", "round", "random:1", "random:2"};
static const char *const queues[] = {"lazy", "eager", "lazy", "random:1", "random:2"};

/* In a child: exits with what was seen over all orders. */
static void child(const planted *p, bool bug) {
    planted_found seen = MISSED;
    emulator_loud(!bug);
    static const int caught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL}; /* by cmocka */
    for (int number : caught) signal(number, SIG_DFL);
    if (bug) { /* what a sanitizer says is of no interest */
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 2);
    }
    for (int i = 0; i < 5; i++) {
        emulator_reset();
        emulator_set("EMULATOR_ORDER", orders[i]);
        emulator_set("EMULATOR_STREAMS", queues[i]);
        bool right = p->run(bug);
        if (!right && seen == MISSED) seen = WRONG;
        if (*emulator_report()) seen = FOUND;
        if (*emulator_report() && cudaDeviceSynchronize() == cudaSuccess)
            _exit(100); /* a report without a sticky error */
    }
    _exit(10 + seen);
}

static planted_found outcome(const planted *p, bool bug) {
    fflush(NULL);
    pid_t pid = fork();
    int status = 0;
    assert_true(pid >= 0);
    if (pid == 0) child(p, bug);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFEXITED(status)) return FOUND; /* a signal */
    int code = WEXITSTATUS(status);
    if (code == 1) return FOUND; /* a sanitizer */
    assert_in_range(code, 10 + MISSED, 10 + FOUND);
    return (planted_found)(code - 10);
}

static void test_planted_bugs_are_found(void **state) {
    static const char *const names[] = {"missed", "wrong numbers", "found"};
    int bad = 0;
    for (int i = 0; i < planted_count; i++) {
        const planted *p = &planted_bugs[i];
        planted_found right = outcome(p, false), wrong = outcome(p, true);
        if (right != MISSED || wrong != p->PLANTED_BUILD) {
            fprintf(stderr, "%s: right form: %s; bug: %s, expected %s\n", p->name,
                    names[right], names[wrong], names[p->PLANTED_BUILD]);
            bad++;
        }
    }
    assert_int_equal(bad, 0);
}

/* ---- what threads do together ---- */

static int want_together(int i, int what) {
    int warp = i / 32 * 32, lane = i % 32, low = lane & -8;
    switch (what) {
    case 0:
        return 100 + warp + 5;
    case 1:
        return 100 + warp + (lane ^ 3);
    case 2:
        return 100 + warp + (lane - 2 >= low ? lane - 2 : lane);
    case 3:
        return 100 + warp + (lane + 2 < low + 8 ? lane + 2 : lane);
    case 4:
        return (int)0xaaaaaaaau;
    case 5:
        return warp == 32;
    case 6:
        return warp == 0;
    case 7:
        return (SAMPLE_THREADS + 2) / 3;
    default:
        return i;
    }
}

static void test_threads_together(void **state) {
    for (const char *order : orders) {
        int got[SAMPLE_THREADS * SAMPLE_WORDS], *at = NULL;
        emulator_reset();
        emulator_set("EMULATOR_ORDER", order);
        assert_int_equal(cudaMalloc(&at, sizeof got), cudaSuccess);
        sample_together(at);
        assert_int_equal(cudaMemcpy(got, at, sizeof got, cudaMemcpyDeviceToHost), cudaSuccess);
        for (int i = 0; i < SAMPLE_THREADS * SAMPLE_WORDS; i++)
            assert_int_equal(got[i], want_together(i / SAMPLE_WORDS, i % SAMPLE_WORDS));
    }
}

static void test_a_deadlock_says_where(void **state) {
    emulator_reset();
    emulator_loud(false);
    sample_deadlock();
    assert_int_equal(cudaDeviceSynchronize(), cudaErrorLaunchTimeout);
    assert_non_null(strstr(emulator_report(), "deadlock: of 64 threads 0 have ended"));
    assert_non_null(strstr(emulator_report(), "33 in __syncthreads at "));
    assert_non_null(strstr(emulator_report(), "31 in __syncwarp at "));
    assert_int_equal(cudaGetLastError(), cudaErrorLaunchTimeout); /* it sticks */
    assert_int_equal(sample_launch(1, 32, 0), cudaErrorLaunchTimeout);
    emulator_reset();
    assert_int_equal(sample_launch(1, 32, 0), cudaSuccess);
}

/* ---- types ---- */

/* Every 16-bit value, what lies half way to the next one, and just beside it. */
static void test_conversions_round_to_nearest_even(void **state) {
    for (unsigned i = 0; i < 0x7f80; i++) { /* finite bf16 */
        float x = __bfloat162float(__ushort_as_bfloat16((unsigned short)i));
        float half = __uint_as_float(i << 16 | 0x8000);
        unsigned short even = (unsigned short)(i + (i & 1)), odd = (unsigned short)(i + 1);
        assert_int_equal(__bfloat16_as_ushort(__float2bfloat16_rn(x)), i);
        assert_int_equal(__bfloat16_as_ushort(__float2bfloat16_rn(half)), even);
        assert_int_equal(__bfloat16_as_ushort(__float2bfloat16_rn(nextafterf(half, 0))), i);
        assert_int_equal(__bfloat16_as_ushort(__float2bfloat16_rn(nextafterf(half, INFINITY))),
                         odd);
    }
    for (unsigned i = 0; i < 0x7bff; i++) { /* finite f16, less the largest */
        float x = __half2float(__ushort_as_half((unsigned short)i));
        float next = __half2float(__ushort_as_half((unsigned short)(i + 1)));
        float half = x + (next - x) / 2; /* exact */
        unsigned short even = (unsigned short)(i + (i & 1));
        assert_int_equal(__half_as_ushort(__float2half_rn(x)), i);
        assert_int_equal(__half_as_ushort(__float2half_rn(half)), even);
        assert_int_equal(__half_as_ushort(__float2half_rn(-half)), even | 0x8000);
    }
    assert_int_equal(__half_as_ushort(__float2half_rn(65519)), 0x7bff);
    assert_int_equal(__half_as_ushort(__float2half_rn(65520)), 0x7c00);
    assert_int_equal(__half_as_ushort(__float2half_rn(NAN)), 0x7fff);
    assert_int_equal(__bfloat16_as_ushort(__float2bfloat16_rn(NAN)), 0x7fff);
}

/* ---- the runtime ---- */

static void raise_flag(void *flag) {
    *(int *)flag = 1;
}
static void call_runtime(void *error) {
    *(cudaError_t *)error = cudaDeviceSynchronize();
}

static void test_streams_run_when_waited_for(void **state) {
    cudaStream_t a, b;
    cudaEvent_t e;
    int of_a = 0, of_b = 0;
    cudaError_t within = cudaSuccess;
    emulator_reset();
    emulator_set("EMULATOR_STREAMS", "lazy");
    assert_int_equal(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), cudaSuccess);
    cudaLaunchHostFunc(a, raise_flag, &of_a);
    cudaEventRecord(e, a);
    cudaLaunchHostFunc(b, raise_flag, &of_b);
    assert_int_equal(of_a + of_b, 0);
    cudaStreamSynchronize(b);
    assert_true(!of_a && of_b); /* only what was waited for */
    cudaStreamWaitEvent(b, e, 0);
    of_b = 0;
    cudaLaunchHostFunc(b, raise_flag, &of_b);
    assert_int_equal(cudaEventQuery(e), cudaErrorNotReady);
    cudaStreamSynchronize(b);
    assert_true(of_a && of_b);
    assert_int_equal(cudaEventQuery(e), cudaSuccess);
    cudaLaunchHostFunc(a, call_runtime, &within);
    cudaStreamSynchronize(a);
    assert_int_equal(within, cudaErrorNotPermitted);
    emulator_set("EMULATOR_STREAMS", "eager");
    of_a = 0;
    cudaLaunchHostFunc(a, raise_flag, &of_a);
    assert_int_equal(of_a, 1);
    assert_int_equal(cudaStreamDestroy(a), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(a), cudaErrorInvalidResourceHandle);
}

static void test_failures_are_injected(void **state) {
    void *at;
    float x = 0;
    emulator_reset();
    emulator_set("EMULATOR_FAIL", "cudaMalloc:2:2");
    assert_int_equal(cudaMalloc(&at, 100), cudaSuccess);
    assert_int_equal(cudaMalloc(&at, 100), cudaErrorMemoryAllocation);
    assert_int_equal(cudaGetLastError(), cudaErrorMemoryAllocation);
    assert_int_equal(cudaGetLastError(), cudaSuccess); /* it did not stick */
    assert_int_equal(cudaMalloc(&at, 100), cudaSuccess);
    emulator_set("EMULATOR_FAIL", "cudaMemcpyAsync:1:719");
    assert_int_equal(cudaMemcpyAsync(at, &x, 4, cudaMemcpyHostToDevice, 0),
                     cudaErrorLaunchFailure);
    assert_int_equal(cudaGetLastError(), cudaErrorLaunchFailure);
    assert_int_equal(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    emulator_set("EMULATOR_FAIL", "");
    emulator_reset();
    emulator_set("EMULATOR_DEVICES", "0");
    int count = 1;
    assert_int_equal(cudaGetDeviceCount(&count), cudaErrorNoDevice);
    emulator_set("EMULATOR_DEVICES", "1");
    emulator_set("EMULATOR_DRIVER", "11040");
    assert_int_equal(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
    emulator_set("EMULATOR_DRIVER", "13000");
    assert_int_equal(cudaGetDeviceCount(&count), cudaSuccess);
}

static void test_memory_has_an_end_and_edges(void **state) {
    unsigned char *a, *b, first;
    size_t left, all;
    emulator_reset();
    emulator_set("EMULATOR_MEMORY", "1000000");
    assert_int_equal(cudaMalloc(&a, 600000), cudaSuccess);
    assert_int_equal(cudaMalloc(&b, 600000), cudaErrorMemoryAllocation);
    assert_int_equal(cudaMemGetInfo(&left, &all), cudaSuccess);
    assert_int_equal(left, 400000);
    assert_int_equal((uintptr_t)a % 256, 0);
    assert_int_equal(cudaMemcpy(&first, a, 1, cudaMemcpyDeviceToHost), cudaSuccess);
    assert_int_equal(first, 0xff);
    assert_int_equal(cudaMemset(a, 0, 600001), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(&first, a, 1, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaFree(a + 1), cudaErrorInvalidValue);
    assert_int_equal(cudaFree(a), cudaSuccess);
    assert_int_equal(cudaMalloc(&b, 600000), cudaSuccess);
    assert_ptr_not_equal(a, b);
    assert_int_equal(emulator_count_all().device_bytes, 600000);
    emulator_set("EMULATOR_MEMORY", "4294967296");
}

static void test_launches_are_checked(void **state) {
    emulator_reset();
    emulator_set("EMULATOR_CAPABILITY", "86");
    assert_int_equal(sample_launch(dim3(0), 32, 0), cudaErrorInvalidConfiguration);
    assert_int_equal(sample_launch(dim3(1, 65536), 32, 0), cudaErrorInvalidConfiguration);
    assert_int_equal(sample_launch(1, 1025, 0), cudaErrorInvalidConfiguration);
    assert_int_equal(sample_launch(1, 1024, 48 << 10), cudaSuccess);
    assert_int_equal(sample_launch(1, 32, 64 << 10), cudaErrorInvalidValue);
    assert_int_equal(sample_allow_shared(100 << 10), cudaErrorInvalidValue);
    cudaGetLastError();
    assert_int_equal(sample_allow_shared(64 << 10), cudaSuccess);
    assert_int_equal(sample_launch(1, 32, 64 << 10), cudaSuccess);
    assert_int_equal(sample_launch(1, 32, 65 << 10), cudaErrorInvalidValue);
    emulator_set("EMULATOR_CAPABILITY", "90");
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
}

/* ---- matrix products ---- */

struct lt_case {
    cudaDataType in, out;
    bool ta, tb, add;
    int m, n, k, pad; /* pad: elements between columns */
};

static float lt_get(const void *x, cudaDataType type, size_t i) {
    return type == CUDA_R_32F    ? ((const float *)x)[i]
           : type == CUDA_R_16BF ? __bfloat162float(((const __nv_bfloat16 *)x)[i])
                                 : __half2float(((const __half *)x)[i]);
}
static void lt_put(void *x, cudaDataType type, size_t i, float value) {
    if (type == CUDA_R_32F)
        ((float *)x)[i] = value;
    else if (type == CUDA_R_16BF)
        ((__nv_bfloat16 *)x)[i] = __float2bfloat16_rn(value);
    else
        ((__half *)x)[i] = __float2half_rn(value);
}

struct lt_matrix {
    int rows, cols, ld;
    cudaDataType type;
    cublasLtMatrixLayout_t layout;
    size_t bytes;
    char *host, *device;
};
static lt_matrix lt_make(int rows, int cols, int pad, cudaDataType type) {
    lt_matrix m = {rows, cols, rows + pad, type, NULL, 0, NULL, NULL};
    m.bytes = (size_t)(m.ld * cols) * (type == CUDA_R_32F ? 4 : 2);
    m.host = (char *)calloc(1, m.bytes);
    for (int i = 0; i < m.ld * cols; i++)
        lt_put(m.host, type, (size_t)i, (float)(i * 5 % 11 - 5) / 2); /* sums are exact */
    assert_int_equal(cudaMalloc(&m.device, m.bytes), cudaSuccess);
    cudaMemcpy(m.device, m.host, m.bytes, cudaMemcpyHostToDevice);
    cublasLtMatrixLayoutCreate(&m.layout, type, (uint64_t)rows, (uint64_t)cols, m.ld);
    return m;
}
static void lt_drop(lt_matrix *m) {
    cublasLtMatrixLayoutDestroy(m->layout);
    cudaFree(m->device);
    free(m->host);
}

static void lt_compare(const lt_case *c, const lt_matrix *a, const lt_matrix *b,
                       lt_matrix *d) {
    char *got = (char *)malloc(d->bytes);
    assert_int_equal(cudaMemcpy(got, d->device, d->bytes, cudaMemcpyDeviceToHost),
                     cudaSuccess);
    for (int j = 0; j < c->n; j++)
        for (int i = 0; i < d->ld; i++) {
            float old = lt_get(d->host, c->out, (size_t)(j * d->ld + i)),
                  sum = c->add ? old : 0;
            for (int k = 0; k < c->k; k++)
                sum +=
                    0.5f *
                    lt_get(a->host, c->in, (size_t)(c->ta ? i * a->ld + k : k * a->ld + i)) *
                    lt_get(b->host, c->in, (size_t)(c->tb ? k * b->ld + j : j * b->ld + k));
            if (i >= c->m) sum = old; /* between columns nothing is written */
            lt_put(d->host, c->out, (size_t)(j * d->ld + i), sum);
        }
    assert_memory_equal(got, d->host, d->bytes);
    free(got);
}

static void lt_check(const lt_case *c) {
    lt_matrix a = lt_make(c->ta ? c->k : c->m, c->ta ? c->m : c->k, c->pad, c->in);
    lt_matrix b = lt_make(c->tb ? c->n : c->k, c->tb ? c->k : c->n, c->pad, c->in);
    lt_matrix d = lt_make(c->m, c->n, c->pad, c->out);
    cublasLtHandle_t lt;
    cublasLtMatmulDesc_t product;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found;
    int32_t ta = c->ta, tb = c->tb, count = 0;
    uint64_t room = 1 << 20;
    float alpha = 0.5f, beta = c->add;
    char *space;
    assert_int_equal(cudaMalloc(&space, room), cudaSuccess);
    assert_int_equal(cublasLtCreate(&lt), CUBLAS_STATUS_SUCCESS);
    cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta);
    cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb);
    cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &room, sizeof room);
    assert_int_equal(cublasLtMatmulAlgoGetHeuristic(lt, product, a.layout, b.layout, d.layout,
                                                    d.layout, preference, 1, &found, &count),
                     CUBLAS_STATUS_SUCCESS);
    assert_int_equal(count, 1);
    assert_true(found.workspaceSize > 0 && found.workspaceSize <= room);
    auto run = [&](char *to, size_t space_bytes) {
        return cublasLtMatmul(lt, product, &alpha, a.device, a.layout, b.device, b.layout,
                              &beta, to, d.layout, to, d.layout, &found.algo, space,
                              space_bytes, 0);
    };
    assert_int_equal(run(d.device, found.workspaceSize - 1), CUBLAS_STATUS_INVALID_VALUE);
    assert_int_equal(run(d.device + 2, room), CUBLAS_STATUS_INVALID_VALUE); /* 256 promised */
    assert_int_equal(run(d.device, room), CUBLAS_STATUS_SUCCESS);
    lt_compare(c, &a, &b, &d);
    lt_drop(&a);
    lt_drop(&b);
    lt_drop(&d);
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatmulDescDestroy(product);
    cublasLtDestroy(lt);
    cudaFree(space);
}

static void test_products_of_cublaslt(void **state) {
    static const lt_case cases[] = {
        {CUDA_R_32F, CUDA_R_32F, false, false, false, 5, 7, 9, 0},
        {CUDA_R_32F, CUDA_R_32F, true, false, true, 16, 3, 33, 2},
        {CUDA_R_16BF, CUDA_R_16BF, true, false, false, 8, 24, 16, 8},
        {CUDA_R_16BF, CUDA_R_32F, false, true, true, 17, 5, 6, 1},
        {CUDA_R_16F, CUDA_R_16F, true, true, true, 4, 4, 40, 0},
        {CUDA_R_16F, CUDA_R_32F, false, false, false, 1, 9, 1, 3},
    };
    emulator_reset();
    for (const lt_case &c : cases) lt_check(&c);
}

/* ---- the detector's numbers ---- */

static void test_traffic_is_counted(void **state) {
    emulator_traffic t;
    if (strcmp(TEXT(PLANTED_BUILD), "shadow")) skip();
    emulator_reset();
    emulator_set("EMULATOR_TRAFFIC", "1");
    sample_strided(1, 1);
    assert_int_equal(emulator_traffic_of("strided", &t), 1);
    assert_int_equal(t.read_sectors, 4); /* 128 bytes */
    assert_int_equal(t.least_read_sectors, 4);
    assert_int_equal(t.write_sectors, 4);
    assert_int_equal(t.shared_wavefronts, 2); /* one there, one back */
    sample_strided(8, 2);                     /* a sector per lane, every other bank */
    emulator_traffic_of("strided", &t);
    assert_int_equal(t.read_sectors, 4 + 32);
    assert_int_equal(t.least_read_sectors, 4 + 4);
    assert_int_equal(t.shared_wavefronts, 2 + 2 * 2);
    sample_strided(1, 33); /* padding: no conflicts */
    emulator_traffic_of("strided", &t);
    assert_int_equal(t.shared_wavefronts, 6 + 2);
    sample_strided(1, 32); /* a column: all lanes in one bank */
    emulator_traffic_of("strided", &t);
    assert_int_equal(t.shared_wavefronts, 8 + 2 * 32);
    assert_int_equal(t.least_shared_wavefronts, 4 * 2);
    assert_int_equal(t.blocks, 4);
}

/* Rows of 128 bytes start in one bank, rows of 144 in different ones. */
static void test_traffic_of_ldmatrix(void **state) {
    emulator_traffic plain, padded;
    if (strcmp(TEXT(PLANTED_BUILD), "shadow")) skip();
    emulator_reset();
    emulator_set("EMULATOR_TRAFFIC", "1");
    sample_ldmatrix(64);
    emulator_traffic_of("fragments", &plain);
    sample_ldmatrix(72);
    emulator_traffic_of("fragments", &padded);
    int64_t stores = 16 * 64 / 32, more_stores = 16 * 72 / 32; /* of 2 bytes, 32 lanes */
    assert_int_equal(plain.shared_wavefronts, stores + 32);
    assert_int_equal(padded.shared_wavefronts - plain.shared_wavefronts, more_stores + 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_planted_bugs_are_found),
        cmocka_unit_test(test_threads_together),
        cmocka_unit_test(test_a_deadlock_says_where),
        cmocka_unit_test(test_conversions_round_to_nearest_even),
        cmocka_unit_test(test_streams_run_when_waited_for),
        cmocka_unit_test(test_failures_are_injected),
        cmocka_unit_test(test_memory_has_an_end_and_edges),
        cmocka_unit_test(test_launches_are_checked),
        cmocka_unit_test(test_products_of_cublaslt),
        cmocka_unit_test(test_traffic_is_counted),
        cmocka_unit_test(test_traffic_of_ldmatrix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
