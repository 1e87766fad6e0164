/* shadow.cpp: the detector: who touched which byte when.
 *
 * Kernels compiled with -fsanitize=thread call __tsan_readN and __tsan_writeN at every access; no
 * ThreadSanitizer is linked, the functions are here. Every byte of shared memory and of
 * allocations has a cell (a word of 4 shares one while it is touched as a whole) with its last
 * writer and two of its last readers, each a number of
 *
 *   [launch 16 | block 20 | thread 10 | epoch 18]
 *
 * where a warp's epoch counts its barriers and __syncwarps. Two accesses are in order if they
 * are one thread's, of different launches, or, within a block, if a barrier lies between them or
 * they are one warp's with a __syncwarp between; nothing orders two blocks. Shuffles, votes,
 * ldmatrix and mma order nothing. Of the readers since the last order, two from as far apart as
 * possible are kept: whoever writes next races with one of them if it races with any.
 *
 * Also found: reads of bytes that nothing has written, or that a cp.async still fills;
 * addresses outside every allocation or misaligned for their size; other threads' stacks and
 * the host's memory. Accesses are handed to traffic.cpp to be counted. */
#include "emulator/engine.h"
#include "emulator/traffic.h"

#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct cell {
    uint64_t write, read[2];
};

/* Cells of a piece of memory: one per word of 4 bytes until a part of the word is touched, then
 * one per byte until something writes all of it. */
struct cell_map {
    cell *words, *bytes;
    unsigned char *split; /* per word */
};

enum { EPOCH_BITS = 18, THREAD_BITS = 10, BLOCK_BITS = 20, SHARED_MOST = 256 << 10 };
static const uint64_t EPOCHS = (uint64_t)1 << EPOCH_BITS;

static uint64_t epoch[WARPS_MOST], barrier_epoch[WARPS_MOST];
static uint64_t grid_word; /* launch and block of the running block */
static cell shared_words[SHARED_MOST / 4], shared_bytes[SHARED_MOST];
static unsigned char shared_split[SHARED_MOST / 4], shared_written[SHARED_MOST];
static unsigned char in_flight[SHARED_MOST];
static int flights; /* bytes of in_flight that are set */

/* ---- words ---- */

static inline uint64_t word_of(const thread *t) {
    return grid_word | (uint64_t)t->number << EPOCH_BITS | epoch[t->number / LANES];
}
static inline int word_thread(uint64_t w) {
    return (int)(w >> EPOCH_BITS & ((1 << THREAD_BITS) - 1));
}
static inline uint64_t word_grid(uint64_t w) {
    return w >> (EPOCH_BITS + THREAD_BITS);
}
static inline uint64_t word_launch(uint64_t w) {
    return w >> (EPOCH_BITS + THREAD_BITS + BLOCK_BITS);
}

/* How unordered an earlier access is with one of now: 0 in order, 1 same warp, 2 another warp
 * of the block, 3 another block. */
static inline int apart(uint64_t earlier, uint64_t now, bool shared) {
    uint64_t differ = earlier ^ now;
    if (!(differ >> EPOCH_BITS)) return 0; /* the same thread */
    if (word_grid(differ)) return shared || word_launch(differ) ? 0 : 3;
    if (!word_thread(differ)) return 0;
    int warp = word_thread(earlier) / LANES;
    uint64_t then = earlier & (EPOCHS - 1);
    if (then < barrier_epoch[warp]) return 0;
    if (warp != word_thread(now) / LANES) return 2;
    return then < epoch[warp] ? 0 : 1;
}

/* ---- reports ---- */

/* file:line of an address in the program, by addr2line; its number where that is missing. */
static const char *place_of(const void *pc) {
    static char text[300];
    char command[128], program[300];
    struct link_map *map = NULL;
    Dl_info info;
    snprintf(text, sizeof text, "at %p", pc);
    if (!dladdr1(pc, &info, (void **)&map, RTLD_DL_LINKMAP) || !map) return text;
    const char *file = map->l_name[0] ? map->l_name : "/proc/self/exe";
    if (!realpath(file, program)) return text;
    snprintf(command, sizeof command, "addr2line -s -e '%.80s' %#zx", program,
             (size_t)((uintptr_t)pc - 1 - map->l_addr));
    FILE *f = popen(command, "r");
    if (f && fgets(text, sizeof text, f)) text[strcspn(text, " \n")] = 0;
    if (f) pclose(f);
    return text;
}

struct site { /* of an access: a line or an address of code */
    const void *pc;
    const char *file;
    int line;
};

