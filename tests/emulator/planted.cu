/* planted.cu: see planted.h. The table with what each build must say is at the end. */
#include "autograd/cuda/device.h"
#include "emulator/planted.h"

#include <stdio.h>
#include <vector>

/* ---- what runs share ---- */

/* A copy of `n` numbers in an allocation of its own. */
template <typename T> static T *on_device(const std::vector<T> &x) {
    T *at = NULL;
    cudaMalloc(&at, x.size() * sizeof(T));
    cudaMemcpy(at, x.data(), x.size() * sizeof(T), cudaMemcpyHostToDevice);
    return at;
}
template <typename T> static std::vector<T> from_device(const T *at, size_t n) {
    std::vector<T> x(n);
    if (cudaMemcpy(x.data(), at, n * sizeof(T), cudaMemcpyDeviceToHost) != cudaSuccess)
        x.clear();
    return x;
}
template <typename T> static T *nothing(size_t n) {
    T *at = NULL;
    cudaMalloc(&at, n * sizeof(T));
    return at;
}
static std::vector<float> numbers(size_t n) {
    std::vector<float> x(n);
    for (size_t i = 0; i < n; i++) x[i] = (float)(i * 7 % 23) - 11;
    return x;
}

/* ---- barriers in a reduction ---- */

enum { SUM_THREADS = 128 };

__global__ void reduce(const float *x, float *out, bool bug) {
    SHARED(raw);
    float *part = (float *)raw;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float sum = warp_sum(x[blockIdx.x * blockDim.x + threadIdx.x]);
    if (lane == 0) part[warp] = sum;
    if (!bug) __syncthreads();
    float all = 0;
    for (int i = 0; i < SUM_THREADS / WARP; i++) all += part[i];
    if (threadIdx.x == 0) out[blockIdx.x] = all;
}

static bool run_reduce(bool bug) {
    enum { BLOCKS = 3 };
    std::vector<float> x = numbers(BLOCKS * SUM_THREADS), want(BLOCKS);
    for (size_t i = 0; i < x.size(); i++) want[i / SUM_THREADS] += x[i];
    float *in = on_device(x), *out = nothing<float>(BLOCKS);
    LAUNCH(reduce, BLOCKS, SUM_THREADS, SUM_THREADS / WARP * 4, 0, in, out, bug);
    return from_device(out, BLOCKS) == want;
}

/* ---- a pipeline of cp.async: wait, barrier, barrier at the end of the loop ---- */

enum pipeline_bug { PIPE_RIGHT, PIPE_NO_WAIT, PIPE_NO_BARRIER, PIPE_NO_END, PIPE_NO_COMMIT };
enum { PIPE_THREADS = 64, PIPE_TILE = PIPE_THREADS * 4 };

/* out[t] = sum over tiles of the tile's elements 4 (63 - t) .. + 3: each thread reads what another
 * one copied. */
__global__ void pipeline(const float *x, float *out, int tiles, pipeline_bug bug) {
    SHARED(raw);
    float *stage[2] = {(float *)raw, (float *)raw + PIPE_TILE};
    int t = threadIdx.x;
    float sum = 0;
    cp_async_16(stage[0] + 4 * t, x + 4 * t, true);
    cp_async_commit();
    for (int i = 0; i < tiles; i++) {
        bool more = i + 1 < tiles;
        const float *next = x + (int64_t)(i + 1) * PIPE_TILE;
        cp_async_16(stage[(i + 1) & 1] + 4 * t, more ? next + 4 * t : x, more);
        if (bug != PIPE_NO_COMMIT) cp_async_commit();
        if (bug != PIPE_NO_WAIT) cp_async_wait<1>();
        if (bug != PIPE_NO_BARRIER) __syncthreads();
        const float *from = stage[i & 1] + 4 * (PIPE_THREADS - 1 - t);
        for (int j = 0; j < 4; j++) sum += from[j];
        if (bug != PIPE_NO_END) __syncthreads();
    }
    out[t] = sum;
}

