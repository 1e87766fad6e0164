/* cache.c: see cache.h. */
#include "trainer/hub/cache.h"

#include "common/alloc.h"
#include "common/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 1024 }; /* of a file in a repository */

/* ---- names ---- */

/* Words of letters, digits, dots, dashes and underscores, which do not begin with a dot or
 * dash, joined by at most `slashes` slashes; no ".." anywhere. */
static bool is_words(const char *words, int slashes) {
    if (strlen(words) > 200 || strstr(words, "..")) return false;
    for (const char *p = words;; p++) {
        size_t n =
            strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
        if (!n || strchr(".-", *p)) return false;
        p += n;
        if (!*p) return true;
        if (*p != '/' || slashes-- == 0) return false;
    }
}

bool hub_is_name(const char *words) {
    return is_words(words, 1);
}

bool hub_is_revision(const char *words) {
    return is_words(words, 8);
}

bool hub_is_commit(const char *words) {
    return strlen(words) == 40 && strspn(words, "0123456789abcdef") == 40;
}

/* Control characters, of one byte or as UTF-8 has U+0080 to U+009F. */
static bool has_controls(const char *words) {
    for (const unsigned char *p = (const unsigned char *)words; *p; p++)
        if (*p < ' ' || *p == 0x7f || (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)) return true;
    return false;
}

bool hub_is_path(const char *words) {
    if (strlen(words) > PATH_BYTES || has_controls(words)) return false;
    for (const char *p = words;; p++) {
        size_t n = strcspn(p, "/");
        if (n == 0 || n > 255 || (n == 1 && p[0] == '.') || (n == 2 && !memcmp(p, "..", 2)))
            return false;
        p += n;
        if (!*p) return true;
    }
}

/* ---- the environment ---- */

