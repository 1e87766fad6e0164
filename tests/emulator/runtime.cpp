/* runtime.cpp: settings, errors, devices, kernels' attributes. */
#include "emulator/engine.h"

#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

settings emulator_settings;

static std::recursive_mutex lock;
static bool ready;               /* the environment has been read */
static cudaError_t sticky, last; /* errors */
static std::map<std::string, int64_t> calls;
static std::map<const void *, int> shared_allowed; /* cudaFuncSetAttribute's, by kernel */
static int current_device;

/* ---- settings ---- */

static void bad_value(const char *name, const char *value) {
    fprintf(stderr, "emulator: %s=%s is not a value it knows\n", name, value);
    abort();
}

/* "random:7" -> 7 */
static bool random_seed(const char *value, uint64_t *seed) {
    if (strncmp(value, "random:", 7)) return false;
    *seed = strtoull(value + 7, NULL, 10);
    return true;
}

static void set_order(const char *name, const char *value) {
    settings *s = &emulator_settings;
    if (!strcmp(value, "greedy"))
        s->order = ORDER_GREEDY;
    else if (!strcmp(value, "reversed"))
        s->order = ORDER_REVERSED;
    else if (!strcmp(value, "round"))
        s->order = ORDER_ROUND;
    else if (random_seed(value, &s->order_seed))
        s->order = ORDER_RANDOM;
    else
        bad_value(name, value);
}

static void set_streams(const char *name, const char *value) {
    settings *s = &emulator_settings;
    if (!strcmp(value, "lazy"))
        s->streams = settings::LAZY;
    else if (!strcmp(value, "eager"))
        s->streams = settings::EAGER;
    else if (random_seed(value, &s->stream_seed))
        s->streams = settings::RANDOM;
    else
        bad_value(name, value);
}

static void set_fail(const char *name, const char *value) {
    char function[64] = "";
    long long at = 0;
    int error = 0;
    if (*value && sscanf(value, "%63[^:]:%lld:%d", function, &at, &error) != 3)
        bad_value(name, value);
    emulator_settings.fail_call = function;
    emulator_settings.fail_at = at;
    emulator_settings.fail_error = error;
    calls.clear(); /* counted from now on */
}

static void set_one(const char *name, const char *value) {
    settings *s = &emulator_settings;
    if (!strcmp(name, "EMULATOR_ORDER"))
        set_order(name, value);
    else if (!strcmp(name, "EMULATOR_STREAMS"))
        set_streams(name, value);
    else if (!strcmp(name, "EMULATOR_FAIL"))
        set_fail(name, value);
    else if (!strcmp(name, "EMULATOR_MEMORY"))
        s->memory = strtoull(value, NULL, 10);
    else if (!strcmp(name, "EMULATOR_DEVICES"))
        s->devices = atoi(value);
    else if (!strcmp(name, "EMULATOR_CAPABILITY"))
        s->capability = atoi(value);
    else if (!strcmp(name, "EMULATOR_DRIVER"))
        s->driver = atoi(value);
    else if (!strcmp(name, "EMULATOR_TRAFFIC"))
        s->traffic = atoi(value);
    else if (!strcmp(name, "EMULATOR_SLOW_PRODUCT"))
        s->slow_product = atoi(value);
    else
        bad_value(name, value);
}

static void read_environment(void) {
    static const char *const names[] = {
        "EMULATOR_ORDER",  "EMULATOR_STREAMS", "EMULATOR_FAIL",
        "EMULATOR_MEMORY", "EMULATOR_DEVICES", "EMULATOR_CAPABILITY",
        "EMULATOR_DRIVER", "EMULATOR_TRAFFIC", "EMULATOR_SLOW_PRODUCT"};
    if (ready) return;
    ready = true;
    engine.loud = true;
    emulator_settings.memory = (size_t)4 << 30;
    emulator_settings.devices = 1;
    emulator_settings.slow_product = -1;
    emulator_settings.capability = 90;
    emulator_settings.driver = CUDART_VERSION;
    for (const char *name : names)
        if (getenv(name)) set_one(name, getenv(name));
    if (emulator_settings.traffic > 1) atexit(emulator_traffic_print);
}

