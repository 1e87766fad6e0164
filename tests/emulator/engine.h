/* engine.h: what the emulator's own files share: threads, warps, blocks, errors, settings.
 *
 * One block runs at a time. Its threads are in one of three states: ready (a bit of its warp's
 * mask), waiting (at a barrier or with lanes of its warp) or done; `block_wait` gives the
 * processor to the next ready one in the order that was asked for. When nobody is ready and
 * somebody waits, that is a deadlock: it is reported with the lines where threads stand. */
#ifndef NIBBLE_TESTS_EMULATOR_ENGINE_H
#define NIBBLE_TESTS_EMULATOR_ENGINE_H

#include <cuda_runtime.h>

#include "emulator/emulator.h"
#include "emulator/fiber.h"

#include <functional>
#include <mutex>
#include <stdarg.h>
#include <string>
#include <vector>

enum { LANES = 32, THREADS_MOST = 1024, WARPS_MOST = 32 };

enum thread_state { THREAD_NEW, THREAD_READY, THREAD_WAITING, THREAD_DONE };

/* What a waiting thread waits in. */
enum meeting { MEET_BARRIER, MEET_WARP, MEET_SHUFFLE, MEET_VOTE, MEET_LDMATRIX, MEET_MMA };

struct cp_piece {
    unsigned char *to;
    const unsigned char *from; /* NULL: zeros */
    int group;
    const char *file;
    int line;
};

struct thread {
    uint3 index;
    int number; /* in the block */
    thread_state state;
    fiber *on;
    /* the meeting */
    meeting kind;
    unsigned mask;
    const char *file;
    int line;
    /* operands and results of warp operations */
    uint64_t value, result;
    int from;
    const void *address;
    uint32_t *out;
    float *d;
    const uint32_t *a, *b;
    /* cp.async */
    std::vector<cp_piece> pieces;
    int groups; /* committed so far */
};

/* Lanes of a warp that wait for each other; the last to come does the work for all. */
struct warp_meeting {
    meeting kind;
    unsigned mask, arrived;
    const char *file;
    int line;
};

struct launch {
    std::string name;
    const void *kernel;
    dim3 grid, block;
    size_t shared;
    std::function<void()> body;
    const void *arguments; /* the kernel's, which a thread may read */
    size_t argument_bytes;
    void (*forget)(void *arguments);
    uint64_t number; /* from 1 */
};

enum order_kind { ORDER_GREEDY, ORDER_REVERSED, ORDER_ROUND, ORDER_RANDOM };

struct engine_state {
    launch *now;    /* the grid that runs; NULL between grids */
    uint64_t block; /* number of the block */
    int threads, warps, done;
    thread *here; /* the running thread */
    thread all[THREADS_MOST];
    uint32_t ready[WARPS_MOST]; /* per warp, a bit per lane */
    uint32_t ready_warps;
    std::vector<warp_meeting> open[WARPS_MOST]; /* meetings that wait for lanes */
    int at_barrier;
    int barrier_value;
    const char *barrier_file;
    int barrier_line;
    emulator_count barrier_what;
    unsigned char *shared;
    size_t shared_room; /* bytes behind `shared` */
    order_kind order;
    uint64_t seed;
    fiber *outside;
    cudaError_t failed; /* of the grid */
    emulator_counts counts;
    std::string report;
    bool loud;
};
extern engine_state engine;

static inline int lane_of(const thread *t) {
    return t->number % LANES;
}
static inline thread *warp_of(const thread *t) {
    return &engine.all[t->number / LANES * LANES];
}

/* Runs a whole grid; cudaSuccess, or what the first bug found in it amounts to. */
cudaError_t engine_run(launch *l);

/* Ends the grid with a report. From a thread of a kernel it does not return. */
[[noreturn]] void engine_fail(cudaError_t error, const char *file, int line,
                              const char *format, ...) __attribute__((format(printf, 4, 5)));

