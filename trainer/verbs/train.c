/* train.c: `train --config FILE`: fine-tune. */
#include "trainer/run/train.h"
#include "common/alloc.h"
#include "common/log.h"
#include "trainer/verbs/load.h"
#include "trainer/verbs/print.h"
#include "trainer/verbs/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The configuration stored in a checkpoint against this run's. */
static status compare(const char *before, const char *now, char *text, int bytes) {
    config a, b;
    TRY(config_load_text(before, strlen(before), "the checkpoint's configuration", &a));
    status s = config_load_text(now, strlen(now), "this configuration", &b);
    char *differences = NULL;
    if (s == STATUS_OK) {
        s = config_compare(&a, &b, &differences);
        config_free(&b);
    }
    config_free(&a);
    if (s == STATUS_OK && differences) {
        size_t n = strlen(differences);
        if (n && differences[n - 1] == '\n') differences[n - 1] = 0;
        for (char *p = differences; *p; p++)
            if (*p == '\n') *p = ';';
        snprintf(text, (size_t)bytes, "%s", differences);
    }
    mem_free(differences);
    return s;
}

status verb_train(const command *c) {
    config conf;
    char *model;
    TRY(verb_load_config(c, true, &conf, &model));
    train_request r = {.model_folder = model,
                       .device = verb_device(c),
                       .resume = c->resume,
                       .overwrite = c->overwrite,
                       .pattern = getenv("NIBBLE_PATTERN") != NULL,
                       .profile = c->profile,
                       .compare_configs = compare};
    status s = train_run(&conf, &r);
    mem_free(model);
    config_free(&conf);
    return s;
}