const char *hub_variable(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

bool hub_variable_is_true(const char *name) {
    static const char *const words[] = {"1", "on", "yes", "true"};
    const char *value = hub_variable(name);
    for (size_t i = 0; value && i < sizeof words / sizeof *words; i++)
        if (!strcasecmp(value, words[i])) return true;
    return false;
}

/* A leading ~ is the user's home, as Hugging Face has it; takes `folder` over. */
static char *expand(char *folder) {
    if (!folder || strncmp(folder, "~/", 2)) return folder;
    const char *home = hub_variable("HOME");
    char *expanded = mem_printf("%s%s", home ? home : ".", folder + 1);
    mem_free(folder);
    return expanded;
}

char *hub_home(void) {
    const char *value;
    if ((value = hub_variable("HF_HOME"))) return expand(mem_strdup(value));
    if ((value = hub_variable("XDG_CACHE_HOME")))
        return expand(mem_printf("%s/huggingface", value));
    return expand(mem_strdup("~/.cache/huggingface"));
}

static char *cache_folder(void) {
    const char *value;
    if ((value = hub_variable("HF_HUB_CACHE")) ||
        (value = hub_variable("HUGGINGFACE_HUB_CACHE")))
        return expand(mem_strdup(value));
    char *home = hub_home();
    char *folder = home ? file_join(home, "hub") : NULL;
    mem_free(home);
    return folder;
}

/* ---- places ---- */

/* FOLDER/models--org--name */
static char *repository_in(const char *folder, hub_kind kind, const char *name) {
    const char *prefix = kind == HUB_MODEL ? "models" : "datasets";
    const char *slash = strchr(name, '/');
    return slash ? mem_printf("%s/%s--%.*s--%s", folder, prefix, (int)(slash - name), name,
                              slash + 1)
                 : mem_printf("%s/%s--%s", folder, prefix, name);
}

status hub_place_open(hub_place *p, hub_kind kind, const char *name) {
    *p = (hub_place){.kind = kind, .name = mem_strdup(name), .cache = cache_folder()};
    char *locks = p->cache ? file_join(p->cache, ".locks") : NULL;
    if (locks) {
        p->locks = repository_in(locks, kind, name);
        p->folder = repository_in(p->cache, kind, name);
    }
    mem_free(locks);
    return p->name && p->locks && p->folder ? STATUS_OK : STATUS_MEMORY;
}

void hub_place_close(hub_place *p) {
    mem_free(p->name);
    mem_free(p->cache);
    mem_free(p->folder);
    mem_free(p->locks);
    *p = (hub_place){0};
}

char *hub_blob_path(const hub_place *p, const char *id) {
    return mem_printf("%s/blobs/%s", p->folder, id);
}

char *hub_snapshot_path(const hub_place *p, const char *commit) {
    return mem_printf("%s/snapshots/%s", p->folder, commit);
}

/* ---- looking ---- */

/* The commit that a ref file holds, or the revision itself when there is no such ref. */
static status read_ref(const hub_place *p, const char *revision, char **commit) {
    *commit = NULL;
    char *path = mem_printf("%s/refs/%s", p->folder, revision), *words = NULL;
    if (!path) return STATUS_MEMORY;
    status s = STATUS_OK;
    if (file_exists(path) && !file_is_directory(path))
        s = file_read_all(path, 256, &words, NULL);
    mem_free(path);
    TRY(s);
    if (words) words[strcspn(words, " \t\r\n")] = '\0';
    *commit = mem_strdup(words ? words : revision);
    mem_free(words);
    return *commit ? STATUS_OK : STATUS_MEMORY;
}

status hub_find_snapshot(const hub_place *p, const char *revision, char **path) {
    char *commit;
    *path = NULL;
    TRY(read_ref(p, revision, &commit));
    status s = STATUS_OK;
    if (is_words(commit, 0)) {
        *path = hub_snapshot_path(p, commit);
        if (!*path) s = STATUS_MEMORY;
    }
    mem_free(commit);
    if (*path && !file_is_directory(*path)) {
        mem_free(*path);
        *path = NULL;
    }
    return s;
}

/* Bytes of a plain file, or of the one that a link leads to; -1 where there is none. */
static int64_t bytes_of(const char *path) {
    struct stat st;
    return path && stat(path, &st) == 0 && S_ISREG(st.st_mode) ? (int64_t)st.st_size : -1;
}

static char *file_in_snapshot(const hub_place *p, const char *commit, const char *path) {
    return mem_printf("%s/snapshots/%s/%s", p->folder, commit, path);
}

bool hub_has_file(const hub_place *p, const char *commit, const char *path, const char *id,
                  int64_t size) {
    char *blob = hub_blob_path(p, id), *place = file_in_snapshot(p, commit, path);
    bool there = bytes_of(blob) == size || bytes_of(place) == size;
    mem_free(blob);
    mem_free(place);
    return there;
}

int64_t hub_incomplete_bytes(const hub_place *p, const char *id) {
    char *path = mem_printf("%s/blobs/%s.incomplete", p->folder, id);
    int64_t bytes = bytes_of(path);
    mem_free(path);
    return bytes > 0 ? bytes : 0;
}

/* ---- writing ---- */

static status make_folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    char *folder = slash ? mem_strndup(path, (size_t)(slash - path)) : NULL;
    if (!folder) return STATUS_MEMORY;
    status s = file_make_directories(folder);
    mem_free(folder);
    return s;
}

/* So that programs that save a user's files leave the cache out
 * (Cache Directory Tagging Specification). */
static status tag_cache(const char *cache) {
    static const char tag[] = "Signature: 8a477f597d28d172789f06886806bc55\n"
                              "# The Hugging Face cache: what is here can be fetched again.\n";
    if (file_exists_in(cache, "CACHEDIR.TAG")) return STATUS_OK;
    char *path = file_join(cache, "CACHEDIR.TAG");
    if (!path) return STATUS_MEMORY;
    file f;
    status s = file_create(&f, path, false);
    if (s == STATUS_OK) s = file_write(&f, tag, sizeof tag - 1);
    if (s == STATUS_OK) s = file_close(&f);
    mem_free(path);
    return s;
}

