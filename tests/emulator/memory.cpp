/* memory.cpp: device and pinned memory.
 *
 * Each allocation has pages of its own in one range of addresses that is never used twice, is
 * filled with 0xFF (NaN in every float type), and ends less than 256 bytes before a page that
 * may not be touched. Device memory is open to kernels, copies and libraries only: the host's
 * own code that reads it faults, as on a machine with a card. */
#include "emulator/engine.h"

#include <map>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

extern "C" {
void __asan_poison_memory_region(const volatile void *at, size_t bytes) __attribute__((weak));
void __asan_unpoison_memory_region(const volatile void *at, size_t bytes)
    __attribute__((weak));
}

static const size_t PAGE = 65536, ALIGN = 256, RANGE = (size_t)1 << 40;

static std::map<uintptr_t, allocation> allocations; /* by base */
static allocation *recent;
static unsigned char *range; /* RANGE bytes of addresses */
static size_t range_used;
static allocation **pages; /* per PAGE of the range */
static int open_depth;     /* of memory_begin */

static size_t round_up(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}

/* ---- finding ---- */

static bool in_range(const void *at) {
    return range && (size_t)((const unsigned char *)at - range) < RANGE;
}

static bool within(const allocation *a, const void *at) {
    return (uintptr_t)at - (uintptr_t)a->base < a->bytes;
}

allocation *memory_find(const void *at) {
    if (recent && within(recent, at)) return recent;
    if (in_range(at)) {
        allocation *a = pages[(size_t)((const unsigned char *)at - range) / PAGE];
        return a && within(a, at) ? recent = a : NULL;
    }
    auto after = allocations.upper_bound((uintptr_t)at); /* registered memory */
    if (after == allocations.begin()) return NULL;
    allocation *a = &std::prev(after)->second;
    return within(a, at) ? a : NULL;
}

bool memory_holds(const void *at, size_t bytes) {
    const allocation *a = memory_find(at);
    return a && (size_t)((const unsigned char *)at - a->base) + bytes <= a->bytes;
}

const char *memory_explain(const void *at) {
    static char text[160];
    const allocation *a =
        in_range(at) ? pages[(size_t)((const unsigned char *)at - range) / PAGE] : NULL;
    if (!a)
        snprintf(text, sizeof text, "%p, which is in no allocation", at);
    else if ((const unsigned char *)at < a->base)
        snprintf(text, sizeof text, "%p, %zd bytes before an allocation of %zu", at,
                 a->base - (const unsigned char *)at, a->bytes);
    else
        snprintf(text, sizeof text, "%p, at byte %zd of an allocation of %zu", at,
                 (const unsigned char *)at - a->base, a->bytes);
    return text;
}

/* ---- who may touch it ---- */

static void protect(const allocation *a, int to) {
    if (a->kind == MEMORY_DEVICE) mprotect(a->map, a->map_bytes - PAGE, to);
}
static void protect_all(int to) {
    for (const auto &a : allocations) protect(&a.second, to);
}
void memory_begin(void) {
    if (open_depth++ == 0) protect_all(PROT_READ | PROT_WRITE);
}
void memory_end(void) {
    if (--open_depth == 0) protect_all(PROT_NONE);
}
int memory_pause(void) {
    int depth = open_depth;
    open_depth = 0;
    protect_all(PROT_NONE);
    return depth;
}
void memory_resume(int depth) {
    open_depth = depth;
    protect_all(PROT_READ | PROT_WRITE);
}

/* Says what was touched; then the fault comes again and ends the process. */
static void faulted(int number, siginfo_t *info, void *context) {
    const allocation *a = in_range(info->si_addr) ? memory_find(info->si_addr) : NULL;
    const char *who = engine.now ? engine.now->name.c_str() : "the host";
    char text[256];
    int n = snprintf(text, sizeof text, "emulator: %.80s touches %s%s\n", who,
                     memory_explain(info->si_addr), a ? " on the device" : "");
    if (write(2, text, (size_t)n) < 0) _exit(1);
    signal(number, SIG_DFL);
}

static void watch_faults(void) {
    static char stack[1 << 16]; /* a kernel's own may be the trouble */
    struct sigaction old, ours = {};
    stack_t on = {};
    on.ss_sp = stack;
    on.ss_size = sizeof stack;
    ours.sa_sigaction = faulted;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    if (sigaction(SIGSEGV, NULL, &old) || old.sa_handler != SIG_DFL)
        return; /* a sanitizer's */
    sigaltstack(&on, NULL);
    sigaction(SIGSEGV, &ours, NULL);
}

/* ---- taking and giving back ---- */

static int64_t *bytes_of(memory_kind kind) {
    return kind == MEMORY_DEVICE ? &engine.counts.device_bytes : &engine.counts.host_bytes;
}

static void *addresses(size_t bytes) {
    void *at =
        mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        perror("emulator: addresses for device memory");
        abort();
    }
    return at;
}

static void begin_range(void) {
    if (range) return;
    range = (unsigned char *)addresses(RANGE);
    pages = (allocation **)addresses(RANGE / PAGE * sizeof *pages);
    mprotect(pages, RANGE / PAGE * sizeof *pages, PROT_READ | PROT_WRITE);
    watch_faults();
}