[[noreturn]] static void complain(const site *at, cudaError_t error, const thread *t,
                                  const char *what) {
    static char text[300];
    snprintf(text, sizeof text, "%s (thread %d)", what, t->number);
    if (at->file) engine_fail(error, at->file, at->line, "%s", text);
    engine_fail(error, place_of(at->pc), 0, "%s", text);
}

static const char *describe(bool shared, size_t offset, const void *at) {
    static char text[100];
    if (shared)
        snprintf(text, sizeof text, "byte %zu of shared memory", offset);
    else
        snprintf(text, sizeof text, "byte %zu of the allocation at %p", offset,
                 (const unsigned char *)at - offset);
    return text;
}

[[noreturn]] static void race(const site *where, const thread *t, uint64_t other, bool write,
                              bool other_write, bool shared, size_t offset, const void *at) {
    static char text[300];
    const char *verb = write ? "writes" : "reads", *before = other_write ? "wrote" : "read";
    if (word_grid(other) != word_grid(grid_word))
        snprintf(text, sizeof text, "%s %s, which block %llu %s in the same launch", verb,
                 describe(shared, offset, at),
                 (unsigned long long)(word_grid(other) & ((1 << BLOCK_BITS) - 1)), before);
    else
        snprintf(text, sizeof text, "race: %s %s, which thread %d %s with no %s between", verb,
                 describe(shared, offset, at), word_thread(other), before,
                 word_thread(other) / LANES == t->number / LANES ? "__syncwarp"
                                                                 : "__syncthreads");
    complain(where, cudaErrorLaunchFailure, t, text);
}

/* ---- cells ---- */

/* Keeps the reader of now, and of the earlier ones the one furthest from it. */
static inline void remember_reader(cell *c, uint64_t now, bool shared) {
    if (c->read[0] == now) return;
    int a = apart(c->read[0], now, shared), b = apart(c->read[1], now, shared);
    if (a && a >= b) c->read[1] = c->read[0];
    c->read[0] = now;
}

/* What is known of a piece of memory. */
struct region {
    cell_map map;
    unsigned char *written; /* per byte; NULL: all of it is */
    bool shared;
};

struct visit { /* one access while it is checked */
    const site *where;
    const thread *t;
    const unsigned char *at; /* address of byte 0 of the region */
    uint64_t now;
    bool write, shared;
};

static inline void check_cell(const visit *v, cell *c, size_t offset) {
    if (c->write && apart(c->write, v->now, v->shared))
        race(v->where, v->t, c->write, v->write, true, v->shared, offset, v->at + offset);
    if (!v->write) return remember_reader(c, v->now, v->shared);
    for (uint64_t reader : c->read)
        if (reader && apart(reader, v->now, v->shared))
            race(v->where, v->t, reader, true, false, v->shared, offset, v->at + offset);
    c->write = v->now;
}

/* Bytes [from, to) of a word, by cells of their own from now on. */
static void check_bytes(const visit *v, cell_map *m, size_t word, size_t from, size_t to) {
    if (!m->split[word])
        for (size_t i = 0; i < 4; i++) m->bytes[4 * word + i] = m->words[word];
    m->split[word] = 1;
    for (size_t i = from; i < to; i++) check_cell(v, &m->bytes[4 * word + i], 4 * word + i);
    if (from || to < 4 || !v->write) return;
    m->words[word] = m->bytes[4 * word]; /* one access wrote it all */
    m->split[word] = 0;
}

static void check_written(const visit *v, const unsigned char *written, size_t offset,
                          size_t bytes) {
    uint32_t word = 0x01010101;
    if (bytes == 4 && !memcmp(written + offset, &word, 4)) return;
    const void *none = memchr(written + offset, 0, bytes);
    if (!none) return;
    static char text[200];
    size_t first = (size_t)((const unsigned char *)none - written);
    snprintf(text, sizeof text, "reads %s, which nothing has written",
             describe(v->shared, first, v->at + first));
    complain(v->where, cudaErrorLaunchFailure, v->t, text);
}

static void touch(const site *where, const thread *t, region *r, size_t offset, const void *at,
                  size_t bytes, bool write) {
    visit v = {where, t, (const unsigned char *)at - offset, word_of(t), write, r->shared};
    if (!write && r->written) check_written(&v, r->written, offset, bytes);
    for (size_t i = offset, end = offset + bytes; i < end;) {
        size_t word = i / 4, stop = 4 * word + 4 < end ? 4 * word + 4 : end;
        if (i % 4 == 0 && stop == i + 4 && !r->map.split[word])
            check_cell(&v, &r->map.words[word], i);
        else
            check_bytes(&v, &r->map, word, i - 4 * word, stop - 4 * word);
        i = stop;
    }
    if (write && r->written) memset(r->written + offset, 1, bytes);
}

