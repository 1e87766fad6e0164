/* dataset_card.h: what a dataset's card says of its files: the `configs:` in the YAML at the
 * head of README.md (https://huggingface.co/docs/hub/datasets-manual-configuration). A
 * configuration has a name and, for each split, patterns of file names, or a folder. */
#ifndef NIBBLE_DATA_DATASET_CARD_H
#define NIBBLE_DATA_DATASET_CARD_H

#include "common/status.h"
#include "data/yaml.h"

#include <stdbool.h>

typedef struct dataset_card {
    tree_node *root;
    const tree_node *configs; /* a list of maps; NULL: the card has none */
} dataset_card;

/* Of the README.md in a folder; a missing one has no configurations. STATUS_DATA for one that
 * cannot be understood. */
status dataset_card_read(dataset_card *out, const char *folder);
void dataset_card_free(dataset_card *c);

/* The configuration of a name; NULL: the only one, or the one called default or marked so.
 * NULL where there is no such. */
const tree_node *dataset_card_config(const dataset_card *c, const char *name);
/* Their names, joined by ", ", for a message; mem_free it. */
char *dataset_card_names(const dataset_card *c);

/* The splits of a configuration with files, likewise. */
char *dataset_card_splits(const tree_node *config);
/* The patterns of a split: a list of scalars, or a scalar; NULL where it has none. */
const tree_node *dataset_card_patterns(const tree_node *config, const char *split);
/* Whether the configuration says anything of files; else its folder is looked through. */
bool dataset_card_has_files(const tree_node *config);
/* Its folder below the dataset's, or NULL. */
const char *dataset_card_folder(const tree_node *config);

#endif