void emulator_set(const char *name, const char *value) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    read_environment();
    set_one(name, value);
}

const char *emulator_report(void) {
    return engine.report.c_str();
}
void emulator_loud(bool loud) {
    read_environment();
    engine.loud = loud;
}
emulator_counts emulator_count_all(void) {
    return engine.counts;
}

void emulator_reset(void) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    read_environment();
    stream_reset();
    memory_reset();
    runtime_reset();
}

void runtime_reset(void) {
    sticky = last = cudaSuccess;
    calls.clear();
    shared_allowed.clear();
    current_device = 0;
    engine.report.clear();
    engine.counts = {};
}

/* ---- errors ---- */

static bool sticks(int error) {
    return error == cudaErrorECCUncorrectable || error == cudaErrorUnknown ||
           (error >= cudaErrorIllegalAddress && error < cudaErrorNotPermitted);
}

api_call::api_call(const char *name) : lock(::lock), error(cudaSuccess) {
    read_environment();
    engine.counts.calls++;
    const settings *s = &emulator_settings;
    if (s->fail_at && (s->fail_call == name || s->fail_call == "any") &&
        ++calls[s->fail_call] == s->fail_at) {
        error = (cudaError_t)s->fail_error;
        if (sticks(error)) runtime_stick(error);
    }
    if (s->devices < 1) error = cudaErrorNoDevice;
    if (s->driver < CUDART_VERSION / 1000 * 1000) error = cudaErrorInsufficientDriver;
    if (stream_in_host_function()) error = cudaErrorNotPermitted;
    if (!error) error = sticky;
}

cudaError_t api_call::give(cudaError_t e) {
    if (sticky) e = sticky; /* it came while this call ran what was queued */
    if (e != cudaSuccess && e != cudaErrorNotReady) last = e;
    return e;
}

void runtime_stick(cudaError_t e) {
    if (!sticky) sticky = e;
    last = sticky;
}
cudaError_t runtime_sticky(void) {
    return sticky;
}

cudaError_t cudaGetLastError(void) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    cudaError_t e = last;
    last = sticky;
    return e;
}
cudaError_t cudaPeekAtLastError(void) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    return last;
}

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorDevicesUnavailable, "cudaErrorDevicesUnavailable",
     "CUDA-capable device(s) is/are busy or unavailable"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction",
     "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable",
     "uncorrectable ECC error encountered"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle",
     "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout",
     "the launch timed out and was terminated"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotPermitted, "cudaErrorNotPermitted", "operation not permitted"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const char *cudaGetErrorName(cudaError_t error) {
    for (const auto &e : errors)
        if (e.error == error) return e.name;
    return "unrecognized error code";
}
const char *cudaGetErrorString(cudaError_t error) {
    for (const auto &e : errors)
        if (e.error == error) return e.text;
    return "unrecognized error code";
}

/* ---- the device ---- */

static int shared_of_capability(void) {
    switch (emulator_settings.capability) {
    case 80:
        return 163 << 10;
    case 86:
    case 89:
        return 99 << 10;
    default:
        return 227 << 10;
    }
}
int runtime_shared_most(void) {
    return shared_of_capability();
}

