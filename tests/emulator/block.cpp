/* block.cpp: runs a grid: one block after another, its threads as fibers. See engine.h. */
#include "emulator/engine.h"
#include "emulator/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

engine_state engine;
const detector *engine_detector;
const uint3 *emulator_thread_index;
uint3 emulator_block_index;
dim3 emulator_block_size, emulator_grid_size;

static const char *const meeting_names[] = {"__syncthreads", "__syncwarp", "a shuffle",
                                            "a vote",        "ldmatrix",   "mma"};

static void set_ready(thread *t, bool ready) {
    int warp = t->number / LANES;
    if (ready)
        engine.ready[warp] |= 1u << lane_of(t);
    else
        engine.ready[warp] &= ~(1u << lane_of(t));
    if (engine.ready[warp])
        engine.ready_warps |= 1u << warp;
    else
        engine.ready_warps &= ~(1u << warp);
}

static void all_ready(void) {
    for (int w = 0; w < engine.warps; w++) {
        int lanes = engine.threads - w * LANES;
        engine.ready[w] = lanes >= LANES ? ~0u : (1u << lanes) - 1;
    }
    engine.ready_warps = engine.warps >= WARPS_MOST ? ~0u : (1u << engine.warps) - 1;
}

/* Waits for something, and it has not come yet. */
static bool waits(const thread *t) {
    return t->state == THREAD_WAITING && !(engine.ready[t->number / LANES] >> lane_of(t) & 1);
}

/* ---- who is next ---- */

/* The first set bit at or after `from`, cyclic; the mask is not 0. */
static int bit_after(uint32_t mask, int from) {
    uint32_t later = from < 32 ? mask & ~0u << from : 0;
    return __builtin_ctz(later ? later : mask);
}
/* The last set bit before `from`, cyclic. */
static int bit_before(uint32_t mask, int from) {
    uint32_t earlier = mask & ((1u << from) - 1);
    return 31 - __builtin_clz(earlier ? earlier : mask);
}

static int pick_random(void) {
    int warp = bit_after(engine.ready_warps, (int)(next_random(&engine.seed) % LANES));
    return warp * LANES +
           bit_after(engine.ready[warp], (int)(next_random(&engine.seed) % LANES));
}

/* Number of the next thread after `now`, which has just blocked or ended; -1: nobody is ready. */
static int pick(int now) {
    if (!engine.ready_warps) return -1;
    int warp = now / LANES, lane = now % LANES;
    switch (engine.order) {
    case ORDER_GREEDY:
        if (!engine.ready[warp]) warp = bit_after(engine.ready_warps, warp + 1);
        return warp * LANES + __builtin_ctz(engine.ready[warp]);
    case ORDER_REVERSED:
        if (!engine.ready[warp]) warp = bit_before(engine.ready_warps, warp);
        return warp * LANES + 31 - __builtin_clz(engine.ready[warp]);
    case ORDER_ROUND:
        if (lane < LANES - 1 && engine.ready[warp] >> (lane + 1))
            return warp * LANES + bit_after(engine.ready[warp], lane + 1);
        warp = bit_after(engine.ready_warps, warp + 1);
        return warp * LANES + __builtin_ctz(engine.ready[warp]);
    case ORDER_RANDOM:
        break;
    }
    return pick_random();
}

/* ---- switching ---- */

static void become(thread *t) {
    engine.here = t;
    emulator_thread_index = &t->index;
    t->state = THREAD_READY;
}

static void thread_entry(void);

static bool same_place(const thread *a, const thread *b) {
    return a->kind == b->kind && a->line == b->line &&
           (a->file == b->file || !strcmp(a->file, b->file));
}

/* "31 in __syncwarp at x.cu:12, 32 in ..." */
static const char *waiting_text(void) {
    static char text[900];
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; i < engine.threads && used < sizeof text; i++) {
        const thread *t = &engine.all[i];
        int before = 0, all = 0;
        if (!waits(t)) continue;
        for (int j = 0; j < engine.threads; j++) {
            const thread *o = &engine.all[j];
            if (!waits(o) || !same_place(t, o)) continue;
            all++;
            before += j < i;
        }
        if (before) continue;
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "%s%d in %s at %s:%d",
                             used ? ", " : "", all, meeting_names[t->kind], t->file, t->line);
    }
    return text;
}

