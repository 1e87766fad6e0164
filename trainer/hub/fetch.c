/* fetch.c: see fetch.h. Threads take files from one list, the largest first; the calling
 * thread shows how far they are. */
#include "trainer/hub/fetch.h"

#include "common/alloc.h"
#include "common/file.h"
#include "trainer/hub/download.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 8, LOOK_MS = 100 /* between looks at a lock and at the counts */ };

typedef struct job {
    const hub_file *file;
    bool taken;
} job;

/* What the threads share. */
typedef struct crew {
    fetch *f;
    http_settings settings; /* f's, with a stop of the crew's own */
    download_counts counts;
    job *jobs;
    size_t count;
    pthread_mutex_t mutex; /* of `taken` and of what follows */
    size_t waiting;        /* jobs that nobody has taken */
    size_t first;          /* no job before it waits */
    pthread_cond_t ended;  /* a thread has */
    int running;           /* threads */
    status failed;         /* the first failure, with its message */
    char message[4096];
} crew;

static void pause_ms(int ms) {
    struct timespec t = {0, ms * 1000000L};
    nanosleep(&t, NULL);
}

/* ---- which files ---- */

static bool is_here(const fetch *f, const hub_file *file) {
    return hub_has_file(f->place, f->listing->commit, file->path, file->id, file->size);
}

void fetch_measure(fetch *f) {
    f->files = f->bytes = f->missing_files = f->missing_bytes = 0;
    for (size_t i = 0; i < f->listing->count; i++) {
        const hub_file *file = &f->listing->files[i];
        if (!f->chosen[i]) continue;
        f->files++;
        f->bytes += file->size;
        if (is_here(f, file)) continue;
        f->missing_files++;
        f->missing_bytes += file->size;
    }
}

/* By blob, so that one that has several names is fetched once ... */
static int by_id(const void *a, const void *b) {
    return strcmp(((const job *)a)->file->id, ((const job *)b)->file->id);
}

/* ... then by size, the largest first. */
static int by_size(const void *a, const void *b) {
    int64_t x = ((const job *)a)->file->size, y = ((const job *)b)->file->size;
    return (x < y) - (x > y);
}

static status list_jobs(crew *c) {
    const fetch *f = c->f;
    size_t n = 0;
    c->jobs = mem_alloc_array((size_t)f->files + 1, sizeof *c->jobs, "a list of files");
    if (!c->jobs) return STATUS_MEMORY;
    for (size_t i = 0; i < f->listing->count; i++)
        if (f->chosen[i] && !is_here(f, &f->listing->files[i]))
            c->jobs[n++].file = &f->listing->files[i];
    qsort(c->jobs, n, sizeof *c->jobs, by_id);
    for (size_t i = 0; i < n; i++)
        if (!i || by_id(&c->jobs[i], &c->jobs[c->count - 1]))
            c->jobs[c->count++] = c->jobs[i];
        else
            atomic_fetch_add(&c->counts.there, c->jobs[i].file->size);
    qsort(c->jobs, c->count, sizeof *c->jobs, by_size);
    c->waiting = c->count;
    return STATUS_OK;
}

static status check_space(const crew *c) {
    int64_t needed = 0, there;
    for (size_t i = 0; i < c->count; i++) {
        int64_t size = c->jobs[i].file->size;
        int64_t begun = hub_incomplete_bytes(c->f->place, c->jobs[i].file->id);
        needed += size - (begun < size ? begun : size);
    }
    TRY(file_free_space(c->f->place->cache, &there));
    if (needed <= there) return STATUS_OK;
    return status_fail(STATUS_IO,
                       "%s: %s needs %.2f GB there, only %.2f GB are free: make room for %.2f "
                       "GB more, or set HF_HUB_CACHE to a folder on another disk",
                       c->f->place->cache, c->f->place->name, (double)needed / 1e9,
                       (double)there / 1e9, (double)(needed - there) / 1e9);
}

/* ---- the threads ---- */

static bool stopped(void *context) {
    crew *c = context;
    const http_settings *outer = c->f->settings;
    pthread_mutex_lock(&c->mutex);
    bool failed = c->failed != STATUS_OK;
    pthread_mutex_unlock(&c->mutex);
    return failed || (outer->stop && outer->stop(outer->stop_context));
}

/* Takes the first waiting job from *i on; false where there is none. */
static bool take_next(crew *c, size_t *i) {
    pthread_mutex_lock(&c->mutex);
    while (c->first < c->count && c->jobs[c->first].taken) c->first++;
    if (*i < c->first) *i = c->first;
    while (*i < c->count && c->jobs[*i].taken) ++*i;
    bool any = *i < c->count;
    if (any) {
        c->jobs[*i].taken = true;
        c->waiting--;
    }
    pthread_mutex_unlock(&c->mutex);
    return any;
}

static void put_back(crew *c, size_t i) {
    pthread_mutex_lock(&c->mutex);
    c->jobs[i].taken = false;
    c->waiting++;
    if (i < c->first) c->first = i;
    pthread_mutex_unlock(&c->mutex);
}

/* Takes a job whose lock can be had. NULL in *out: none just now (another process has it), and
 * with c->waiting == 0 none any more. */
