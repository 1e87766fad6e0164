/* memory.cpp: device and pinned memory: each allocation is its own mapping, filled with 0xFF
 * (NaN in every float type), and ends less than 256 bytes before a page that may not be touched. */
#include "emulator/engine.h"

#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

extern "C" {
void __asan_poison_memory_region(const volatile void *at, size_t bytes) __attribute__((weak));
void __asan_unpoison_memory_region(const volatile void *at, size_t bytes)
    __attribute__((weak));
}

static std::map<uintptr_t, allocation> allocations; /* by base */
static allocation *recent;

enum { PAGE = 65536, ALIGN = 256 };

static size_t round_up(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}

allocation *memory_find(const void *at) {
    uintptr_t p = (uintptr_t)at;
    if (recent && p - (uintptr_t)recent->base < recent->bytes) return recent;
    auto after = allocations.upper_bound(p);
    if (after == allocations.begin()) return NULL;
    allocation *a = &std::prev(after)->second;
    if (p - (uintptr_t)a->base >= a->bytes) return NULL;
    return recent = a;
}

bool memory_holds(const void *at, size_t bytes) {
    const allocation *a = memory_find(at);
    return a && (size_t)((const unsigned char *)at - a->base) + bytes <= a->bytes;
}

static int64_t *bytes_of(memory_kind kind) {
    return kind == MEMORY_DEVICE ? &engine.counts.device_bytes : &engine.counts.host_bytes;
}

static cudaError_t take(void **out, size_t bytes, memory_kind kind) {
    *out = NULL;
    if (!bytes) return cudaSuccess;
    size_t used = (size_t)engine.counts.device_bytes, most = emulator_settings.memory;
    if (kind == MEMORY_DEVICE && (bytes > most || used > most - bytes))
        return cudaErrorMemoryAllocation;
    size_t room = round_up(bytes, ALIGN), pages = round_up(room, PAGE);
    unsigned char *map =
        (unsigned char *)mmap(NULL, pages + PAGE, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return cudaErrorMemoryAllocation;
    mprotect(map + pages, PAGE, PROT_NONE);
    allocation a = {};
    a.base = map + pages - room;
    a.bytes = bytes;
    a.kind = kind;
    a.map = map;
    a.map_bytes = pages + PAGE;
    memset(a.base, 0xff, bytes);
    if (__asan_poison_memory_region) {
        __asan_poison_memory_region(map, pages);
        __asan_unpoison_memory_region(a.base, bytes);
    }
    allocations[(uintptr_t)a.base] = a;
    *bytes_of(kind) += (int64_t)bytes;
    *out = a.base;
    return cudaSuccess;
}

static void drop(allocation *a) {
    *bytes_of(a->kind) -= (int64_t)a->bytes;
    if (a->kind != MEMORY_REGISTERED) {
        if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(a->map, a->map_bytes);
        munmap(a->map, a->map_bytes);
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
