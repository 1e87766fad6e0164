/* schema.h: the one table of configuration keys. A row gives a key's name, type, default,
 * range or choices, a sentence of help, and what a change of it means for a run that is
 * resumed. From it come parsing and checking (load.c), the resolved configuration and its
 * comparison (print.c), help, the documentation page and completion (help.c). Adding a key is
 * adding a row here and a field of the same name in struct config.
 *
 * Keys of the dialect that have no row are in dialect.h. */
#ifndef NIBBLE_TRAINER_VERBS_SCHEMA_H
#define NIBBLE_TRAINER_VERBS_SCHEMA_H

#include "trainer/run/config.h"

typedef enum field_kind {
    FIELD_SECTION, /* no key: a heading of the help; name is its text */
    FIELD_BOOL,    /* bool */
    FIELD_SWITCH,  /* config_switch: false, true, auto */
    FIELD_ENUM,    /* an enum that counts from 0; choices in its order */
    FIELD_INT,     /* int64_t */
    FIELD_REAL,    /* double */
    FIELD_BYTES,   /* int64_t, written 24GB or 24GiB */
    FIELD_TEXT,    /* char * */
    FIELD_LIST,    /* config_list; a single value counts as a list of one */
    FIELD_MAP,     /* config_map */
    FIELD_GROUPS,  /* config_groups */
    FIELD_TABLE,   /* an embedded struct with a schema of its own */
    FIELD_TABLES,  /* dataset_list: a list of structs */
    FIELD_PROMPT,  /* a dataset's type: a name, or a map that describes a prompt */
    FIELD_KINDS
} field_kind;

enum {
    FIELD_REQUIRED = 1,
    FIELD_FREE = 2,  /* may change between a run and its resumption: speed, place, watching */
    FIELD_ABOVE = 4, /* least itself is not allowed */
    FIELD_COUNT = 8, /* real: below 1 a part of a whole, from 1 on a count */
    FIELD_OURS = 16, /* not a key of the dialect */
    FIELD_FOLDED =
        32, /* an older or double spelling: other keys hold its meaning after loading */
};

struct schema;

typedef struct field {
    const char *name;
    field_kind kind;
    unsigned flags;
    size_t offset;              /* in the struct */
    const char *standard;       /* the default as one would write it; NULL: not set */
    const char *choices;        /* FIELD_ENUM: "a|b|c" */
    double least, most;         /* numbers; both 0: any */
    const struct schema *table; /* FIELD_TABLE, FIELD_TABLES, FIELD_PROMPT */
    const char *doc;
} field;

typedef struct schema {
    const char *name; /* what a message calls it */
    const field *fields;
    size_t count;
    size_t bytes; /* of the struct */
} schema;

extern const schema schema_config;  /* struct config */
extern const schema schema_dataset; /* struct dataset_config */

/* The row of a key, NULL when there is none. */
const field *schema_find(const schema *s, const char *name);

/* Sets every field of a zeroed struct to its default. Returns 0, or -1 when out of memory. */
int schema_defaults(const schema *s, void *object);

/* "true or false", "a whole number", "one of a, b, c" ... into a buffer of `size` bytes. */
void schema_describe(const field *f, char *out, size_t size);

#endif