static void touch_shared(const site *where, const thread *t, const unsigned char *at,
                         size_t bytes, bool write) {
    size_t offset = (size_t)(at - engine.shared);
    if (at < engine.shared || offset + bytes > engine.shared_room) {
        static char text[120];
        snprintf(text, sizeof text, "%s byte %zd of the block's %zu bytes of shared memory",
                 write ? "writes" : "reads", at - engine.shared, engine.shared_room);
        complain(where, cudaErrorIllegalAddress, t, text);
    }
    for (size_t i = 0; flights && i < bytes; i++)
        if (in_flight[offset + i])
            complain(where, cudaErrorLaunchFailure, t,
                     (std::string(write ? "writes " : "reads ") +
                      describe(true, offset + i, at) + ", which a cp.async still fills")
                         .c_str());
    region r = {{shared_words, shared_bytes, shared_split}, shared_written, true};
    touch(where, t, &r, offset, at, bytes, write);
}

/* ---- which memory ---- */

/* The program's own segments hold constants and tables of the kernels. */
static int add_segments(struct dl_phdr_info *info, size_t, void *context) {
    auto *segments = (std::vector<std::pair<uintptr_t, uintptr_t>> *)context;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD) {
            uintptr_t from = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            segments->push_back({from, from + info->dlpi_phdr[i].p_memsz});
        }
    return 0;
}

static bool in_program(uintptr_t at) {
    static std::vector<std::pair<uintptr_t, uintptr_t>> segments;
    if (segments.empty()) dl_iterate_phdr(add_segments, &segments);
    for (const auto &s : segments)
        if (at >= s.first && at < s.second) return true;
    return false;
}

static bool near_shared(const unsigned char *at) {
    const unsigned char *end = engine.shared + (engine.shared_room + 127) / 128 * 128;
    return at < end && at >= end - SHARED_MOST;
}

static void touch_global(const site *where, const thread *t, const void *at, size_t bytes,
                         bool write) {
    allocation *a = memory_find(at);
    if (!a || !memory_holds(at, bytes)) {
        static char text[300];
        snprintf(text, sizeof text, "%s %zu bytes at %s", write ? "writes" : "reads", bytes,
                 memory_explain(at));
        complain(where, cudaErrorIllegalAddress, t, text);
    }
    size_t offset = (size_t)((const unsigned char *)at - a->base);
    if (!a->cells) return;
    region r = {*a->cells, a->written, false};
    touch(where, t, &r, offset, at, bytes, write);
}

/* An access by the instrumented code of a kernel. */
static void access(const void *at, size_t bytes, bool write, bool aligned, const void *pc) {
    if (!engine.now || !engine.here) return;
    const thread *t = engine.here;
    uintptr_t frame = (uintptr_t)__builtin_frame_address(0), p = (uintptr_t)at;
    const fiber *f = t->on;
    if (frame - (uintptr_t)f->stack >= f->bytes) return; /* another thread of the host */
    if (p - (uintptr_t)f->stack < f->bytes) return;      /* its own stack */
    site where = {pc, NULL, 0};
    if (near_shared((const unsigned char *)at)) {
        if (aligned && p % bytes)
            complain(&where, cudaErrorMisalignedAddress, t, "a misaligned access");
        touch_shared(&where, t, (const unsigned char *)at, bytes, write);
        traffic_add(t->number, pc, at, (int)bytes, write, true);
        return;
    }
    if (p - (uintptr_t)engine.now->arguments < engine.now->argument_bytes) return;
    if (p - (uintptr_t)engine.now < sizeof *engine.now) return;
    if (!memory_find(at) && in_program(p)) return;
    if (aligned && p % bytes)
        complain(&where, cudaErrorMisalignedAddress, t, "a misaligned access");
    touch_global(&where, t, at, bytes, write);
    traffic_add(t->number, pc, at, (int)bytes, write, false);
}

/* ---- the engine's calls ---- */

static void *zero_pages(size_t bytes) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        perror("emulator: shadow memory");
        abort();
    }
    return at;
}

/* Pinned memory counts as written: the host's stores are not seen. */
static void on_allocated(allocation *a) {
    size_t words = a->bytes / 4 + 1;
    a->cells = new cell_map{(cell *)zero_pages(words * sizeof(cell)),
                            (cell *)zero_pages(4 * words * sizeof(cell)),
                            (unsigned char *)zero_pages(words)};
    if (a->kind == MEMORY_DEVICE) a->written = (unsigned char *)zero_pages(a->bytes);
}
static void on_freed(allocation *a) {
    size_t words = a->bytes / 4 + 1;
    if (a->written) munmap(a->written, a->bytes);
    if (!a->cells) return;
    munmap(a->cells->words, words * sizeof(cell));
    munmap(a->cells->bytes, 4 * words * sizeof(cell));
    munmap(a->cells->split, words);
    delete a->cells;
}

