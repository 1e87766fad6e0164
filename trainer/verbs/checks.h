/* checks.h: what keys mean together. */
#ifndef NIBBLE_TRAINER_VERBS_CHECKS_H
#define NIBBLE_TRAINER_VERBS_CHECKS_H

#include "trainer/run/config.h"
#include "data/yaml.h"

/* Refuses combinations that make no sense or would not do what they say, and folds older and
 * double spellings into the one that the run reads (see the promises in config.h). `root` is
 * the tree that *c was read from, for positions and for keys that are absent; `name` is the
 * file. */
status config_check(config *c, const tree_node *root, const char *name);

#endif
