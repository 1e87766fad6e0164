/* verbs.h: one function per verb, and what several of them share. A verb turns a command line
 * into calls of run/, model/ and data/; its results go to standard output. */
#ifndef NIBBLE_TRAINER_VERBS_VERBS_H
#define NIBBLE_TRAINER_VERBS_VERBS_H

#include "trainer/run/config.h"
#include "trainer/run/session.h"
#include "trainer/verbs/options.h"

status verb_train(const command *c);
status verb_plan(const command *c);
status verb_check(const command *c);
status verb_eval(const command *c);
status verb_generate(const command *c);
status verb_export(const command *c);
status verb_quantize(const command *c);
status verb_inspect(const command *c);
status verb_tokenize(const command *c);
status verb_tokenize_chat(const command *c); /* its --chat */
status verb_get(const command *c);
status verb_bench(const command *c);

/* The configuration of the command line, with datasets' paths resolved (hub names become
 * folders) when `data`, and the model's folder in *model (mem_free it). Reports ignored keys
 * once. */
status verb_load_config(const command *c, bool data, config *out, char **model);
/* Hub names and paths of datasets and test_datasets become files and folders: STATUS_DATA. */
status verb_resolve_datasets(config *c);
/* For verbs that take --model instead of --config: a configuration that says nothing but the
 * model. */
status verb_model_config(const command *c, config *out, char **model);

/* The adapter to use: --adapter (`none`: the bare base), else what the configuration's run has
 * written to output_dir; NULL: none. Free *out with mem_free. */
status verb_adapter(const command *c, const config *conf, char **out);

/* Where to compute, by --device and --threads. */
device_request verb_device(const command *c);

#endif
