/* stream.cpp: streams, events, copies and launches.
 *
 * A stream is a queue of closures with consecutive tickets; an event is a stream and a ticket. Lazily, work
 * runs only when something waits for it, and then only what that needs: a missing dependency
 * between two streams shows as a use of what is not there yet. The null stream waits for all
 * others and runs at once, which is stricter than CUDA's only in that the host waits too. */
#include "emulator/engine.h"
#include "emulator/device.h"

#include <deque>
#include <memory>
#include <string.h>
#include <time.h>

struct event_state {
    CUstream_st *on = NULL;
    uint64_t ticket = 0; /* 0: never recorded */
    double passed = 0;   /* seconds */
};
struct CUevent_st {
    std::shared_ptr<event_state> state;
    unsigned flags;
};
struct stream_work {
    std::function<void()> run;
    CUstream_st *wait_on; /* not NULL: waits for this stream's ticket */
    uint64_t wait_ticket;
};
struct CUstream_st {
    std::deque<stream_work> queue;
    uint64_t given = 0, done = 0;
};

static std::vector<CUstream_st *> streams;
static std::vector<CUevent_st *> events;
static uint64_t launch_number;             /* goes on over resets: shadows remember it */
static thread_local bool in_host_function; /* which may not call the runtime */

/* ---- running ---- */

static void advance(CUstream_st *s, uint64_t ticket);

/* Runs the first piece of work; first what it waits for if `through`. False: it waits. */
static bool step(CUstream_st *s, bool through) {
    stream_work *w = &s->queue.front();
    if (w->wait_on && w->wait_on->done < w->wait_ticket) {
        if (!through) return false;
        advance(w->wait_on, w->wait_ticket);
    }
    std::function<void()> run = std::move(w->run);
    s->queue.pop_front();
    if (run && !runtime_sticky()) { /* after a sticky error nothing runs */
        memory_begin();
        run();
        memory_end();
    }
    s->done++;
    return true;
}

static void advance(CUstream_st *s, uint64_t ticket) {
    if (s->done >= ticket) return;
    memory_begin();
    while (s->done < ticket && !s->queue.empty()) step(s, true);
    memory_end();
}

bool stream_in_host_function(void) {
    return in_host_function;
}

void stream_drain_all(void) {
    for (size_t i = streams.size(); i--;) advance(streams[i], streams[i]->given);
}

/* What a new piece of work sets off. */
static void set_off(CUstream_st *s) {
    settings *set = &emulator_settings;
    if (set->streams == settings::EAGER) advance(s, s->given);
    if (set->streams != settings::RANDOM || streams.empty()) return;
    CUstream_st *any = streams[next_random(&set->stream_seed) % streams.size()];
    uint64_t pieces = next_random(&set->stream_seed) % 4;
    while (pieces-- && !any->queue.empty() && step(any, false)) {
    }
}

static bool is_null(cudaStream_t s) {
    return !s || s == cudaStreamLegacy;
}

static void append(cudaStream_t s, stream_work work) {
    s->queue.push_back(std::move(work));
    s->given++;
    set_off(s);
}

void stream_enqueue(cudaStream_t s, std::function<void()> work) {
    if (!is_null(s)) return append(s, {std::move(work), NULL, 0});
    stream_drain_all();
    if (runtime_sticky()) return;
    memory_begin();
    work();
    memory_end();
}

cudaError_t stream_check(cudaStream_t s) {
    if (is_null(s)) return cudaSuccess;
    for (CUstream_st *known : streams)
        if (known == s) return cudaSuccess;
    return cudaErrorInvalidResourceHandle;
}
#define STREAM_CHECK(s)                                                                       \
    if (stream_check(s)) return call.give(stream_check(s))

static bool event_known(cudaEvent_t event) {
    for (CUevent_st *e : events)
        if (e == event) return true;
    return false;
}
#define EVENT_CHECK(e)                                                                        \
    if (!event_known(e)) return call.give(cudaErrorInvalidResourceHandle)