static bool run_pipeline(pipeline_bug bug) {
    enum { TILES = 5 };
    std::vector<float> x = numbers(TILES * PIPE_TILE), want(PIPE_THREADS);
    for (size_t i = 0; i < x.size(); i++) want[PIPE_THREADS - 1 - i % PIPE_TILE / 4] += x[i];
    float *in = on_device(x), *out = nothing<float>(PIPE_THREADS);
    LAUNCH(pipeline, 1, PIPE_THREADS, 2 * PIPE_TILE * 4, 0, in, out, (int)TILES, bug);
    return from_device(out, PIPE_THREADS) == want;
}
static bool run_no_wait(bool bug) {
    return run_pipeline(bug ? PIPE_NO_WAIT : PIPE_RIGHT);
}
static bool run_no_cp_barrier(bool bug) {
    return run_pipeline(bug ? PIPE_NO_BARRIER : PIPE_RIGHT);
}
static bool run_no_end(bool bug) {
    return run_pipeline(bug ? PIPE_NO_END : PIPE_RIGHT);
}
static bool run_no_commit(bool bug) {
    return run_pipeline(bug ? PIPE_NO_COMMIT : PIPE_RIGHT);
}

/* ---- one warp ---- */

enum warp_bug { WARP_RIGHT, WARP_NO_SYNC, WARP_UNWRITTEN, WARP_WRONG_LANE, WARP_ABSENT };

/* out[lane] = x[31 - lane] + x[0], the first through shared memory, the second by a shuffle. */
__global__ void exchange(const float *x, float *out, warp_bug bug) {
    SHARED(raw);
    float *line = (float *)raw;
    int lane = threadIdx.x;
    if (bug != WARP_UNWRITTEN || lane) line[lane] = x[lane];
    if (bug != WARP_NO_SYNC) __syncwarp();
    float a = line[WARP - 1 - lane], b = x[lane];
    if (bug == WARP_ABSENT && lane >= 16)
        b = x[0];
    else
        b = __shfl_sync(0xffffffffu, b, bug == WARP_WRONG_LANE ? 1 : 0);
    out[lane] = a + b;
}

static bool run_exchange(warp_bug bug) {
    std::vector<float> x = numbers(WARP), want(WARP);
    for (int i = 0; i < WARP; i++) want[i] = x[WARP - 1 - i] + x[0];
    float *in = on_device(x), *out = nothing<float>(WARP);
    LAUNCH(exchange, 1, WARP, WARP * 4, 0, in, out, bug);
    return from_device(out, WARP) == want;
}
static bool run_no_syncwarp(bool bug) {
    return run_exchange(bug ? WARP_NO_SYNC : WARP_RIGHT);
}
static bool run_unwritten(bool bug) {
    return run_exchange(bug ? WARP_UNWRITTEN : WARP_RIGHT);
}
static bool run_wrong_lane(bool bug) {
    return run_exchange(bug ? WARP_WRONG_LANE : WARP_RIGHT);
}
static bool run_absent(bool bug) {
    return run_exchange(bug ? WARP_ABSENT : WARP_RIGHT);
}

/* ---- edges, alignment, blocks ---- */

/* The row behind the last is read, and its product thrown away. */
__global__ void edge(const float *x, float *out, int n, bool bug) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float v = bug ? (i <= n ? x[i] : 0) : (i < n ? x[i] : 0);
    if (i < n) out[i] = 2 * v;
}
static bool run_edge(bool bug) {
    enum { N = 100 };
    std::vector<float> x = numbers(N), want(N);
    for (int i = 0; i < N; i++) want[i] = 2 * x[i];
    float *in = on_device(x), *out = nothing<float>(N);
    LAUNCH(edge, 2, 64, 0, 0, in, out, (int)N, bug);
    return from_device(out, N) == want;
}

/* Rows of 6 floats are 8-byte aligned; the bug stores 16 bytes. */
__global__ void store_row(const float4 *first, float *out, bool bug) {
    float *row = out + 6 * threadIdx.x;
    float4 v = *first;
    if (bug) {
        *(float4 *)row = v;
    } else {
        *(float2 *)row = make_float2(v.x, v.y);
        *(float2 *)(row + 2) = make_float2(v.z, v.w);
    }
    *(float2 *)(row + 4) = make_float2(5, 6);
}
static bool run_misaligned(bool bug) {
    float4 *first = on_device(std::vector<float4>(1, make_float4(1, 2, 3, 4)));
    float *out = nothing<float>(6 * 4);
    LAUNCH(store_row, 1, 4, 0, 0, first, out, bug);
    std::vector<float> x = from_device(out, 6 * 4);
    for (size_t i = 0; i < x.size(); i++)
        if (x[i] != (float)(i % 6 + 1)) return false;
    return !x.empty();
}