static void mark_pages(const allocation *a, allocation *as) {
    size_t first = (size_t)((unsigned char *)a->map - range) / PAGE;
    for (size_t i = 0; i < a->map_bytes / PAGE; i++) pages[first + i] = as;
}

static cudaError_t take(void **out, size_t bytes, memory_kind kind) {
    *out = NULL;
    if (!bytes) return cudaSuccess;
    size_t used = (size_t)engine.counts.device_bytes, most = emulator_settings.memory;
    if (kind == MEMORY_DEVICE && (bytes > most || used > most - bytes))
        return cudaErrorMemoryAllocation;
    begin_range();
    size_t room = round_up(bytes, ALIGN), whole = round_up(room, PAGE);
    if (bytes > RANGE || range_used + whole + PAGE > RANGE) return cudaErrorMemoryAllocation;
    allocation a = {};
    a.map = range + range_used;
    a.map_bytes = whole + PAGE;
    range_used += a.map_bytes;
    if (mprotect(a.map, whole, PROT_READ | PROT_WRITE)) return cudaErrorMemoryAllocation;
    a.base = (unsigned char *)a.map + whole - room;
    a.bytes = bytes;
    a.kind = kind;
    memset(a.base, 0xff, bytes);
    if (__asan_poison_memory_region) {
        __asan_poison_memory_region(a.map, whole);
        __asan_unpoison_memory_region(a.base, bytes);
    }
    if (open_depth == 0) protect(&a, PROT_NONE);
    allocation *kept = &(allocations[(uintptr_t)a.base] = a);
    mark_pages(kept, kept);
    DETECT(allocated, kept);
    *bytes_of(kind) += (int64_t)bytes;
    *out = a.base;
    return cudaSuccess;
}

static void drop(allocation *a) {
    *bytes_of(a->kind) -= (int64_t)a->bytes;
    if (a->kind != MEMORY_REGISTERED) {
        DETECT(freed, a);
        mark_pages(a, NULL);
        if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(a->map, a->map_bytes);
        madvise(a->map, a->map_bytes, MADV_DONTNEED);
        mprotect(a->map, a->map_bytes, PROT_NONE);
    }
    recent = NULL;
    allocations.erase((uintptr_t)a->base);
}

static cudaError_t give_back(void *at, memory_kind kind) {
    if (!at) return cudaSuccess;
    stream_drain_all(); /* as cudaFree: waits for the device */
    auto found = allocations.find((uintptr_t)at);
    if (found == allocations.end() || found->second.kind != kind) return cudaErrorInvalidValue;
    drop(&found->second);
    return cudaSuccess;
}

void memory_reset(void) {
    while (!allocations.empty()) drop(&allocations.begin()->second);
}

/* ---- the runtime's functions ---- */

cudaError_t cudaMalloc(void **at, size_t bytes) {
    API_CALL;
    return call.give(take(at, bytes, MEMORY_DEVICE));
}
cudaError_t cudaFree(void *at) {
    API_CALL;
    return call.give(give_back(at, MEMORY_DEVICE));
}
cudaError_t cudaHostAlloc(void **at, size_t bytes, unsigned) {
    API_CALL;
    return call.give(take(at, bytes, MEMORY_PINNED));
}
cudaError_t cudaMallocHost(void **at, size_t bytes) {
    API_CALL;
    return call.give(take(at, bytes, MEMORY_PINNED));
}
cudaError_t cudaFreeHost(void *at) {
    API_CALL;
    return call.give(give_back(at, MEMORY_PINNED));
}
cudaError_t cudaHostRegister(void *at, size_t bytes, unsigned) {
    API_CALL;
    if (!at || !bytes) return call.give(cudaErrorInvalidValue);
    if (memory_find(at)) return call.give(cudaErrorHostMemoryAlreadyRegistered);
    allocation a = {};
    a.base = (unsigned char *)at;
    a.bytes = bytes;
    a.kind = MEMORY_REGISTERED;
    allocations[(uintptr_t)at] = a;
    engine.counts.host_bytes += (int64_t)bytes;
    return call.give(cudaSuccess);
}
cudaError_t cudaHostUnregister(void *at) {
    API_CALL;
    cudaError_t e = give_back(at, MEMORY_REGISTERED);
    return call.give(e ? cudaErrorHostMemoryNotRegistered : cudaSuccess);
}
cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned) {
    API_CALL;
    const allocation *a = memory_find(host);
    if (!a || a->kind == MEMORY_DEVICE) return call.give(cudaErrorInvalidValue);
    *device = host;
    return call.give(cudaSuccess);
}
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    API_CALL;
    *total = emulator_settings.memory;
    *free = *total - (size_t)engine.counts.device_bytes;
    return call.give(cudaSuccess);
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *at) {
    API_CALL;
    const allocation *a = memory_find(at);
    memset(attributes, 0, sizeof *attributes);
    attributes->type = !a                         ? cudaMemoryTypeUnregistered
                       : a->kind == MEMORY_DEVICE ? cudaMemoryTypeDevice
                                                  : cudaMemoryTypeHost;
    if (!a) attributes->device = -1;
    attributes->devicePointer = a ? (void *)(uintptr_t)at : NULL;
    attributes->hostPointer = a && a->kind == MEMORY_DEVICE ? NULL : (void *)(uintptr_t)at;
    return call.give(cudaSuccess);
}