void stream_reset(void) {
    for (CUstream_st *s : streams) delete s;
    for (CUevent_st *e : events) delete e;
    streams.clear();
    events.clear();
}

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    API_CALL;
    *stream = new CUstream_st;
    streams.push_back(*stream);
    return call.give(cudaSuccess);
}
cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int) {
    return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    API_CALL;
    *least = 0;
    *greatest = -5;
    return call.give(cudaSuccess);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    API_CALL;
    if (is_null(stream)) return call.give(cudaErrorInvalidResourceHandle);
    STREAM_CHECK(stream);
    stream_drain_all(); /* others may wait for it */
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == stream) streams.erase(streams.begin() + (long)i);
    for (CUevent_st *e : events)
        if (e->state->on == stream) *e->state = {NULL, 0, e->state->passed};
    delete stream;
    return call.give(cudaSuccess);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    API_CALL;
    STREAM_CHECK(stream);
    if (is_null(stream))
        stream_drain_all();
    else
        advance(stream, stream->given);
    return call.give(cudaSuccess);
}
/* Every question lets one piece of work run, so that polling ends. */
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    API_CALL;
    STREAM_CHECK(stream);
    if (is_null(stream) || stream->queue.empty()) return call.give(cudaSuccess);
    step(stream, true);
    return call.give(stream->queue.empty() ? cudaSuccess : cudaErrorNotReady);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    API_CALL;
    STREAM_CHECK(stream);
    EVENT_CHECK(event);
    event_state e = *event->state;
    if (!e.on) return call.give(cudaSuccess);
    if (is_null(stream))
        advance(e.on, e.ticket);
    else
        append(stream, {nullptr, e.on, e.ticket});
    return call.give(cudaSuccess);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    API_CALL;
    STREAM_CHECK(stream);
    stream_enqueue(stream, [=] {
        int depth = memory_pause(); /* it is host code */
        in_host_function = true;
        function(data);
        in_host_function = false;
        memory_resume(depth);
    });
    return call.give(cudaSuccess);
}

/* ---- events ---- */

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    API_CALL;
    *event = new CUevent_st{std::make_shared<event_state>(), flags};
    events.push_back(*event);
    return call.give(cudaSuccess);
}
cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    API_CALL;
    EVENT_CHECK(event);
    for (size_t i = 0; i < events.size(); i++)
        if (events[i] == event) events.erase(events.begin() + (long)i);
    delete event;
    return call.give(cudaSuccess);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    API_CALL;
    STREAM_CHECK(stream);
    EVENT_CHECK(event);
    std::shared_ptr<event_state> state = event->state;
    if (is_null(stream)) {
        stream_drain_all();
        *state = {NULL, 0, seconds()};
        return call.give(cudaSuccess);
    }
    uint64_t ticket = stream->given + 1;
    *state = {stream, ticket, 0};
    append(stream, {[state, ticket] {
                        if (state->ticket == ticket) state->passed = seconds();
                    },
                    NULL, 0});
    return call.give(cudaSuccess);
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
    API_CALL;
    EVENT_CHECK(event);
    const event_state *e = event->state.get();
    if (e->on && e->on->done < e->ticket) step(e->on, true);
    return call.give(!e->on || e->on->done >= e->ticket ? cudaSuccess : cudaErrorNotReady);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    API_CALL;
    EVENT_CHECK(event);
    if (event->state->on) advance(event->state->on, event->state->ticket);
    return call.give(cudaSuccess);
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    API_CALL;
    EVENT_CHECK(start);
    EVENT_CHECK(end);
    if ((start->flags | end->flags) & cudaEventDisableTiming)
        return call.give(cudaErrorInvalidResourceHandle);
    for (const event_state *e : {start->state.get(), end->state.get()})
        if (e->on && e->on->done < e->ticket) return call.give(cudaErrorNotReady);
    *ms = (float)(1e3 * (end->state->passed - start->state->passed));
    return call.give(cudaSuccess);
}

/* ---- copies ---- */

static bool on_device(const void *at) {
    const allocation *a = memory_find(at);
    return a && a->kind == MEMORY_DEVICE;
}