/* Sums of blocks of 32; the bug adds all of them in place. */
__global__ void block_sums(const float *x, float *out, bool bug) {
    float sum = warp_sum(x[blockIdx.x * WARP + threadIdx.x]);
    if (threadIdx.x) return;
    if (bug)
        out[0] = (blockIdx.x ? out[0] : 0) + sum;
    else
        out[blockIdx.x] = sum;
}
static bool run_two_blocks(bool bug) {
    enum { BLOCKS = 4 };
    std::vector<float> x = numbers(BLOCKS * WARP);
    float *in = on_device(x), *out = on_device(std::vector<float>(BLOCKS)), want = 0, got = 0;
    LAUNCH(block_sums, BLOCKS, WARP, 0, 0, in, out, bug);
    for (float v : x) want += v;
    for (float v : from_device(out, BLOCKS)) got += v;
    return got == want;
}

/* ---- barriers that not all reach ---- */

enum reach_bug { REACH_RIGHT, REACH_DIVERGENT, REACH_RETURN };

__global__ void reach(float *out, int n, reach_bug bug) {
    SHARED(raw);
    float *x = (float *)raw;
    int t = threadIdx.x;
    if (bug == REACH_RETURN && t >= n) return;
    x[t] = (float)t;
    if (bug != REACH_DIVERGENT || t < WARP) __syncthreads();
    if (t < n) out[t] = x[t ^ 1];
}
static bool run_reach(reach_bug bug) {
    enum { N = 50 };
    float *out = nothing<float>(N);
    LAUNCH(reach, 1, 64, 64 * 4, 0, out, (int)N, bug);
    std::vector<float> x = from_device(out, N);
    for (size_t i = 0; i < x.size(); i++)
        if (x[i] != (float)(i ^ 1)) return false;
    return !x.empty();
}
static bool run_divergent(bool bug) {
    return run_reach(bug ? REACH_DIVERGENT : REACH_RIGHT);
}
static bool run_return(bool bug) {
    return run_reach(bug ? REACH_RETURN : REACH_RIGHT);
}

/* ---- ldmatrix ---- */

enum { MAT = 16, MAT_STRIDE = 24 /* elements; 16-byte aligned rows */ };

/* C[16,8] = A[16,16] B[8,16]^T. The bug takes B's rows as if they were A's. */
template <typename T> __global__ void product(const T *a, const T *b, float *c, bool bug) {
    SHARED(raw);
    T *sa = (T *)raw, *sb = sa + MAT * MAT_STRIDE;
    int lane = threadIdx.x, g = lane / 4, t = lane % 4;
    for (int i = lane; i < MAT * MAT; i += WARP)
        sa[i / MAT * MAT_STRIDE + i % MAT] = a[i], sb[i / MAT * MAT_STRIDE + i % MAT] = b[i];
    __syncwarp();
    uint32_t fa[4], fb[4];
    int rows = lane & 15, cols = (lane >> 4) * 8;
    ldmatrix_x4(fa, sa + rows * MAT_STRIDE + cols);
    if (!bug) rows = (lane >> 4) * 8 + (lane & 7), cols = (lane >> 3 & 1) * 8;
    ldmatrix_x4(fb, sb + rows * MAT_STRIDE + cols);
    for (int half = 0; half < 2; half++) {
        float d[4] = {0, 0, 0, 0};
        mma_16816<T>(d, fa, fb + 2 * half);
        for (int i = 0; i < 4; i++) c[(g + i / 2 * 8) * MAT + half * 8 + 2 * t + i % 2] = d[i];
    }
}
template <typename T> static bool run_product(bool bug) {
    std::vector<float> x = numbers(2 * MAT * MAT);
    std::vector<T> a, b;
    for (int i = 0; i < MAT * MAT; i++) {
        a.push_back(from_f32<T>(x[i] / 4));
        b.push_back(from_f32<T>(x[MAT * MAT + i] / 4));
    }
    T *da = on_device(a), *db = on_device(b);
    float *c = nothing<float>(MAT * MAT);
    LAUNCH(product<T>, 1, WARP, 2 * MAT * MAT_STRIDE * 2, 0, da, db, c, bug);
    std::vector<float> got = from_device(c, MAT * MAT);
    for (size_t i = 0; i < got.size(); i++) {
        float want = 0;
        for (int k = 0; k < MAT; k++)
            want += to_f32<T>(a[i / MAT * MAT + k]) * to_f32<T>(b[i % MAT * MAT + k]);
        if (got[i] != want) return false; /* exact: few bits */
    }
    return !got.empty();
}

/* ---- streams ---- */

__global__ void twice(const float *x, float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = 2 * x[i];
}

