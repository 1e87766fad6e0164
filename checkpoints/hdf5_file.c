/* hdf5_file.c: see hdf5_file.h. The ids of libhdf5 are closed where they are made. */
#define H5_USE_110_API /* newer libraries still offer the calls of 1.10 */
#include "checkpoints/hdf5_file.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/file.h"

#include <errno.h>
#include <hdf5.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ENTRIES = 1 << 20 };

/* ---- the library's manners ---- */

static void set_up(void) {
    H5dont_atexit(); /* the first call of all: its own exit handler crashes after a full disk
                      */
    H5open();
    H5PLset_loading_state(0);              /* a file must not load code */
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* errors become ours, nothing prints */
}

static void start(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_up);
    H5Eclear2(H5E_DEFAULT);
}

static herr_t take_cause(unsigned n, const H5E_error2_t *error, void *text) {
    static const char system_said[] = "error message = '";
    if (n) return 0;
    const char *words = error->desc ? error->desc : "", *cause = strstr(words, system_said);
    if (cause) words = cause + sizeof system_said - 1;
    strncat(text, words, cause ? strcspn(words, "'") : 300);
    return 0;
}

/* A failure with the library's innermost cause. */
static status library_failed(status code, const char *path, const char *doing) {
    char cause[320] = "";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_cause, cause);
    return status_fail(code, "%s: HDF5 cannot %s: %s%s", path, doing,
                       *cause ? cause : "no reason given", file_remedy(cause));
}

/* ---- types ---- */

/* HDF5's own float of 16 bits: exponent from bit `exponent_at`, bias; readers convert it. */
static hid_t small_float(size_t exponent_at, size_t exponent_bits, size_t bias) {
    hid_t t = H5Tcopy(H5T_IEEE_F32LE);
    if (t < 0) return t;
    if (H5Tset_fields(t, 15, exponent_at, exponent_bits, 0, exponent_at) < 0 ||
        H5Tset_size(t, 2) < 0 || H5Tset_ebias(t, bias) < 0) {
        H5Tclose(t);
        return -1;
    }
    return t;
}

/* To be closed; negative for what has no place in a file. */
static hid_t type_of(dtype type) {
    switch (type) {
    case DTYPE_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case DTYPE_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case DTYPE_BF16:
        return small_float(7, 8, 127);
    case DTYPE_F16:
        return small_float(10, 5, 15);
    case DTYPE_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case DTYPE_U8:
        return H5Tcopy(H5T_STD_U8LE);
    default:
        return -1;
    }
}

/* DTYPE_COUNT when it is none of ours. */
static dtype recognize(hid_t type) {
    for (dtype t = 0; t < DTYPE_COUNT; t++) {
        hid_t ours = type_of(t);
        htri_t equal = ours < 0 ? 0 : H5Tequal(ours, type);
        if (ours >= 0) H5Tclose(ours);
        if (equal > 0) return t;
    }
    return DTYPE_COUNT;
}

/* ---- making ---- */

static status check_entry(hdf5_entry *e, const char *path) {
    size_t n = strlen(e->name);
    if (n < 1 || n > 255 || strchr(e->name, '/') || !strcmp(e->name, ".") ||
        e->format.rows < 1 || e->format.cols < 1 || e->format.type >= DTYPE_COUNT ||
        dtype_is_4bit(e->format.type))
        return status_fail(STATUS_INTERNAL, "%s: \"%s\" cannot be a dataset", path, e->name);
    return format_bytes(&e->format, &e->bytes);
}

static hid_t dataset_properties(void) {
    hid_t p = H5Pcreate(H5P_DATASET_CREATE);
    if (p < 0) return p;
    if (H5Pset_layout(p, H5D_CONTIGUOUS) < 0 ||
        H5Pset_alloc_time(p, H5D_ALLOC_TIME_EARLY) < 0 ||
        H5Pset_fill_time(p, H5D_FILL_TIME_NEVER) < 0 || H5Pset_obj_track_times(p, 0) < 0) {
        H5Pclose(p);
        return -1;
    }
    return p;
}

static hid_t access_properties(int64_t alignment) {
    hid_t p = H5Pcreate(H5P_FILE_ACCESS);
    if (p < 0) return p;
    /* the output folder's lock is ours (lock.h), and HDF5's own fails on some file systems */
    if (H5Pset_fclose_degree(p, H5F_CLOSE_STRONG) < 0 || H5Pset_file_locking(p, 0, 1) < 0 ||
        (alignment > 1 && H5Pset_alignment(p, 1, (hsize_t)alignment) < 0)) {
        H5Pclose(p);
        return -1;
    }
    return p;
}

