/* parquet.h: rows of Parquet files (the Apache Parquet format: parquet.thrift, Encodings.md,
 * LogicalTypes.md), handed out as JSON objects with the columns in the schema's order.
 *
 * In reading order: thrift.h and metadata.h (the footer), tree.h (the schema), column.h with
 * codec.h, integers.h and values.h (a column's pages to values), render.h (a value to JSON),
 * and parquet.c, which puts the columns' values together into rows.
 *
 * Read: all physical types; pages of both kinds; every encoding but the deprecated BIT_PACKED
 * for levels; Snappy, gzip, zstd, Brotli, LZ4_RAW; structs, lists and maps (as lists of [key,
 * value]) in each other, older forms too; checksums of pages, where they are. Not read, and
 * refused by name: encryption, LZO, Hadoop's LZ4, INTERVAL, VARIANT, columns in other files.
 * Statistics, page indexes and bloom filters are passed over.
 *
 * The file is not trusted. Memory is a page and a dictionary of each column, and the row:
 * together at most 64 MiB and 64 times the file's size, or a gigabyte where that is less. */
#ifndef NIBBLE_DATA_PARQUET_PARQUET_H
#define NIBBLE_DATA_PARQUET_PARQUET_H

#include "common/file.h"
#include "data/record_kinds.h"

/* Takes the open file over, also when it fails. */
status record_parquet_open(record_reader **out, file *f);

#endif
