/* transfer.cu: what passes through pinned memory: uploads, downloads, files.
 *
 * Uploads: two halves of HALF bytes. Pieces are packed into a half until it is full; then the
 * other half is taken, once the copies out of it are over. A caller's bytes are his again when
 * upload returns. Downloads wait anyway and go through one half at a time.
 *
 * Files: pieces go through PIECES pinned buffers in turn. A stream of its own runs the reads as
 * host functions (the driver's thread calls them, in order), the copy queue waits for each read
 * and copies, the read after next waits for that copy: so the disk and the bus work at the same
 * time, nobody waits on the host, and the copy queue stays in order. */
#include "autograd/cuda/cuda.h"

extern "C" {
#include "common/alloc.h"
#include "common/checked.h"
}

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum {
    HALF = 4 << 20,
    PIECE = 4 << 20, /* of a file, bytes */
    PIECES = 3,      /* one being read, one being copied, one ready */
    PACKED = 256,    /* bytes; pieces of a half begin at multiples of it */
    READS = 4096,    /* reads that may wait */
};

typedef struct file_piece {
    cuda_staging *owner;
    const file *from;
    int64_t offset, bytes;
    void *to; /* pinned */
} file_piece;

struct cuda_staging {
    char *half[2];
    cudaEvent_t over[2]; /* the copies out of each half */
    bool waited[2];      /* nothing of that half is under way */
    int now;
    int64_t used;

    cudaStream_t disk;
    char *piece[PIECES];
    cudaEvent_t read[PIECES], copied[PIECES];
    file_piece reads[READS]; /* a ring */
    uint64_t given;
    pthread_mutex_t lock;
    status failed; /* of a read; sticks */
    char message[1024];
};

/* ---- opening ---- */

static status open_events(backend *b, cudaEvent_t *e, int n) {
    for (int i = 0; i < n; i++)
        CUDA_TRY(b, cudaEventCreateWithFlags(&e[i], cudaEventDisableTiming));
    return STATUS_OK;
}

static status open_pinned(backend *b, char **at, int n, size_t bytes) {
    for (int i = 0; i < n; i++)
        CUDA_TRY(b, cudaHostAlloc((void **)&at[i], bytes, cudaHostAllocDefault));
    return STATUS_OK;
}

status cuda_staging_open(cuda_backend *c) {
    backend *b = &c->base;
    cuda_staging *s = c->staging = (cuda_staging *)mem_alloc(sizeof *s, "staging");
    if (!s) return STATUS_MEMORY;
    pthread_mutex_init(&s->lock, NULL);
    s->waited[0] = s->waited[1] = true;
    TRY(open_pinned(b, s->half, 2, HALF));
    TRY(open_pinned(b, s->piece, PIECES, PIECE));
    TRY(open_events(b, s->over, 2));
    TRY(open_events(b, s->read, PIECES));
    TRY(open_events(b, s->copied, PIECES));
    CUDA_TRY(b, cudaStreamCreateWithFlags(&s->disk, cudaStreamNonBlocking));
    return STATUS_OK;
}

void cuda_staging_close(cuda_backend *c) {
    cuda_staging *s = c->staging;
    if (!s) return;
    if (s->disk) cudaStreamSynchronize(s->disk);
    for (int i = 0; i < 2; i++) {
        if (s->half[i]) cudaFreeHost(s->half[i]);
        if (s->over[i]) cudaEventDestroy(s->over[i]);
    }
    for (int i = 0; i < PIECES; i++) {
        if (s->piece[i]) cudaFreeHost(s->piece[i]);
        if (s->read[i]) cudaEventDestroy(s->read[i]);
        if (s->copied[i]) cudaEventDestroy(s->copied[i]);
    }
    if (s->disk) cudaStreamDestroy(s->disk);
    pthread_mutex_destroy(&s->lock);
    mem_free(s);
    c->staging = NULL;
}

/* ---- uploads and downloads ---- */

/* Up to `n` bytes of pinned memory that nothing is copied out of; *got of them. */
static status take(backend *b, int64_t n, char **at, int64_t *got) {
    cuda_staging *s = cuda_of(b)->staging;
    if (s->used == HALF) {
        CUDA_TRY(b, cudaEventRecord(s->over[s->now], cuda_stream(b)));
        s->waited[s->now] = false;
        s->now ^= 1;
        s->used = 0;
        if (!s->waited[s->now]) CUDA_TRY(b, cudaEventSynchronize(s->over[s->now]));
        s->waited[s->now] = true;
    }
    *at = s->half[s->now] + s->used;
    *got = min_i64(n, HALF - s->used);
    s->used = min_i64(s->used + round_up_i64(*got, PACKED), HALF);
    return STATUS_OK;
}

