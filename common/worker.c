/* worker.c: a ring of tasks under one mutex. */
#include "common/worker.h"
#include "common/alloc.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

struct worker {
    pthread_mutex_t mutex;
    pthread_cond_t given, ran;
    pthread_t thread;
    struct {
        worker_task task;
        void *context;
    } * ring;
    uint64_t first, next; /* tickets: the oldest not finished, the next to give */
    int depth;
    bool closing;
    status failed;
    char message[4096];
    const char *name;
};

static void *run(void *argument) {
    worker *w = argument;
    pthread_mutex_lock(&w->mutex);
    for (;;) {
        while (w->first == w->next && !w->closing) pthread_cond_wait(&w->given, &w->mutex);
        if (w->first == w->next) break;
        worker_task task = w->ring[w->first % (uint64_t)w->depth].task;
        void *context = w->ring[w->first % (uint64_t)w->depth].context;
        bool skip = w->failed != STATUS_OK;
        pthread_mutex_unlock(&w->mutex);
        status s = skip ? STATUS_OK : task(context);
        pthread_mutex_lock(&w->mutex);
        if (s != STATUS_OK) {
            w->failed = s;
            snprintf(w->message, sizeof w->message, "%s", status_message());
        }
        w->first++;
        pthread_cond_broadcast(&w->ran);
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

status worker_open(worker **out, const char *name, int depth) {
    *out = NULL;
    worker *w = mem_alloc(sizeof *w, name);
    if (!w) return STATUS_MEMORY;
    w->ring = mem_alloc_array((size_t)depth, sizeof *w->ring, name);
    if (!w->ring) {
        mem_free(w);
        return STATUS_MEMORY;
    }
    w->depth = depth;
    w->name = name;
    w->first = w->next = 1;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->given, NULL);
    pthread_cond_init(&w->ran, NULL);
    sigset_t all, old; /* signals are the main thread's matter */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int e = pthread_create(&w->thread, NULL, run, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (e) {
        mem_free(w->ring);
        mem_free(w);
        return status_fail(STATUS_MEMORY, "cannot start thread %s: %s", name, strerror(e));
    }
    *out = w;
    return STATUS_OK;
}

uint64_t worker_give(worker *w, worker_task task, void *context) {
    pthread_mutex_lock(&w->mutex);
    while (w->next - w->first >= (uint64_t)w->depth) pthread_cond_wait(&w->ran, &w->mutex);
    uint64_t ticket = w->next++;
    w->ring[ticket % (uint64_t)w->depth].task = task;
    w->ring[ticket % (uint64_t)w->depth].context = context;
    pthread_cond_signal(&w->given);
    pthread_mutex_unlock(&w->mutex);
    return ticket;
}

status worker_wait(worker *w, uint64_t ticket) {
    pthread_mutex_lock(&w->mutex);
    while (w->first <= ticket) pthread_cond_wait(&w->ran, &w->mutex);
    status s = w->failed;
    if (s != STATUS_OK) status_set(s, w->message);
    pthread_mutex_unlock(&w->mutex);
    return s;
}

bool worker_done(worker *w, uint64_t ticket) {
    pthread_mutex_lock(&w->mutex);
    bool done = w->first > ticket;
    pthread_mutex_unlock(&w->mutex);
    return done;
}

void worker_close(worker *w) {
    if (!w) return;
    pthread_mutex_lock(&w->mutex);
    w->closing = true;
    pthread_cond_broadcast(&w->given);
    pthread_mutex_unlock(&w->mutex);
    pthread_join(w->thread, NULL);
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->given);
    pthread_cond_destroy(&w->ran);
    mem_free(w->ring);
    mem_free(w);
}