status hub_prepare(const hub_place *p) {
    char *blobs = file_join(p->folder, "blobs");
    if (!blobs) return STATUS_MEMORY;
    status s = file_make_directories(blobs);
    mem_free(blobs);
    if (s == STATUS_OK) s = file_make_directories(p->locks);
    return s == STATUS_OK ? tag_cache(p->cache) : s;
}

status hub_lock(const hub_place *p, const char *id, int *fd) {
    *fd = -1;
    char *path = mem_printf("%s/%s.lock", p->locks, id);
    if (!path) return STATUS_MEMORY;
    status s = STATUS_OK;
    int opened = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0664);
    if (opened < 0)
        s = status_fail(STATUS_IO, "%s: cannot open: %s", path, strerror(errno));
    else if (flock(opened, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
        *fd = opened;
    else
        close(opened);
    mem_free(path);
    return s;
}

/* ../../blobs/ID, one ../ more for each folder that the path has. */
static char *link_target(const char *path, const char *id) {
    size_t depth = 2;
    for (const char *c = path; *c; c++) depth += *c == '/';
    char *up = mem_alloc(3 * depth + 1, "a link");
    if (!up) return NULL;
    for (size_t i = 0; i < depth; i++) memcpy(up + 3 * i, "../", 3);
    char *target = mem_printf("%sblobs/%s", up, id);
    mem_free(up);
    return target;
}

/* A name beside `path` that no other process uses. */
static char *own_name(const char *path) {
    return mem_printf("%s.%ld.tmp", path, (long)getpid());
}

/* Through a name of our own and a rename, so that what is there is replaced as a whole. */
static status make_link(const char *target, const char *path) {
    char *own = own_name(path);
    if (!own) return STATUS_MEMORY;
    unlink(own);
    status s = STATUS_OK;
    if (symlink(target, own) != 0)
        s = status_fail(STATUS_IO, "%s: cannot make this link: %s", path, strerror(errno));
    if (s == STATUS_OK) s = file_rename(own, path);
    if (s != STATUS_OK) unlink(own);
    mem_free(own);
    return s;
}

status hub_link(const hub_place *p, const char *commit, const char *path, const char *id,
                int64_t size) {
    char *place = file_in_snapshot(p, commit, path);
    char *target = link_target(path, id);
    status s = place && target ? STATUS_OK : STATUS_MEMORY;
    if (s == STATUS_OK && bytes_of(place) != size) {
        s = make_folder_of(place);
        if (s == STATUS_OK) s = make_link(target, place);
    }
    mem_free(place);
    mem_free(target);
    return s;
}

status hub_sync_links(const hub_place *p, const char *commit, const char *path) {
    char *place = file_in_snapshot(p, commit, path);
    if (!place) return STATUS_MEMORY;
    status s = file_sync_parent(place);
    mem_free(place);
    return s;
}

static status replace_text(const char *path, const char *text) {
    char *own = own_name(path);
    if (!own) return STATUS_MEMORY;
    file f;
    status s = file_create(&f, own, false);
    if (s == STATUS_OK) {
        s = file_write(&f, text, strlen(text));
        if (s == STATUS_OK) s = file_sync(&f);
        status closed = file_close(&f);
        if (s == STATUS_OK) s = closed;
        if (s == STATUS_OK) s = file_rename(own, path);
        if (s == STATUS_OK) s = file_sync_parent(path);
        if (s != STATUS_OK) unlink(own);
    }
    mem_free(own);
    return s;
}

status hub_write_ref(const hub_place *p, const char *revision, const char *commit) {
    if (!strcmp(revision, commit)) return STATUS_OK;
    char *old;
    TRY(read_ref(p, revision, &old));
    bool same = !strcmp(old, commit);
    mem_free(old);
    if (same) return STATUS_OK;
    char *path = mem_printf("%s/refs/%s", p->folder, revision);
    if (!path) return STATUS_MEMORY;
    status s = make_folder_of(path);
    if (s == STATUS_OK) s = replace_text(path, commit);
    mem_free(path);
    return s;
}