cudaError_t cudaGetDeviceCount(int *count) {
    API_CALL;
    *count = emulator_settings.devices;
    return call.give(cudaSuccess);
}
cudaError_t cudaSetDevice(int device) {
    API_CALL;
    if (device < 0 || device >= emulator_settings.devices)
        return call.give(cudaErrorInvalidDevice);
    current_device = device;
    return call.give(cudaSuccess);
}
cudaError_t cudaGetDevice(int *device) {
    API_CALL;
    *device = current_device;
    return call.give(cudaSuccess);
}
cudaError_t cudaInitDevice(int device, unsigned, unsigned) {
    return cudaSetDevice(device);
}
cudaError_t cudaSetDeviceFlags(unsigned) {
    API_CALL;
    return call.give(cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
    API_CALL;
    if (device < 0 || device >= emulator_settings.devices)
        return call.give(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "Emulated sm_%d", emulator_settings.capability);
    p->totalGlobalMem = emulator_settings.memory;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = (size_t)shared_of_capability();
    p->sharedMemPerMultiprocessor = (size_t)shared_of_capability() + 1024;
    p->reservedSharedMemPerBlock = 1024;
    p->major = emulator_settings.capability / 10;
    p->minor = emulator_settings.capability % 10;
    p->multiProcessorCount = 4;
    p->warpSize = LANES;
    p->regsPerBlock = 65536;
    p->maxThreadsPerBlock = THREADS_MOST;
    p->maxThreadsPerMultiProcessor = 2048;
    p->memoryBusWidth = 5120;
    p->l2CacheSize = 4 << 20;
    p->asyncEngineCount = 2;
    p->canMapHostMemory = p->concurrentKernels = p->unifiedAddressing = 1;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    return call.give(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, device);
    if (e) return e;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = p.maxThreadsPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = (int)p.sharedMemPerBlock;
        break;
    case cudaDevAttrWarpSize:
        *value = p.warpSize;
        break;
    case cudaDevAttrClockRate:
        *value = 1000000;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = p.multiProcessorCount;
        break;
    case cudaDevAttrMemoryClockRate:
        *value = 1000000;
        break;
    case cudaDevAttrGlobalMemoryBusWidth:
        *value = p.memoryBusWidth;
        break;
    case cudaDevAttrL2CacheSize:
        *value = p.l2CacheSize;
        break;
    case cudaDevAttrAsyncEngineCount:
        *value = p.asyncEngineCount;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = (int)p.sharedMemPerMultiprocessor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)p.sharedMemPerBlockOptin;
        break;
    default:
        return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *id, int bytes, int) {
    API_CALL;
    snprintf(id, (size_t)bytes, "0000:00:00.0");
    return call.give(cudaSuccess);
}
cudaError_t cudaDriverGetVersion(int *version) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    read_environment();
    *version = emulator_settings.driver;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    API_CALL;
    stream_drain_all();
    return call.give(cudaSuccess);
}
cudaError_t cudaDeviceReset(void) {
    emulator_reset();
    return cudaSuccess;
}

/* ---- kernels ---- */

cudaError_t emulator_func_set(const void *kernel, cudaFuncAttribute attribute, int value) {
    api_call call("cudaFuncSetAttribute");
    if (call.error) return call.give(call.error);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return call.give(cudaSuccess);
    if (value < 0 || value > shared_of_capability()) return call.give(cudaErrorInvalidValue);
    shared_allowed[kernel] = value;
    return call.give(cudaSuccess);
}

cudaError_t runtime_kernel_shared(const void *kernel, size_t shared) {
    auto found = shared_allowed.find(kernel);
    size_t most = found == shared_allowed.end() ? 48 << 10 : (size_t)found->second;
    return shared <= most || shared <= 48 << 10 ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t emulator_func_get(cudaFuncAttributes *attributes, const void *kernel) {
    api_call call("cudaFuncGetAttributes");
    if (call.error) return call.give(call.error);
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = THREADS_MOST;
    attributes->numRegs = 64;
    attributes->binaryVersion = attributes->ptxVersion = emulator_settings.capability;
    auto found = shared_allowed.find(kernel);
    attributes->maxDynamicSharedSizeBytes =
        found == shared_allowed.end() ? 48 << 10 : found->second;
    return call.give(cudaSuccess);
}

cudaError_t emulator_occupancy(int *blocks, const void *kernel, int block, size_t shared) {
    api_call call("cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    if (call.error) return call.give(call.error);
    if (block < 1 || block > THREADS_MOST) return call.give(cudaErrorInvalidValue);
    int by_threads = 2048 / block, by_shared = (int)(228 * 1024 / (shared + 1024));
    *blocks = by_threads < by_shared ? by_threads : by_shared;
    return call.give(cudaSuccess);
}
