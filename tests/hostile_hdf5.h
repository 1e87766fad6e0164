/* hostile_hdf5.h: things that libhdf5 would follow, allocate or compute for whoever opens a file, one
 * function each, and the words that refuse them. */
#ifndef NIBBLE_TESTS_HOSTILE_HDF5_H
#define NIBBLE_TESTS_HOSTILE_HDF5_H

#include <hdf5.h>

/* Where the thing "x" goes, and what is at hand to make it. */
typedef struct hostile_place {
    hid_t file;
    hid_t plain, early; /* properties of a dataset; early: space is taken at once */
    hsize_t dims[3];
} hostile_place;

static hid_t hostile_set(hid_t f, const char *name, hid_t type, int rank, const hsize_t *dims,
                         hid_t properties) {
    hid_t space = H5Screate_simple(rank, dims, NULL);
    hid_t set = H5Dcreate2(f, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    H5Sclose(space);
    return set;
}

static void hostile_x(hostile_place *h, hid_t type, int rank, hid_t properties) {
    H5Dclose(hostile_set(h->file, "x", type, rank, h->dims, properties));
}

/* ---- what is no dataset ---- */

static void soft_link(hostile_place *h) {
    H5Lcreate_soft("/json", h->file, "x", H5P_DEFAULT, H5P_DEFAULT);
}
static void external_link(hostile_place *h) {
    H5Lcreate_external("/etc/passwd", "/a", h->file, "x", H5P_DEFAULT, H5P_DEFAULT);
}
static void same_bytes_twice(hostile_place *h) {
    H5Lcreate_hard(h->file, "json", h->file, "x", H5P_DEFAULT, H5P_DEFAULT);
}
static void group(hostile_place *h) {
    H5Gclose(H5Gcreate2(h->file, "x", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
}
static void named_type(hostile_place *h) {
    hid_t t = H5Tcopy(H5T_IEEE_F32LE);
    H5Tcommit2(h->file, "x", t, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Tclose(t);
}

/* ---- where the bytes lie ---- */

static void in_another_file(hostile_place *h) {
    H5Pset_external(h->plain, "/etc/passwd", 0, 16);
    hostile_x(h, H5T_STD_U8LE, 2, h->plain);
}
static void view_of_another_file(hostile_place *h) {
    hid_t space = H5Screate_simple(2, h->dims, NULL);
    H5Pset_virtual(h->plain, space, "/etc/passwd", "a", space);
    hostile_x(h, H5T_STD_U8LE, 2, h->plain);
    H5Sclose(space);
}
static void chunks(hostile_place *h) {
    H5Pset_chunk(h->plain, 2, h->dims);
    hostile_x(h, H5T_STD_U8LE, 2, h->plain);
}
static void filters(hostile_place *h) {
    H5Pset_chunk(h->plain, 2, h->dims);
    H5Pset_shuffle(h->plain);
    H5Pset_fletcher32(h->plain);
    hostile_x(h, H5T_STD_U8LE, 2, h->plain);
}
static size_t pass(unsigned flags, size_t count, const unsigned *values, size_t bytes,
                   size_t *capacity, void **buffer) {
    return bytes;
}
static void unknown_filter(hostile_place *h) {
    H5Z_class2_t filter = {H5Z_CLASS_T_VERS, 300, 1, 1, "unknown", NULL, NULL, pass};
    H5Zregister(&filter);
    H5Pset_chunk(h->plain, 2, h->dims);
    H5Pset_filter(h->plain, 300, H5Z_FLAG_MANDATORY, 0, NULL);
    hostile_x(h, H5T_STD_U8LE, 2, h->plain);
    H5Zunregister(300);
}
static void compact(hostile_place *h) {
    H5Pset_layout(h->plain, H5D_COMPACT);
    hostile_x(h, H5T_STD_U8LE, 2, h->plain);
}
static void never_allocated(hostile_place *h) {
    hostile_x(h, H5T_STD_U8LE, 2, h->plain);
}

/* ---- shapes ---- */

static void nine_petabytes(hostile_place *h) {
    h->dims[0] = h->dims[1] = 100000000;
    hostile_x(h, H5T_STD_U8LE, 2, h->plain);
}
static void more_than_an_int(hostile_place *h) {
    h->dims[0] = 1ull << 31, h->dims[1] = 1ull << 22; /* 2^56 bytes */
    hostile_x(h, H5T_IEEE_F64LE, 2, h->plain);
}
static void nothing(hostile_place *h) {
    h->dims[0] = 0;
    hostile_x(h, H5T_STD_U8LE, 2, h->plain);
}
static void cube(hostile_place *h) {
    hostile_x(h, H5T_STD_U8LE, 3, h->early);
}
static void vector(hostile_place *h) {
    hostile_x(h, H5T_STD_U8LE, 1, h->early);
}

/* ---- types ---- */

static void big_endian(hostile_place *h) {
    hostile_x(h, H5T_IEEE_F32BE, 2, h->early);
}
static void wide_integer(hostile_place *h) {
    hostile_x(h, H5T_STD_I64LE, 2, h->early);
}
static void reference(hostile_place *h) {
    hostile_x(h, H5T_STD_REF_OBJ, 2, h->early);
}
static void text(hostile_place *h) {
    hid_t t = H5Tcopy(H5T_C_S1);
    H5Tset_size(t, H5T_VARIABLE);
    hostile_x(h, t, 2, h->early);
    H5Tclose(t);
}
static void compound(hostile_place *h) {
    hid_t t = H5Tcreate(H5T_COMPOUND, 4);
    H5Tinsert(t, "f", 0, H5T_IEEE_F32LE);
    hostile_x(h, t, 2, h->early);
    H5Tclose(t);
}
static void enumeration(hostile_place *h) {
    hid_t t = H5Tenum_create(H5T_STD_U8LE);
    H5Tenum_insert(t, "one", "\1");
    hostile_x(h, t, 2, h->early);
    H5Tclose(t);
}
static void attribute(hostile_place *h) {
    hid_t set = hostile_set(h->file, "x", H5T_STD_U8LE, 2, h->dims, h->early);
    hid_t space = H5Screate(H5S_SCALAR);
    H5Aclose(H5Acreate2(set, "a", H5T_STD_U8LE, space, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(space);
    H5Dclose(set);
}

static const struct hostile_thing {
    void (*add)(hostile_place *h);
    const char *says;
} hostile_things[] = {
    {soft_link, "link"},
    {external_link, "link"},
    {same_bytes_twice, "overlaps"},
    {group, "not a dataset"},
    {named_type, "not a dataset"},
    {in_another_file, "in another file"},
    {view_of_another_file, "one piece"},
    {chunks, "one piece"},
    {filters, "one piece"},
    {unknown_filter, "one piece"},
    {compact, "one piece"},
    {never_allocated, "inside the file"},
    {nine_petabytes, "inside the file"},
    {more_than_an_int, "inside the file"},
    {nothing, "no matrix"},
    {cube, "no matrix"},
    {vector, "no matrix"},
    {big_endian, "type"},
    {wide_integer, "type"},
    {reference, "type"},
    {text, "type"},
    {compound, "type"},
    {enumeration, "type"},
    {attribute, "attributes"},
};
enum { HOSTILE_THINGS = sizeof hostile_things / sizeof *hostile_things };

/* Adds thing number `kind` to an open file; returns the words that refuse it. */
static const char *hostile_add(hid_t f, int kind) {
    hostile_place h = {.file = f, .dims = {4, 4, 4}};
    h.plain = H5Pcreate(H5P_DATASET_CREATE);
    h.early = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_alloc_time(h.early, H5D_ALLOC_TIME_EARLY);
    hostile_things[kind].add(&h);
    return hostile_things[kind].says;
}

#endif