/* The running thread waits until engine_wake, or the end of the barrier. */
void engine_wait(meeting kind, unsigned mask, const char *file, int line);
void engine_wake(int warp, unsigned lanes);
/* Whether a kernel runs; what only kernels may call aborts otherwise. */
static inline bool engine_in_kernel(void) {
    return engine.now != NULL;
}

/* ---- memory.cpp ---- */

enum memory_kind { MEMORY_DEVICE, MEMORY_PINNED, MEMORY_REGISTERED };
struct allocation {
    unsigned char *base;
    size_t bytes;
    memory_kind kind;
    void *map;
    size_t map_bytes;
    unsigned char
        *written; /* per byte, whether anything ever wrote it; NULL without detector */
    struct cell_map *cells; /* who touched it; NULL without the detector */
};
/* The allocation that holds the address, or NULL. */
allocation *memory_find(const void *at);
/* Whether [at, at + bytes) lies within one allocation. */
bool memory_holds(const void *at, size_t bytes);
void memory_reset(void);
/* Explains an address that no allocation holds: "4 bytes behind the 1,000 at 0x..". */
const char *memory_explain(const void *at);

/* Kernels and copies may touch device memory from here on, the host may not, and the other way round.
 * Pairs nest. */
void memory_begin(void);
void memory_end(void);
/* The host's turn in between; resume takes what pause returned. */
int memory_pause(void);
void memory_resume(int depth);

/* ---- the detector: shadow.cpp, linked where kernels are compiled for it ---- */

struct detector {
    void (*allocated)(allocation *a);
    void (*freed)(allocation *a);
    void (*block_begins)(void);
    void (*block_ends)(void);
    void (*barrier)(void);
    void (*warp_barrier)(int warp);
    void (*warp_meets)(int warp); /* lanes stand side by side again, memory is not ordered */
    /* By thread t of the block: `bytes` at an address that was checked. */
    void (*read)(const thread *t, const void *at, size_t bytes, const char *file, int line);
    void (*write)(const thread *t, const void *at, size_t bytes, const char *file, int line);
    void (*flight)(const void *at, bool begins); /* 16 bytes that a cp.async fills */
    /* By the host or a library. */
    void (*filled)(const void *at, size_t bytes);
    void (*copied)(const void *to, const void *from, size_t bytes);
    bool (*defined)(const void *at, size_t bytes);
};
extern const detector *engine_detector; /* NULL: none */
#define DETECT(function, ...)                                                                 \
    do {                                                                                      \
        if (engine_detector) engine_detector->function(__VA_ARGS__);                          \
    } while (0)

/* ---- runtime.cpp ---- */

struct settings {
    order_kind order;
    uint64_t order_seed;
    enum { LAZY, EAGER, RANDOM } streams;
    uint64_t stream_seed;
    std::string fail_call;
    int64_t fail_at;
    int fail_error;
    size_t memory;
    int devices, capability, driver, traffic, slow_product;
};
extern settings emulator_settings;

/* One call of the runtime: takes the lock, counts, injects, and has the sticky error. */
struct api_call {
    std::unique_lock<std::recursive_mutex> lock;
    cudaError_t error;
    explicit api_call(const char *name);
    /* Remembers the last error. */
    cudaError_t give(cudaError_t e);
};
#define API_CALL                                                                              \
    api_call call(__func__);                                                                  \
    if (call.error) return call.give(call.error)
/* Sets the sticky error. */
void runtime_stick(cudaError_t error);
cudaError_t runtime_sticky(void);
cudaError_t runtime_kernel_shared(const void *kernel, size_t shared);
void runtime_reset(void);
int runtime_shared_most(void);

/* ---- stream.cpp ---- */

/* Appends to the stream; runs it now or later, as set. */
void stream_enqueue(cudaStream_t s, std::function<void()> work);
cudaError_t stream_check(cudaStream_t s);
void stream_drain_all(void);
bool stream_in_host_function(void);
void stream_reset(void);

/* A small generator for orders. */
static inline uint64_t next_random(uint64_t *seed) {
    uint64_t z = (*seed += 0x9E3779B97F4A7C15u); /* splitmix64 */
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

#endif