static status take_job(crew *c, job **out, int *lock) {
    *out = NULL;
    for (size_t i = 0; take_next(c, &i); i++) {
        TRY(hub_lock(c->f->place, c->jobs[i].file->id, lock));
        if (*lock >= 0) {
            *out = &c->jobs[i];
            return STATUS_OK;
        }
        put_back(c, i);
    }
    return STATUS_OK;
}

static status do_job(crew *c, http *h, job *j) {
    download d = {&c->settings, c->f->place, c->f->listing->commit, j->file, &c->counts};
    if (!is_here(c->f, j->file)) return download_file(h, &d);
    atomic_fetch_add(&c->counts.there, j->file->size); /* another process was faster */
    return STATUS_OK;
}

static bool any_waits(crew *c) {
    pthread_mutex_lock(&c->mutex);
    bool any = c->waiting > 0;
    pthread_mutex_unlock(&c->mutex);
    return any;
}

static status work(crew *c, http *h) {
    while (any_waits(c)) {
        job *j;
        int lock;
        if (stopped(c)) return status_fail(STATUS_INTERRUPTED, "interrupted");
        TRY(take_job(c, &j, &lock));
        if (!j) {
            pause_ms(LOOK_MS);
            continue;
        }
        status s = do_job(c, h, j);
        close(lock);
        TRY(s);
    }
    return STATUS_OK;
}

static void *run(void *context) {
    crew *c = context;
    http *h = NULL;
    status s = http_open(&h, &c->settings);
    if (s == STATUS_OK) s = work(c, h);
    http_close(h);
    pthread_mutex_lock(&c->mutex);
    if (s != STATUS_OK && c->failed == STATUS_OK) {
        c->failed = s;
        snprintf(c->message, sizeof c->message, "%s", status_message());
    }
    c->running--;
    pthread_cond_signal(&c->ended);
    pthread_mutex_unlock(&c->mutex);
    return NULL;
}

/* Waits until all have ended, but no longer than to the next look. */
static bool still_running(crew *c) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += LOOK_MS * 1000000L;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    pthread_mutex_lock(&c->mutex);
    int e = 0;
    while (c->running && !e) e = pthread_cond_timedwait(&c->ended, &c->mutex, &t);
    bool any = c->running > 0;
    pthread_mutex_unlock(&c->mutex);
    return any;
}

/* Starts as many threads as there is work for and waits for them. */
static status run_crew(crew *c, void (*show)(void *, int64_t, int64_t), void *context) {
    pthread_t threads[THREADS];
    int count = 0;
    for (; count < THREADS && (size_t)count < c->count; count++) {
        pthread_mutex_lock(&c->mutex);
        c->running++;
        pthread_mutex_unlock(&c->mutex);
        if (pthread_create(&threads[count], NULL, run, c) == 0) continue;
        pthread_mutex_lock(&c->mutex);
        c->running--;
        pthread_mutex_unlock(&c->mutex);
        break;
    }
    while (still_running(c))
        show(context, atomic_load(&c->counts.there), atomic_load(&c->counts.received));
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
    c->f->there = atomic_load(&c->counts.there);
    c->f->received = atomic_load(&c->counts.received);
    if (c->count && !count) return status_fail(STATUS_IO, "no thread can be started");
    return c->failed == STATUS_OK ? STATUS_OK : status_set(c->failed, c->message);
}

/* ---- making it visible ---- */

static bool in_one_folder(const char *a, const char *b) {
    const char *x = strrchr(a, '/'), *y = strrchr(b, '/');
    size_t n = x ? (size_t)(x - a) : 0;
    return !x == !y && (!x || (n == (size_t)(y - b) && !memcmp(a, b, n)));
}

/* The links of a folder are synced when the next one is of another. */
static status publish(const fetch *f) {
    const char *commit = f->listing->commit, *last = NULL;
    for (size_t i = 0; i < f->listing->count; i++) {
        const hub_file *file = &f->listing->files[i];
        if (!f->chosen[i]) continue;
        if (last && !in_one_folder(last, file->path))
            TRY(hub_sync_links(f->place, commit, last));
        TRY(hub_link(f->place, commit, file->path, file->id, file->size));
        last = file->path;
    }
    if (last) TRY(hub_sync_links(f->place, commit, last));
    return hub_write_ref(f->place, f->revision, f->listing->commit);
}

status fetch_run(fetch *f, void (*show)(void *context, int64_t there, int64_t received),
                 void *context) {
    crew c = {.f = f,
              .settings = *f->settings,
              .mutex = PTHREAD_MUTEX_INITIALIZER,
              .ended = PTHREAD_COND_INITIALIZER};
    c.settings.stop = stopped;
    c.settings.stop_context = &c;
    fetch_measure(f);
    atomic_store(&c.counts.there, f->bytes - f->missing_bytes);
    status s = list_jobs(&c);
    if (s == STATUS_OK) s = check_space(&c);
    if (s == STATUS_OK) s = hub_prepare(f->place);
    if (s == STATUS_OK) s = run_crew(&c, show, context);
    if (s == STATUS_OK) s = publish(f);
    mem_free(c.jobs);
    pthread_cond_destroy(&c.ended);
    pthread_mutex_destroy(&c.mutex);
    return s;
}