static void deadlock(void) {
    engine_fail(cudaErrorLaunchTimeout, NULL, 0,
                "deadlock: of %d threads %d have ended and the others wait: %s",
                engine.threads, engine.done, waiting_text());
}

/* Leaves the running thread for thread `number`, on a fiber of its own if it has none yet. */
static void switch_to(int number, bool dying) {
    fiber *from = engine.here->on;
    thread *t = &engine.all[number];
    if (!t->on) t->on = fiber_take(thread_entry);
    become(t);
    fiber_switch(from, t->on, dying);
}

/* Whoever ends must not be waited for. */
static void check_end(const thread *t) {
    if (engine.at_barrier) {
        engine_fail(cudaErrorLaunchFailure, NULL, 0, "the thread ended while others wait: %s",
                    waiting_text());
    }
    for (const warp_meeting &m : engine.open[t->number / LANES])
        if (m.mask >> lane_of(t) & 1)
            engine_fail(cudaErrorLaunchFailure, m.file, m.line,
                        "lane %d has ended while others of its warp wait for it in %s",
                        lane_of(t), meeting_names[m.kind]);
}

/* A thread that ends lets the next one that has not begun yet start on its fiber: kernels
 * without barriers run on one stack. */
static void thread_entry(void) {
    fiber_started();
    for (;;) {
        engine.now->body();
        thread *t = engine.here;
        fiber *f = t->on;
        t->state = THREAD_DONE;
        t->on = NULL;
        engine.done++;
        set_ready(t, false);
        check_end(t);
        int next = pick(t->number);
        if (next < 0 && engine.done < engine.threads) deadlock();
        if (next >= 0 && !engine.all[next].on) {
            engine.all[next].on = f;
            become(&engine.all[next]);
            continue;
        }
        fiber_give(f);
        if (next >= 0) {
            become(&engine.all[next]);
            fiber_switch(f, engine.here->on, true);
        } else {
            fiber_switch(f, engine.outside, true);
        }
    }
}

void engine_wait(meeting kind, unsigned mask, const char *file, int line) {
    thread *t = engine.here;
    t->state = THREAD_WAITING;
    t->kind = kind;
    t->mask = mask;
    t->file = file;
    t->line = line;
    set_ready(t, false);
    int next = pick(t->number);
    if (next < 0) deadlock();
    switch_to(next, false);
}

void engine_wake(int warp, unsigned lanes) {
    engine.ready[warp] |= lanes;
    if (lanes) engine.ready_warps |= 1u << warp;
}

void engine_fail(cudaError_t error, const char *file, int line, const char *format, ...) {
    static char text[2048]; /* static: the stack is left for good */
    const thread *t = engine.here;
    if (!engine_in_kernel()) {
        fprintf(stderr, "emulator: %s:%d: a kernel's function outside a kernel\n",
                file ? file : "?", line);
        abort();
    }
    int used =
        snprintf(text, sizeof text,
                 "%.500s, block (%u, %u, %u), thread (%u, %u, %u): ", engine.now->name.c_str(),
                 emulator_block_index.x, emulator_block_index.y, emulator_block_index.z,
                 t->index.x, t->index.y, t->index.z);
    if (file && line)
        used += snprintf(text + used, sizeof text - (size_t)used, "%.300s:%d: ", file, line);
    else if (file) /* it holds the line already */
        used += snprintf(text + used, sizeof text - (size_t)used, "%.300s: ", file);
    va_list list;
    va_start(list, format);
    vsnprintf(text + used, sizeof text - (size_t)used, format, list);
    va_end(list);
    if (engine.loud) fprintf(stderr, "emulator: %s\n", text);
    if (engine.report.empty()) engine.report = text;
    engine.failed = error;
    fiber_switch(engine.here->on, engine.outside, true);
    abort(); /* nobody comes back */
}

/* ---- barriers ---- */