static status add_dataset(hid_t h5, hid_t properties, hdf5_entry *e, const char *path) {
    hsize_t dims[2] = {(hsize_t)e->format.rows, (hsize_t)e->format.cols};
    hid_t type = type_of(e->format.type), space = H5Screate_simple(2, dims, NULL), set = -1;
    if (type >= 0 && space >= 0)
        set = H5Dcreate2(h5, e->name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    haddr_t at = set < 0 ? HADDR_UNDEF : H5Dget_offset(set);
    status s =
        at == HADDR_UNDEF ? library_failed(STATUS_IO, path, "make a dataset") : STATUS_OK;
    e->offset = (int64_t)at;
    if (set >= 0) H5Dclose(set);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return s;
}

static status add_all(hid_t h5, hdf5_entry *entries, size_t count, int64_t alignment,
                      const char *path) {
    hid_t properties = dataset_properties();
    status s =
        properties < 0 ? library_failed(STATUS_IO, path, "describe datasets") : STATUS_OK;
    for (size_t i = 0; i < count && s == STATUS_OK; i++) {
        s = add_dataset(h5, properties, &entries[i], path);
        if (s == STATUS_OK && entries[i].offset % alignment)
            s = status_fail(STATUS_INTERNAL, "%s: HDF5 put \"%s\" at byte %lld", path,
                            entries[i].name, (long long)entries[i].offset);
    }
    if (properties >= 0) H5Pclose(properties);
    return s;
}

/* libhdf5 writes by itself: injected faults are asked for here. */
static status injected(const char *path) {
    int fault = file_fault();
    return fault > 0 && fault != EINTR
               ? status_fail(STATUS_IO, "%s: HDF5 cannot write: %s", path, strerror(fault))
               : STATUS_OK;
}

status hdf5_make(const char *path, hdf5_entry *entries, size_t count, int64_t alignment) {
    for (size_t i = 0; i < count; i++) TRY(check_entry(&entries[i], path));
    start();
    TRY(injected(path));
    hid_t access = access_properties(alignment);
    hid_t h5 = access < 0 ? -1 : H5Fcreate(path, H5F_ACC_EXCL, H5P_DEFAULT, access);
    status s = h5 < 0 ? library_failed(STATUS_IO, path, "make the file")
                      : add_all(h5, entries, count, alignment, path);
    if (s == STATUS_OK) s = injected(path);
    if (h5 >= 0 && H5Fclose(h5) < 0 && s == STATUS_OK)
        s = library_failed(STATUS_IO, path, "write the file");
    if (access >= 0) H5Pclose(access);
    return s;
}

/* ---- listing ---- */

typedef struct listing {
    const char *path;
    hdf5_entry *entries;
    size_t count, capacity;
    int64_t file_bytes;
    status failed;
} listing;

static status refuse(const listing *l, const char *name, const char *what) {
    return status_fail(STATUS_MODEL,
                       "%s: \"%.255s\" %s: not a file of this program, or tampered with",
                       l->path, name, what);
}

/* How the dataset is stored: in one piece, inside this file, as it is. */
static status check_storage(const listing *l, hid_t set, const char *name) {
    hid_t p = H5Dget_create_plist(set);
    if (p < 0) return refuse(l, name, "cannot be read");
    H5D_layout_t layout = H5Pget_layout(p);
    int external = H5Pget_external_count(p), filters = H5Pget_nfilters(p);
    H5Pclose(p);
    if (layout != H5D_CONTIGUOUS) return refuse(l, name, "is not stored in one piece");
    if (external) return refuse(l, name, "is stored in another file");
    return filters ? refuse(l, name, "is filtered") : STATUS_OK;
}

static status check_shape(const listing *l, hid_t set, hdf5_entry *e, const char *name) {
    hsize_t dims[H5S_MAX_RANK] = {0};
    hid_t space = H5Dget_space(set), type = H5Dget_type(set);
    int rank = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    if (rank == 2) H5Sget_simple_extent_dims(space, dims, NULL);
    e->format.type = type < 0 ? DTYPE_COUNT : recognize(type);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (rank != 2 || dims[0] < 1 || dims[1] < 1 || dims[0] > INT64_MAX || dims[1] > INT64_MAX)
        return refuse(l, name, "is no matrix");
    if (e->format.type == DTYPE_COUNT) return refuse(l, name, "has a type that is not ours");
    e->format.rows = (int64_t)dims[0];
    e->format.cols = (int64_t)dims[1];
    haddr_t at = H5Dget_offset(set);
    int64_t end;
    if (format_bytes(&e->format, &e->bytes) != STATUS_OK || at == HADDR_UNDEF ||
        at > INT64_MAX || !checked_add_i64((int64_t)at, e->bytes, &end) || end > l->file_bytes)
        return refuse(l, name, "is not inside the file");
    e->offset = (int64_t)at;
    return STATUS_OK;
}

static status check_object(const listing *l, hid_t group, const char *name, hdf5_entry *e) {
    H5O_info_t info;
    if (H5Oget_info_by_name(group, name, &info, H5P_DEFAULT) < 0)
        return refuse(l, name, "cannot be read");
    if (info.type != H5O_TYPE_DATASET) return refuse(l, name, "is not a dataset");
    if (info.num_attrs) return refuse(l, name, "has attributes");
    hid_t set = H5Dopen2(group, name, H5P_DEFAULT);
    if (set < 0) return refuse(l, name, "cannot be opened");
    status s = check_storage(l, set, name);
    if (s == STATUS_OK) s = check_shape(l, set, e, name);
    H5Dclose(set);
    return s;
}

static status take(listing *l, hid_t group, const char *name, H5L_type_t link) {
    hdf5_entry e = {0};
    if (link != H5L_TYPE_HARD) return refuse(l, name, "is a link to somewhere else");
    if (l->count >= MAX_ENTRIES) return refuse(l, name, "is one of too many");
    TRY(check_object(l, group, name, &e));
    if (mem_grow(&l->entries, &l->capacity, l->count + 1, sizeof e, "HDF5 entries"))
        return STATUS_MEMORY;
    if (!(e.name = mem_strdup(name))) return STATUS_MEMORY;
    l->entries[l->count++] = e;
    return STATUS_OK;
}

static herr_t visit(hid_t group, const char *name, const H5L_info_t *info, void *context) {
    listing *l = context;
    l->failed = take(l, group, name, info->type);
    return l->failed == STATUS_OK ? 0 : -1;
}

static int by_offset(const void *a, const void *b) {
    const hdf5_entry *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const hdf5_entry *)a)->name, ((const hdf5_entry *)b)->name);
}