struct two_streams {
    cudaStream_t copy, compute;
    cudaEvent_t ready;
    float *pinned, *in, *out;
    int n;
};
static two_streams streams_open(const std::vector<float> &x) {
    two_streams s;
    s.n = (int)x.size();
    cudaStreamCreateWithFlags(&s.copy, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&s.compute, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&s.ready, cudaEventDisableTiming);
    cudaMallocHost(&s.pinned, x.size() * 4);
    memcpy(s.pinned, x.data(), x.size() * 4);
    s.in = on_device(std::vector<float>(x.size()));
    s.out = nothing<float>(x.size());
    return s;
}
static std::vector<float> streams_close(two_streams *s) {
    cudaStreamSynchronize(s->compute);
    std::vector<float> got = from_device(s->out, (size_t)s->n);
    cudaEventDestroy(s->ready);
    cudaStreamDestroy(s->copy);
    cudaStreamDestroy(s->compute);
    return got;
}
static void streams_copy(const two_streams *s) {
    cudaMemcpyAsync(s->in, s->pinned, (size_t)s->n * 4, cudaMemcpyHostToDevice, s->copy);
}
static void streams_compute(const two_streams *s) {
    LAUNCH(twice, 4, 32, 0, s->compute, s->in, s->out, s->n);
}
static std::vector<float> doubled(std::vector<float> x) {
    for (float &v : x) v *= 2;
    return x;
}

static bool run_no_event(bool bug) {
    std::vector<float> x = numbers(100);
    two_streams s = streams_open(x);
    streams_copy(&s);
    cudaEventRecord(s.ready, s.copy);
    if (!bug) cudaStreamWaitEvent(s.compute, s.ready, 0);
    streams_compute(&s);
    return streams_close(&s) == doubled(x);
}
/* Pinned memory is the host's again before the copy has run. */
static bool run_early_reuse(bool bug) {
    std::vector<float> x = numbers(100);
    two_streams s = streams_open(x);
    streams_copy(&s);
    cudaEventRecord(s.ready, s.copy);
    if (!bug) cudaEventSynchronize(s.ready);
    memset(s.pinned, 0, 400);
    cudaStreamWaitEvent(s.compute, s.ready, 0);
    streams_compute(&s);
    return streams_close(&s) == doubled(x);
}
static bool run_host_access(bool bug) {
    float *at = on_device(numbers(4));
    return (bug ? at[1] : from_device(at, 4)[1]) == numbers(4)[1];
}

/* ---- what each build must say ---- */

/* A bug that the shadow only finds as wrong numbers is one of values, not of accesses. Plain g++
 * splits the store of 16 bytes into parts that are aligned. */
const planted planted_bugs[] = {
    {"no barrier in a reduction", run_reduce, WRONG, WRONG, FOUND},
    {"no wait for cp.async", run_no_wait, WRONG, WRONG, FOUND},
    {"no barrier after the wait", run_no_cp_barrier, WRONG, WRONG, FOUND},
    {"no barrier at the end of a loop", run_no_end, WRONG, WRONG, FOUND},
    {"no commit of cp.async", run_no_commit, WRONG, WRONG, FOUND},
    {"no __syncwarp", run_no_syncwarp, WRONG, WRONG, FOUND},
    {"a read of shared memory that nobody wrote", run_unwritten, WRONG, WRONG, FOUND},
    {"a shuffle from the wrong lane", run_wrong_lane, WRONG, WRONG, WRONG},
    {"a shuffle without all lanes", run_absent, FOUND, FOUND, FOUND},
    {"a tile's edge, result still right", run_edge, MISSED, FOUND, FOUND},
    {"a misaligned store of 16 bytes", run_misaligned, MISSED, FOUND, FOUND},
    {"two blocks, one word", run_two_blocks, WRONG, WRONG, FOUND},
    {"a barrier in a branch", run_divergent, FOUND, FOUND, FOUND},
    {"a return before a barrier", run_return, FOUND, FOUND, FOUND},
    {"a wrong row of ldmatrix, bf16", run_product<bf16>, WRONG, WRONG, WRONG},
    {"a wrong row of ldmatrix, f16", run_product<f16>, WRONG, WRONG, WRONG},
    {"no event between two streams", run_no_event, WRONG, WRONG, WRONG},
    {"pinned memory reused too early", run_early_reuse, WRONG, WRONG, WRONG},
    {"the host reads device memory", run_host_access, FOUND, FOUND, FOUND},
};
const int planted_count = sizeof planted_bugs / sizeof *planted_bugs;
