/* file.h: the one file layer. Every byte that the program reads or writes goes through here
 * (libhdf5 writes through its own; it is pointed at paths that this layer creates, syncs and
 * renames), so that short writes, ENOSPC, EIO and EINTR can be injected at one place.
 *
 * Errors are STATUS_IO (STATUS_MEMORY for allocations) with a message that names path, offset
 * and cause; callers that know better (a missing model is STATUS_MODEL) change the code. */
#ifndef NIBBLE_COMMON_FILE_H
#define NIBBLE_COMMON_FILE_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct file {
    int fd;
    char *path;
    int64_t size; /* bytes at open; for written files the bytes so far */
} file;

/* Opens for reading. Only plain files: folders, pipes and devices are refused. */
status file_open(file *f, const char *path);
/* Exactly `bytes` from `offset`; a shorter file is an error that names the offset.
 * Thread-safe. */
status file_read_at(const file *f, void *out, size_t bytes, int64_t offset);
/* Creates (O_EXCL when `exclusive`, else truncates) for writing at its end. */
status file_create(file *f, const char *path, bool exclusive);
status
file_open_append(file *f,
                 const char *path); /* creates when absent; each write is one write(2) */
/* Opens an existing file for file_write_at, keeping what is in it. */
status file_open_update(file *f, const char *path);
status file_write(file *f, const void *data, size_t bytes);
status file_write_at(file *f, const void *data, size_t bytes, int64_t offset);
status file_sync(file *f);
/* Asks the system to forget its cached copy of what is synced, so that reading asks the disk.
 */
void file_forget(const file *f);
/* Closes; after a write error the close is still done. A closed or zeroed file may be closed.
 */
status file_close(file *f);

/* The whole file, NUL-terminated (the NUL is not counted). Refused above `limit` bytes. Free
 * with mem_free. */
status file_read_all(const char *path, int64_t limit, char **out, size_t *bytes);
/* Writes path.tmp, syncs, renames over path, syncs the folder: readers see old or new, never
 * half. */
status file_write_all(const char *path, const void *data, size_t bytes);

status file_rename(const char *from, const char *to);
status file_unlink(const char *path);    /* absent is fine */
status file_sync_path(const char *path); /* fsync of a file or folder by name */
status file_sync_parent(const char *path);
status file_copy(const char *from, const char *to); /* through path.tmp and rename */
bool file_exists(const char *path);
bool file_exists_in(const char *folder, const char *name);
bool file_is_directory(const char *path);
status file_make_directories(const char *path); /* like mkdir -p */
/* Bytes a user may still write on the file system that holds `path` (or its nearest parent).
 */
status file_free_space(const char *path, int64_t *bytes);
/* STATUS_IO when fewer than `bytes` are free there; `what` needs them ("a checkpoint"). */
status file_require_space(const char *path, int64_t bytes, const char *what);
/* Sorted names in a folder, without . and ..; free each and the array with file_list_free. */
status file_list(const char *path, char ***names, size_t *count);
void file_list_free(char **names, size_t count);
/* folder/name in a fresh string; NULL when out of memory. An absolute name is returned as it
 * is. */
char *file_join(const char *folder, const char *name);
/* Removes a folder with the plain files in it (one level); absent is fine. */
status file_remove_tree(const char *path);

/* Fault injection for tests. The k-th faultable call (write, fsync, rename, and writes of
 * others announced by file_fault) fails with `err` (ENOSPC, EIO, EFBIG), or, for
 * FILE_FAULT_SHORT, writes one byte less, or for EINTR is interrupted once. Also read from
 * NIBBLE_FILE_FAULT= "k:errno-number[:always]" at the first use. */
enum { FILE_FAULT_SHORT = -1 };
void file_fail_at(uint64_t k, int err, bool from_then_on);
uint64_t file_fault_count(void);
/* The same for reads, with NIBBLE_READ_FAULT. */
void file_fail_read_at(uint64_t k, int err, bool from_then_on);
uint64_t file_read_count(void);
/* ": make room there" where `cause` says that the device is full, else "": a message's end. */
const char *file_remedy(const char *cause);
/* Asks whether an operation done by a library must be treated as failed; returns 0 or an
 * errno. */
int file_fault(void);

#endif
