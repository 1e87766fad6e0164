/* file.c: POSIX calls with retries, messages and one place for injected faults. */
#include "common/file.h"
#include "common/alloc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* ---- injected faults ---- */
typedef struct injector {
    const char *variable; /* of the environment */
    atomic_ullong count, at;
    atomic_int error, always, environment_read;
} injector;

static injector writes = {.variable = "NIBBLE_FILE_FAULT"},
                reads = {.variable = "NIBBLE_READ_FAULT"};

static void arm(injector *q, uint64_t k, int err, bool from_then_on) {
    atomic_store(&q->environment_read, 1);
    atomic_store(&q->error, err);
    atomic_store(&q->always, from_then_on);
    atomic_store(&q->at, k ? atomic_load(&q->count) + k : 0);
}

static int inject(injector *q) {
    if (!atomic_load(&q->environment_read) && !atomic_exchange(&q->environment_read, 1)) {
        const char *text = getenv(q->variable);
        unsigned long long k;
        int err;
        if (text && sscanf(text, "%llu:%d", &k, &err) == 2)
            arm(q, k, err, strstr(text, ":always") != NULL);
    }
    unsigned long long n = atomic_fetch_add(&q->count, 1) + 1, k = atomic_load(&q->at);
    if (!k || n < k || (n > k && !atomic_load(&q->always))) return 0;
    return atomic_load(&q->error);
}

void file_fail_at(uint64_t k, int err, bool from_then_on) {
    arm(&writes, k, err, from_then_on);
}

void file_fail_read_at(uint64_t k, int err, bool from_then_on) {
    arm(&reads, k, err, from_then_on);
}

uint64_t file_fault_count(void) {
    return atomic_load(&writes.count);
}

uint64_t file_read_count(void) {
    return atomic_load(&reads.count);
}

int file_fault(void) {
    return inject(&writes);
}

const char *file_remedy(const char *cause) {
    return strstr(cause, strerror(ENOSPC)) ? ": make room there" : "";
}

/* ---- reading ---- */
status file_open(file *f, const char *path) {
    memset(f, 0, sizeof *f);
    f->fd = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not hang here */
    if (fd < 0) return status_fail(STATUS_IO, "%s: cannot open: %s", path, strerror(errno));
    struct stat st;
    int e = fstat(fd, &st) != 0 ? errno : 0;
    if (e || !S_ISREG(st.st_mode)) {
        close(fd);
        if (e) return status_fail(STATUS_IO, "%s: cannot stat: %s", path, strerror(e));
        return status_fail(STATUS_IO, "%s: is %s", path,
                           S_ISDIR(st.st_mode) ? "a folder" : "not a plain file");
    }
    f->path = mem_strdup(path);
    if (!f->path) {
        close(fd);
        return STATUS_MEMORY;
    }
    f->fd = fd;
    f->size = st.st_size;
    return STATUS_OK;
}

status file_read_at(const file *f, void *out, size_t bytes, int64_t offset) {
    size_t done = 0;
    bool interrupted = false; /* an injected EINTR comes once, or it would never end */
    while (done < bytes) {
        size_t want = bytes - done;
        int fault = interrupted ? 0 : inject(&reads);
        interrupted = fault == EINTR;
        if (fault == FILE_FAULT_SHORT && want > 1) want--;
        errno = fault;
        ssize_t n =
            fault > 0 ? -1 : pread(f->fd, (char *)out + done, want, offset + (int64_t)done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return status_fail(STATUS_IO, "%s: reading %zu bytes at %lld: %s", f->path, bytes,
                               (long long)offset, strerror(errno));
        if (n == 0)
            return status_fail(
                STATUS_IO, "%s: ends at byte %lld, %zu bytes were expected at %lld", f->path,
                (long long)(offset + (int64_t)done), bytes, (long long)offset);
        done += (size_t)n;
    }
    return STATUS_OK;
}

status file_read_all(const char *path, int64_t limit, char **out, size_t *bytes) {
    *out = NULL;
    file f;
    TRY(file_open(&f, path));
    status s = STATUS_OK;
    if (f.size > limit)
        s = status_fail(STATUS_IO, "%s: %lld bytes, at most %lld are accepted", path,
                        (long long)f.size, (long long)limit);
    char *text = NULL;
    if (s == STATUS_OK && !(text = mem_alloc((size_t)f.size + 1, path))) s = STATUS_MEMORY;
    if (s == STATUS_OK) s = file_read_at(&f, text, (size_t)f.size, 0);
    if (s == STATUS_OK) {
        *out = text;
        if (bytes) *bytes = (size_t)f.size;
    } else
        mem_free(text);
    file_close(&f);
    return s;
}

/* ---- writing ---- */
static status open_for_write(file *f, const char *path, int flags) {
    memset(f, 0, sizeof *f);
    f->fd = -1;
    f->path = mem_strdup(path); /* first: a failure must not leave an empty file behind */
    if (!f->path) return STATUS_MEMORY;
    f->fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0666);
    if (f->fd < 0) {
        int e = errno;
        mem_free(f->path);
        f->path = NULL;
        return status_fail(STATUS_IO, "%s: cannot %s: %s", path, flags ? "create" : "open",
                           strerror(e));
    }
    struct stat st;
    if (fstat(f->fd, &st) == 0) f->size = st.st_size;
    return STATUS_OK;
}