int emulator_barrier(emulator_count what, int predicate, const char *file, int line) {
    if (engine.done)
        engine_fail(cudaErrorLaunchFailure, file, line,
                    "__syncthreads after %d threads of the block have ended", engine.done);
    thread *t = engine.here;
    if (!engine.at_barrier) {
        engine.barrier_value = what == COUNT_AND;
        engine.barrier_what = what;
        t->value = 0;
        engine.barrier_file = file;
        engine.barrier_line = line;
    } else if (engine.barrier_line != line ||
               (engine.barrier_file != file && strcmp(engine.barrier_file, file))) {
        engine_fail(cudaErrorLaunchFailure, file, line,
                    "__syncthreads while others wait in the one at %s:%d", engine.barrier_file,
                    engine.barrier_line);
    }
    switch (what) {
    case COUNT_NONE:
        break;
    case COUNT_SUM:
        engine.barrier_value += predicate != 0;
        break;
    case COUNT_OR:
        engine.barrier_value |= predicate != 0;
        break;
    case COUNT_AND:
        engine.barrier_value &= predicate != 0;
        break;
    }
    if (++engine.at_barrier < engine.threads) {
        engine_wait(MEET_BARRIER, 0, file, line);
        return (int)t->result;
    }
    engine.at_barrier = 0;
    DETECT(barrier);
    if (what != COUNT_NONE)
        for (int i = 0; i < engine.threads; i++)
            engine.all[i].result = (uint64_t)engine.barrier_value;
    all_ready();
    return engine.barrier_value;
}

/* ---- blocks and grids ---- */

static void block_begin(launch *l) {
    unsigned i = 0;
    engine.threads = (int)(l->block.x * l->block.y * l->block.z);
    engine.warps = (engine.threads + LANES - 1) / LANES;
    engine.done = engine.at_barrier = 0;
    for (int w = 0; w < engine.warps; w++) engine.open[w].clear();
    all_ready();
    for (unsigned z = 0; z < l->block.z; z++)
        for (unsigned y = 0; y < l->block.y; y++)
            for (unsigned x = 0; x < l->block.x; x++, i++) {
                thread *t = &engine.all[i];
                t->index = make_uint3(x, y, z);
                t->number = (int)i;
                t->state = THREAD_NEW;
                t->on = NULL;
                t->file = NULL;
                t->pieces.clear();
                t->groups = 0;
            }
    memset(engine.shared, 0xff, l->shared);
    DETECT(block_begins);
}

/* Returns false when the grid is to end. */
static bool block_run(launch *l, uint64_t number) {
    engine.block = number;
    emulator_block_index =
        make_uint3((unsigned)(number % l->grid.x), (unsigned)(number / l->grid.x % l->grid.y),
                   (unsigned)(number / l->grid.x / l->grid.y));
    block_begin(l);
    engine.counts.blocks++;
    engine.counts.threads += engine.threads;
    int first = engine.order == ORDER_REVERSED ? engine.threads - 1
                : engine.order == ORDER_RANDOM ? pick_random()
                                               : 0;
    thread *t = &engine.all[first];
    t->on = fiber_take(thread_entry);
    become(t);
    engine.outside = fiber_main();
    fiber_switch(engine.outside, t->on, false);
    DETECT(block_ends);
    if (!engine.failed) return true;
    for (int i = 0; i < engine.threads; i++) /* what still waits is dropped */
        if (engine.all[i].on) fiber_drop(engine.all[i].on);
    return false;
}

/* Shared memory ends at a guard page, so that 16 bytes behind it are none. */
static void shared_memory(size_t bytes) {
    static unsigned char *room;
    const size_t page = 65536, most = 256 << 10;
    if (!room) {
        room = (unsigned char *)mmap(NULL, most + page, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (room == MAP_FAILED || mprotect(room + most, page, PROT_NONE)) {
            perror("emulator: shared memory");
            abort();
        }
    }
    size_t rounded = (bytes + 127) / 128 * 128;
    engine.shared = room + most - rounded;
    engine.shared_room = bytes;
}

cudaError_t engine_run(launch *l) {
    if (engine.now) {
        fprintf(stderr, "emulator: a kernel within a kernel\n");
        abort();
    }
    engine.now = l;
    engine.failed = cudaSuccess;
    engine.order = emulator_settings.order;
    engine.seed = emulator_settings.order_seed ^ l->number;
    emulator_block_size = l->block;
    emulator_grid_size = l->grid;
    shared_memory(l->shared);
    uint64_t blocks = (uint64_t)l->grid.x * l->grid.y * l->grid.z;
    uint64_t start = engine.order == ORDER_RANDOM ? next_random(&engine.seed) % blocks : 0;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t n = engine.order == ORDER_REVERSED ? blocks - 1 - i : (i + start) % blocks;
        if (!block_run(l, n)) break;
    }
    engine.counts.launches++;
    engine.now = NULL;
    engine.here = NULL;
    return engine.failed;
}

unsigned char *emulator_shared(void) {
    return engine.shared;
}
int emulator_lane(void) {
    return lane_of(engine.here);
}