static status check_apart(listing *l) {
    if (!l->count) return STATUS_OK;
    qsort(l->entries, l->count, sizeof *l->entries, by_offset);
    for (size_t i = 1; i < l->count; i++)
        if (l->entries[i].offset - l->entries[i - 1].offset < l->entries[i - 1].bytes)
            return refuse(l, l->entries[i].name, "overlaps another");
    qsort(l->entries, l->count, sizeof *l->entries, by_name);
    return STATUS_OK;
}

/* The signature stands at byte 0: no user block, nothing in front. */
static status check_start(listing *l) {
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    unsigned char head[8] = {0};
    file f;
    status s = file_open(&f, l->path);
    if (s == STATUS_IO) return STATUS_MODEL;
    TRY(s);
    l->file_bytes = f.size;
    if (f.size >= 8) s = file_read_at(&f, head, 8, 0);
    file_close(&f);
    if (s == STATUS_OK && memcmp(head, signature, 8))
        s = status_fail(STATUS_MODEL, "%s: is not an HDF5 file", l->path);
    return s;
}

static status list_root(listing *l) {
    hid_t access = access_properties(0);
    hid_t h5 = access < 0 ? -1 : H5Fopen(l->path, H5F_ACC_RDONLY, access);
    status s = STATUS_OK;
    if (h5 < 0) s = library_failed(STATUS_MODEL, l->path, "open the file");
    if (h5 >= 0 && H5Literate(h5, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, visit, l) < 0)
        s = l->failed != STATUS_OK ? l->failed
                                   : library_failed(STATUS_MODEL, l->path, "list the file");
    if (h5 >= 0) H5Fclose(h5);
    if (access >= 0) H5Pclose(access);
    return s == STATUS_OK ? check_apart(l) : s;
}

status hdf5_list(const char *path, hdf5_entry **entries, size_t *count) {
    listing l = {.path = path};
    *entries = NULL;
    *count = 0;
    start();
    status s = check_start(&l);
    if (s == STATUS_OK) s = list_root(&l);
    if (s != STATUS_OK) {
        hdf5_entries_free(l.entries, l.count);
        return s;
    }
    *entries = l.entries;
    *count = l.count;
    return STATUS_OK;
}

void hdf5_entries_free(hdf5_entry *entries, size_t count) {
    for (size_t i = 0; i < count; i++) mem_free(entries[i].name);
    mem_free(entries);
}

const hdf5_entry *hdf5_find(const hdf5_entry *entries, size_t count, const char *name) {
    hdf5_entry key = {.name = (char *)name};
    return count ? bsearch(&key, entries, count, sizeof key, by_name) : NULL;
}