status cuda_upload(backend *b, void *to, const void *from, int64_t n) {
    for (int64_t done = 0, got; done < n; done += got) {
        char *at;
        TRY(take(b, n - done, &at, &got));
        memcpy(at, (const char *)from + done, (size_t)got);
        CUDA_TRY(b, cudaMemcpyAsync((char *)to + done, at, (size_t)got, cudaMemcpyHostToDevice,
                                    cuda_stream(b)));
    }
    return STATUS_OK;
}

status cuda_download(backend *b, void *to, const void *from, int64_t n) {
    for (int64_t done = 0, got; done < n; done += got) {
        char *at;
        TRY(take(b, n - done, &at, &got));
        CUDA_TRY(b, cudaMemcpyAsync(at, (const char *)from + done, (size_t)got,
                                    cudaMemcpyDeviceToHost, cuda_stream(b)));
        CUDA_TRY(b, cudaStreamSynchronize(cuda_stream(b)));
        memcpy((char *)to + done, at, (size_t)got);
    }
    return cuda_staging_failure(cuda_of(b));
}

/* ---- files ---- */

status cuda_staging_failure(cuda_backend *c) {
    cuda_staging *s = c->staging;
    pthread_mutex_lock(&s->lock);
    status failed = s->failed;
    if (failed != STATUS_OK) status_set(failed, s->message);
    pthread_mutex_unlock(&s->lock);
    return failed;
}

/* On the driver's thread; after a failure what follows is skipped, as in worker.h. */
static void CUDART_CB read_piece(void *context) {
    const file_piece *p = (const file_piece *)context;
    cuda_staging *s = p->owner;
    pthread_mutex_lock(&s->lock);
    bool skip = s->failed != STATUS_OK;
    pthread_mutex_unlock(&s->lock);
    if (skip) return;
    status e = file_read_at(p->from, p->to, (size_t)p->bytes, p->offset);
    if (e == STATUS_OK) return;
    pthread_mutex_lock(&s->lock);
    s->failed = e;
    snprintf(s->message, sizeof s->message, "%s", status_message());
    pthread_mutex_unlock(&s->lock);
}

/* Reads one piece and copies it, in queue q; everything is only enqueued. */
static status enqueue_piece(backend *b, queue q, const file *f, int64_t offset, char *to,
                            int64_t bytes) {
    cuda_backend *c = cuda_of(b);
    cuda_staging *s = c->staging;
    uint64_t number = s->given++;
    int i = (int)(number % PIECES);
    file_piece *p = &s->reads[number % READS];
    /* the ring's entry is free once the read that last used it ran */
    if (number >= READS && number % (READS / 2) == 0)
        CUDA_TRY(b, cudaStreamSynchronize(s->disk));
    *p = (file_piece){s, f, offset, bytes, s->piece[i]};
    if (number >= PIECES) CUDA_TRY(b, cudaStreamWaitEvent(s->disk, s->copied[i], 0));
    CUDA_TRY(b, cudaLaunchHostFunc(s->disk, read_piece, p));
    CUDA_TRY(b, cudaEventRecord(s->read[i], s->disk));
    CUDA_TRY(b, cudaStreamWaitEvent(c->stream[q], s->read[i], 0));
    CUDA_TRY(b, cudaMemcpyAsync(to, s->piece[i], (size_t)bytes, cudaMemcpyHostToDevice,
                                c->stream[q]));
    CUDA_TRY(b, cudaEventRecord(s->copied[i], c->stream[q]));
    return STATUS_OK;
}

event cuda_read(backend *b, queue q, const file *f, int64_t offset, void *to, int64_t bytes,
                event after) {
    cuda_order(b, q, after);
    for (int64_t done = 0; done < bytes; done += PIECE)
        if (enqueue_piece(b, q, f, offset + done, (char *)to + done,
                          min_i64(PIECE, bytes - done)) != STATUS_OK)
            break; /* it sticks */
    return cuda_point(b, q);
}