status file_create(file *f, const char *path, bool exclusive) {
    return open_for_write(f, path, O_CREAT | (exclusive ? O_EXCL : O_TRUNC));
}

status file_open_append(file *f, const char *path) {
    return open_for_write(f, path, O_CREAT | O_APPEND);
}

status file_open_update(file *f, const char *path) {
    return open_for_write(f, path, 0);
}

static status write_failed(const file *f, size_t bytes, const char *cause) {
    return status_fail(STATUS_IO, "%s: writing %zu bytes: %s%s", f->path, bytes, cause,
                       file_remedy(cause));
}

/* offset < 0: write(2) at the file's position */
static status write_fully(file *f, const void *data, size_t bytes, int64_t offset) {
    size_t done = 0;
    bool interrupted = false; /* an injected EINTR comes once, or it would never end */
    while (done < bytes) {
        size_t want = bytes - done;
        const char *from = (const char *)data + done;
        int fault = interrupted ? 0 : file_fault();
        interrupted = fault == EINTR;
        ssize_t n;
        if (fault == FILE_FAULT_SHORT && want > 1) want--, fault = 0;
        if (fault > 0)
            n = -1, errno = fault;
        else if (offset < 0)
            n = write(f->fd, from, want);
        else
            n = pwrite(f->fd, from, want, offset + (int64_t)done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return write_failed(f, bytes, n < 0 ? strerror(errno) : "nothing was taken");
        done += (size_t)n;
    }
    return STATUS_OK;
}

status file_write(file *f, const void *data, size_t bytes) {
    TRY(write_fully(f, data, bytes, -1));
    f->size += (int64_t)bytes;
    return STATUS_OK;
}

status file_write_at(file *f, const void *data, size_t bytes, int64_t offset) {
    TRY(write_fully(f, data, bytes, offset));
    if (offset + (int64_t)bytes > f->size) f->size = offset + (int64_t)bytes;
    return STATUS_OK;
}

static status sync_fd(int fd, const char *path) {
    int fault = file_fault();
    if (fault > 0 && fault != EINTR) errno = fault;
    if ((fault > 0 && fault != EINTR) || fsync(fd) != 0)
        return status_fail(STATUS_IO, "%s: fsync: %s", path, strerror(errno));
    return STATUS_OK;
}

status file_sync(file *f) {
    return sync_fd(f->fd, f->path);
}

void file_forget(const file *f) {
    posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED);
}

status file_close(file *f) {
    status s = STATUS_OK;
    if (f->path) {
        if (f->fd >= 0 && close(f->fd) != 0 && errno != EINTR)
            s = status_fail(STATUS_IO, "%s: close: %s", f->path, strerror(errno));
        mem_free(f->path);
    }
    f->path = NULL;
    f->fd = -1;
    return s;
}

status file_sync_path(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return status_fail(STATUS_IO, "%s: cannot open: %s", path, strerror(errno));
    status s = sync_fd(fd, path);
    close(fd);
    return s;
}

static char *parent_of(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return mem_strdup(".");
    return slash == path ? mem_strdup("/") : mem_strndup(path, (size_t)(slash - path));
}

status file_sync_parent(const char *path) {
    char *parent = parent_of(path);
    if (!parent) return STATUS_MEMORY;
    status s = file_sync_path(parent);
    mem_free(parent);
    return s;
}

status file_rename(const char *from, const char *to) {
    int fault = file_fault();
    if (fault > 0 && fault != EINTR) errno = fault;
    if ((fault > 0 && fault != EINTR) || rename(from, to) != 0)
        return status_fail(STATUS_IO, "%s: cannot rename to %s: %s", from, to,
                           strerror(errno));
    return STATUS_OK;
}

status file_unlink(const char *path) {
    if (unlink(path) != 0 && errno != ENOENT)
        return status_fail(STATUS_IO, "%s: cannot remove: %s", path, strerror(errno));
    return STATUS_OK;
}

/* the end of every write through path.tmp: sync, close, rename or clean up */
static status commit(file *f, status s, const char *temporary, const char *path) {
    if (s == STATUS_OK) s = file_sync(f);
    status closed = file_close(f);
    if (s == STATUS_OK) s = closed;
    if (s == STATUS_OK) s = file_rename(temporary, path);
    if (s == STATUS_OK) s = file_sync_parent(path);
    if (s != STATUS_OK) unlink(temporary);
    return s;
}

status file_write_all(const char *path, const void *data, size_t bytes) {
    char *temporary = mem_printf("%s.tmp", path);
    if (!temporary) return STATUS_MEMORY;
    file f;
    status s = file_create(&f, temporary, false);
    if (s == STATUS_OK) s = commit(&f, file_write(&f, data, bytes), temporary, path);
    mem_free(temporary);
    return s;
}

