/* dialect.h: the keys of the dialect that have no row in the schema, and names that people
 * bring along from elsewhere. Every key is either ignored:  it changes speed, logging, loading
 * or where things run, not the result; reported once, with its reason, when it is set; or
 *   refused:  it would change the result and does not exist here; fine while it is not set or
 * has the value that means the same as here, otherwise an error with the reason. So a file
 * that was written for that tool runs unchanged or is refused for a stated reason. */
#ifndef NIBBLE_TRAINER_VERBS_DIALECT_H
#define NIBBLE_TRAINER_VERBS_DIALECT_H

#include "data/yaml.h"

#include <stdbool.h>

typedef enum dialect_effect { DIALECT_IGNORED, DIALECT_REFUSED } dialect_effect;

typedef struct dialect_key {
    char name[48];
    char harmless[48]; /* refused keys: values that change nothing, "a|b"; may be "" */
    dialect_effect effect;
    const char *reason; /* ignored: a word or two; refused: a clause */
} dialect_key;

/* Looks a key up; `scope` is the schema's name ("configuration", "datasets", ...). */
bool dialect_find(const char *scope, const char *name, dialect_key *out);

/* Walks all keys of a scope: begin with a zeroed cursor; false at the end. */
typedef struct dialect_cursor {
    size_t group;
    const char *at;
} dialect_cursor;
bool dialect_next(dialect_cursor *cursor, const char *scope, dialect_key *out);

/* Whether a value of a refused key changes nothing: unset, empty, false, or among `harmless`.
 */
bool dialect_is_harmless(const dialect_key *key, const tree_node *value);

/* The key to use here instead of one known elsewhere (alpha -> lora_alpha), or NULL. */
const char *dialect_elsewhere(const char *name);

/* Whether a plugin (axolotl.integrations.liger.LigerPlugin) changes speed or logging only. */
bool dialect_plugin_ignored(const char *plugin);

#endif
