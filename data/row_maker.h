/* row_maker.h: one row of a file made into token ids and labels, by the dataset's type.
 *
 * Knows the types and their fields; which rows of which files is source.c's matter. Open once,
 * immutable then: threads share it, each with an encoder of its own. */
#ifndef NIBBLE_DATA_ROW_MAKER_H
#define NIBBLE_DATA_ROW_MAKER_H

#include "data/records.h"
#include "data/source.h"
#include "data/spans.h"
#include "data/template.h"

typedef enum source_kind {
    KIND_TOKENIZED,
    KIND_COMPLETION,
    KIND_PROMPT,
    KIND_CHAT,
    KIND_SEGMENTS,
} source_kind;

/* How rows are made; shared by the threads, immutable. */
typedef struct row_maker {
    source_kind kind;
    const dataset_source *source;
    const dataset_options *options;
    token_names names;
    prompt *prompt;
    chat_template *template;
    chat_fields chat;
    bool text_rows; /* the file is plain text, a row is its text */
} row_maker;

/* Where a row is made. Zero it and set spans.names; free with row_encoder_free. */
typedef struct row_encoder {
    span_builder spans;
    conversation messages;
    chat_work chat;
} row_encoder;

/* What `type:` and `ds_type:` (NULL is fine) mean; STATUS_USAGE with the list of what there is. */
status source_kind_of(const char *type, source_kind *out);
status source_format(const char *ds_type, record_format *out);

/* STATUS_USAGE for a type or special token that is not known, STATUS_MODEL for a template. */
status row_maker_open(row_maker *m, const dataset_source *source, const dataset_options *o);
void row_maker_close(row_maker *m);

/* Makes e->spans' ids and labels of a row; failures (STATUS_DATA) name path and line. */
status row_maker_make(const row_maker *m, const char *path, const data_record *r,
                      row_encoder *e);
void row_encoder_free(row_encoder *e);

#endif