static status copy_content(const file *from, file *to) {
    enum { PIECE = 1 << 20 };
    char *piece = mem_alloc(PIECE, "a copy");
    if (!piece) return STATUS_MEMORY;
    status s = STATUS_OK;
    for (int64_t at = 0; at < from->size && s == STATUS_OK; at += PIECE) {
        size_t n = from->size - at < PIECE ? (size_t)(from->size - at) : PIECE;
        s = file_read_at(from, piece, n, at);
        if (s == STATUS_OK) s = file_write(to, piece, n);
    }
    mem_free(piece);
    return s;
}

status file_copy(const char *from, const char *to) {
    char *temporary = mem_printf("%s.tmp", to);
    if (!temporary) return STATUS_MEMORY;
    file in, out;
    status s = file_open(&in, from);
    if (s == STATUS_OK) {
        s = file_create(&out, temporary, false);
        if (s == STATUS_OK) s = commit(&out, copy_content(&in, &out), temporary, to);
        file_close(&in);
    }
    mem_free(temporary);
    return s;
}

/* ---- folders ---- */
bool file_exists(const char *path) {
    return access(path, F_OK) == 0;
}

bool file_exists_in(const char *folder, const char *name) {
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    return n < (int)sizeof path && file_exists(path);
}

bool file_is_directory(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

status file_make_directories(const char *path) {
    char *copy = mem_strdup(path);
    if (!copy) return STATUS_MEMORY;
    status s = STATUS_OK;
    for (char *p = copy + 1;; p++) {
        char c = *p;
        if (c != '/' && c) continue;
        *p = 0;
        if (*copy && mkdir(copy, 0777) != 0 && errno != EEXIST && !file_is_directory(copy))
            s = status_fail(STATUS_IO, "%s: cannot make this folder: %s", copy,
                            strerror(errno));
        *p = c;
        if (!c || s != STATUS_OK) break;
    }
    if (s == STATUS_OK && !file_is_directory(path))
        s = status_fail(STATUS_IO, "%s: is not a folder", path);
    mem_free(copy);
    return s;
}

status file_free_space(const char *path, int64_t *bytes) {
    struct statvfs v;
    if (statvfs(path, &v) == 0) {
        *bytes = (int64_t)v.f_bavail * (int64_t)v.f_frsize;
        return STATUS_OK;
    }
    if (errno != ENOENT || !strcmp(path, ".") || !strcmp(path, "/"))
        return status_fail(STATUS_IO, "%s: statvfs: %s", path, strerror(errno));
    char *parent = parent_of(path);
    if (!parent) return STATUS_MEMORY;
    status s = file_free_space(parent, bytes);
    mem_free(parent);
    return s;
}

status file_require_space(const char *path, int64_t bytes, const char *what) {
    int64_t free_bytes;
    TRY(file_free_space(path, &free_bytes));
    if (free_bytes >= bytes) return STATUS_OK;
    return status_fail(STATUS_IO,
                       "%s: %s needs %.1f MB, only %.1f MB are free: make room there", path,
                       what, (double)bytes / 1e6, (double)free_bytes / 1e6);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

status file_list(const char *path, char ***names, size_t *count) {
    *names = NULL;
    *count = 0;
    size_t capacity = 0;
    DIR *d = opendir(path);
    if (!d) return status_fail(STATUS_IO, "%s: cannot list: %s", path, strerror(errno));
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char *name = mem_strdup(e->d_name);
        if (!name ||
            mem_grow(names, &capacity, *count + 1, sizeof **names, "a folder's list")) {
            mem_free(name);
            closedir(d);
            file_list_free(*names, *count);
            *names = NULL;
            *count = 0;
            return STATUS_MEMORY;
        }
        (*names)[(*count)++] = name;
    }
    closedir(d);
    if (*count) qsort(*names, *count, sizeof **names, by_name);
    return STATUS_OK;
}

void file_list_free(char **names, size_t count) {
    for (size_t i = 0; i < count; i++) mem_free(names[i]);
    mem_free(names);
}

char *file_join(const char *folder, const char *name) {
    if (name[0] == '/' || !folder[0]) return mem_strdup(name);
    size_t n = strlen(folder);
    return mem_printf("%s%s%s", folder, folder[n - 1] == '/' ? "" : "/", name);
}

/* Needs no memory of ours: it cleans up after those that found none. */
status file_remove_tree(const char *path) {
    if (!file_is_directory(path)) return file_unlink(path);
    DIR *d = opendir(path);
    if (!d) return status_fail(STATUS_IO, "%s: cannot list: %s", path, strerror(errno));
    status s = STATUS_OK;
    for (struct dirent *e; s == STATUS_OK && (e = readdir(d));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") &&
            unlinkat(dirfd(d), e->d_name, 0) != 0)
            s = status_fail(STATUS_IO, "%s/%s: cannot remove: %s", path, e->d_name,
                            strerror(errno));
    closedir(d);
    if (s == STATUS_OK && rmdir(path) != 0)
        s = status_fail(STATUS_IO, "%s: cannot remove: %s", path, strerror(errno));
    return s;
}
