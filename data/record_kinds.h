/* record_kinds.h: what a format of records.h is made of. Only records.c and the formats' own
 * files see it. */
#ifndef NIBBLE_DATA_RECORD_KINDS_H
#define NIBBLE_DATA_RECORD_KINDS_H

#include "common/file.h"
#include "data/records.h"
#include "data/text_window.h"

typedef struct record_kind {
    bool text; /* rows are plain text */
    status (*next)(record_reader *r, data_record *out);
    status (*skip)(record_reader *r, int64_t rows,
                   int64_t *passed);                  /* NULL: next, that many times */
    status (*count)(record_reader *r, int64_t *rows); /* NULL: next, until the end */
    void (*close)(record_reader *r);                  /* frees r too */
} record_kind;

/* A format's reader begins with this. */
struct record_reader {
    const record_kind *kind;
    bool finished; /* no row comes any more: the end, or a failure */
};

/* Each takes the window (the open file), whose first bytes are there, over, also when it
 * fails. STATUS_DATA for a file without any row's beginning. */
status record_text_open(record_reader **out, text_window *w, record_format format);
status record_csv_open(record_reader **out, text_window *w, char separator);

#endif