static void on_block_begins(void) {
    uint64_t launch = engine.now->number % 65535 + 1, block = engine.block % (1 << BLOCK_BITS);
    grid_word = (launch << BLOCK_BITS | block) << (EPOCH_BITS + THREAD_BITS);
    memset(epoch, 0, sizeof epoch);
    memset(barrier_epoch, 0, sizeof barrier_epoch);
    memset(shared_written, 0, engine.shared_room);
    if (flights) memset(in_flight, 0, sizeof in_flight);
    flights = 0;
    traffic_block_begins();
}
static void on_block_ends(void) {
    traffic_block_ends();
}
static void on_barrier(void) {
    for (int w = 0; w < engine.warps; w++) {
        barrier_epoch[w] = ++epoch[w];
        traffic_flush(w);
    }
}
static void on_warp_barrier(int warp) {
    epoch[warp]++;
}
static void on_warp_meets(int warp) {
    traffic_flush(warp);
}
static void on_access(const thread *t, const void *at, size_t bytes, const char *file,
                      int line, bool write) {
    site where = {NULL, file, line};
    bool shared = near_shared((const unsigned char *)at);
    if (shared)
        touch_shared(&where, t, (const unsigned char *)at, bytes, write);
    else
        touch_global(&where, t, at, bytes, write);
    traffic_add(t->number, file + line, at, (int)bytes, write, shared);
}
static void on_read(const thread *t, const void *at, size_t bytes, const char *file,
                    int line) {
    on_access(t, at, bytes, file, line, false);
}
static void on_write(const thread *t, const void *at, size_t bytes, const char *file,
                     int line) {
    on_access(t, at, bytes, file, line, true);
}
static void on_flight(const void *at, bool begins) {
    memset(&in_flight[(const unsigned char *)at - engine.shared], begins, 16);
    flights += begins ? 16 : -16;
}

static void on_filled(const void *at, size_t bytes) {
    allocation *a = memory_find(at);
    if (a && a->written) memset(a->written + ((const unsigned char *)at - a->base), 1, bytes);
}
/* What was never written stays so in the copy. */
static void on_copied(const void *to, const void *from, size_t bytes) {
    const allocation *a = memory_find(from);
    allocation *b = memory_find(to);
    if (!b || !b->written) return;
    if (!a || !a->written) return on_filled(to, bytes);
    memmove(b->written + ((const unsigned char *)to - b->base),
            a->written + ((const unsigned char *)from - a->base), bytes);
}
static bool on_defined(const void *at, size_t bytes) {
    const allocation *a = memory_find(at);
    if (!a || !a->written) return true;
    return !memchr(a->written + ((const unsigned char *)at - a->base), 0, bytes);
}

static const detector ours = {on_allocated, on_freed,        on_block_begins, on_block_ends,
                              on_barrier,   on_warp_barrier, on_warp_meets,   on_read,
                              on_write,     on_flight,       on_filled,       on_copied,
                              on_defined};

/* ---- what instrumented code calls ---- */

#define PC __builtin_return_address(0)
#define TSAN_SIZE(n)                                                                          \
    void __tsan_read##n(void *at) {                                                           \
        access(at, n, false, true, PC);                                                       \
    }                                                                                         \
    void __tsan_write##n(void *at) {                                                          \
        access(at, n, true, true, PC);                                                        \
    }                                                                                         \
    void __tsan_unaligned_read##n(void *at) {                                                 \
        access(at, n, false, false, PC);                                                      \
    }                                                                                         \
    void __tsan_unaligned_write##n(void *at) {                                                \
        access(at, n, true, false, PC);                                                       \
    }

extern "C" {
void __tsan_init(void) {
    engine_detector = &ours;
}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void) {}
TSAN_SIZE(1)
TSAN_SIZE(2)
TSAN_SIZE(4)
TSAN_SIZE(8)
TSAN_SIZE(16)
void __tsan_read_range(void *at, size_t bytes) {
    if (bytes) access(at, bytes, false, false, PC);
}
void __tsan_write_range(void *at, size_t bytes) {
    if (bytes) access(at, bytes, true, false, PC);
}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
/* jansson's reference counts, in the host's part; kernels have no atomics */
unsigned long __tsan_atomic64_fetch_sub(volatile unsigned long *at, unsigned long n, int) {
    return __atomic_fetch_sub(at, n, __ATOMIC_SEQ_CST);
}
}