/* Whether the addresses are what the kind says, all within allocations. */
static cudaError_t copy_check(const void *to, const void *from, size_t bytes,
                              cudaMemcpyKind kind) {
    bool to_device = on_device(to), from_device = on_device(from);
    bool want_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool want_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind != cudaMemcpyDefault && (to_device != want_to || from_device != want_from))
        return cudaErrorInvalidValue;
    if ((memory_find(to) && !memory_holds(to, bytes)) ||
        (memory_find(from) && !memory_holds(from, bytes)))
        return cudaErrorInvalidValue;
    return cudaSuccess;
}

/* Pageable memory is read at the call and written before it returns, pinned memory when the
 * stream gets there: what a program may rely on. */
static cudaError_t copy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                        cudaStream_t stream) {
    if (!bytes) return cudaSuccess;
    cudaError_t e = copy_check(to, from, bytes, kind);
    if (e) return e;
    if (memory_find(from)) {
        stream_enqueue(stream, [=] {
            memcpy(to, from, bytes);
            DETECT(copied, to, from, bytes);
        });
    } else {
        auto kept = std::make_shared<std::vector<char>>((const char *)from,
                                                        (const char *)from + bytes);
        stream_enqueue(stream, [=] {
            memcpy(to, kept->data(), bytes);
            DETECT(filled, to, bytes);
        });
    }
    if (!memory_find(to) && !is_null(stream)) advance(stream, stream->given);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    API_CALL;
    STREAM_CHECK(stream);
    return call.give(copy(to, from, bytes, kind, stream));
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    API_CALL;
    return call.give(copy(to, from, bytes, kind, NULL));
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
    API_CALL;
    STREAM_CHECK(stream);
    if (width > to_pitch || width > from_pitch) return call.give(cudaErrorInvalidValue);
    for (size_t row = 0; row < height; row++) {
        cudaError_t e = copy((char *)to + row * to_pitch,
                             (const char *)from + row * from_pitch, width, kind, stream);
        if (e) return call.give(e);
    }
    return call.give(cudaSuccess);
}
static cudaError_t fill(void *at, int byte, size_t bytes, cudaStream_t stream) {
    if (!bytes) return cudaSuccess;
    if (!memory_holds(at, bytes)) return cudaErrorInvalidValue;
    stream_enqueue(stream, [=] {
        memset(at, byte, bytes);
        DETECT(filled, at, bytes);
    });
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *at, int byte, size_t bytes, cudaStream_t stream) {
    API_CALL;
    STREAM_CHECK(stream);
    return call.give(fill(at, byte, bytes, stream));
}
cudaError_t cudaMemset(void *at, int byte, size_t bytes) {
    API_CALL;
    return call.give(fill(at, byte, bytes, NULL));
}

/* ---- launches ---- */

static cudaError_t launch_check(const launch *l) {
    const dim3 g = l->grid, b = l->block;
    if (!g.x || !g.y || !g.z || !b.x || !b.y || !b.z) return cudaErrorInvalidConfiguration;
    if (g.x > 2147483647u || g.y > 65535 || g.z > 65535) return cudaErrorInvalidConfiguration;
    if (b.x > 1024 || b.y > 1024 || b.z > 64 || (uint64_t)b.x * b.y * b.z > THREADS_MOST)
        return cudaErrorInvalidConfiguration;
    return runtime_kernel_shared(l->kernel, l->shared);
}

static void forget(launch *l) {
    l->forget((void *)(uintptr_t)l->arguments);
    delete l;
}

void emulator_launch(const char *name, const void *kernel, dim3 grid, dim3 block,
                     size_t shared, cudaStream_t stream, std::function<void()> body,
                     void *arguments, size_t bytes,
                     void (*forget_arguments)(void *arguments)) {
    api_call call("cudaLaunchKernel");
    cudaError_t e = call.error ? call.error : stream_check(stream);
    std::shared_ptr<launch> l(new launch{name, kernel, grid, block, shared, std::move(body),
                                         arguments, bytes, forget_arguments, ++launch_number},
                              forget);
    if (!e) e = launch_check(l.get());
    if (!e)
        stream_enqueue(stream, [l] {
            cudaError_t failed = engine_run(l.get());
            if (failed) runtime_stick(failed);
        });
    call.give(e);
}
