/* lock.c: see lock.h. */
#include "checkpoints/lock.h"
#include "common/alloc.h"
#include "common/file.h"
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static status held_by_another(int fd, const char *what) {
    char text[300];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    return status_fail(
        STATUS_LOCKED,
        "%s: another run is writing there (%s); wait for it, stop it, or choose "
        "another output_dir",
        what, *text ? text : "it has not said who it is yet");
}

/* "pid 123 on host": whoever is refused reads it; that it cannot be written is no failure. */
static void sign(int fd) {
    char host[256] = "unknown host", text[300];
    gethostname(host, sizeof host - 1);
    int n = snprintf(text, sizeof text, "pid %ld on %s\n", (long)getpid(), host);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)n, 0) != n)
        log_warn("the lock file cannot be written: %s", strerror(errno));
}

static status take(output_lock *lock, const char *what, const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return status_fail(STATUS_IO, "%s: cannot open: %s", path, strerror(errno));
    int e = flock(fd, LOCK_EX | LOCK_NB) != 0 ? errno : 0;
    if (e == EWOULDBLOCK) {
        status s = held_by_another(fd, what);
        close(fd);
        return s;
    }
    if (e)
        log_warn("%s: cannot be locked (%s): make sure that only one run writes there", path,
                 strerror(e));
    sign(fd);
    lock->fd = fd;
    return STATUS_OK;
}

status output_lock_take(output_lock *lock, const char *folder) {
    lock->fd = 0;
    TRY(file_make_directories(folder));
    char *path = file_join(folder, ".lock");
    if (!path) return STATUS_MEMORY;
    status s = take(lock, folder, path);
    mem_free(path);
    return s;
}

status output_lock_take_file(output_lock *lock, const char *path) {
    lock->fd = 0;
    char *lock_path = mem_printf("%s.lock", path);
    if (!lock_path) return STATUS_MEMORY;
    status s = take(lock, path, lock_path);
    mem_free(lock_path);
    return s;
}

void output_lock_release(output_lock *lock) {
    if (lock->fd > 0) close(lock->fd);
    lock->fd = 0;
}
