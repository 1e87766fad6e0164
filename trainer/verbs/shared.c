/* shared.c: what several verbs share. */
#include "autograd/card.h"
#include "common/alloc.h"
#include "common/file.h"
#include "common/log.h"
#include "data/files.h"
#include "data/glob.h"
#include "trainer/model/synthetic.h"
#include "trainer/verbs/hub.h"
#include "trainer/verbs/load.h"
#include "trainer/verbs/verbs.h"

#include <string.h>

static status resolve_list(dataset_list *list) {
    for (size_t i = 0; i < list->count; i++) {
        char *path;
        if (glob_is_pattern(list->items[i].path) || files_is_format(list->items[i].path))
            continue;
        TRY(hub_find_dataset(list->items[i].path, list->items[i].revision, &path));
        mem_free(list->items[i].path);
        list->items[i].path = path;
    }
    return STATUS_OK;
}

status verb_resolve_datasets(config *c) {
    if (synthetic_is(c->base_model)) return STATUS_OK; /* they are not read */
    TRY(resolve_list(&c->datasets));
    return resolve_list(&c->test_datasets);
}

/* The configuration again, with random weights of its base's shape. */
static status load_synthetic(const command *c, config *out) {
    const char *like = synthetic_like(out->base_model);
    status s = like ? STATUS_OK
                    : status_fail(STATUS_USAGE,
                                  "--synthetic: base_model %s names no shape that is known; "
                                  "say which with base_model=" SYNTHETIC_PREFIX "NAME",
                                  out->base_model);
    config_free(out);
    TRY(s);
    char *base = mem_printf("base_model=" SYNTHETIC_PREFIX "%s", like);
    char **words = mem_alloc_array((size_t)c->override_count + 2, sizeof *words, "overrides");
    s = base && words ? STATUS_OK : STATUS_MEMORY;
    if (s == STATUS_OK) {
        for (int i = 0; i < c->override_count; i++) words[i] = c->overrides[i];
        words[c->override_count] = base;
        words[c->override_count + 1] = "quantized_cache="; /* nothing of it is kept */
        s = config_load(c->config_path, words, c->override_count + 2, out);
    }
    mem_free(base);
    mem_free(words);
    return s;
}

static status load(const command *c, config *out) {
    if (!c->config_path)
        return status_fail(STATUS_USAGE, "%s needs --config FILE; train %s --help says more",
                           options_verbs[c->verb].name, options_verbs[c->verb].name);
    TRY(config_load(c->config_path, c->overrides, c->override_count, out));
    if (c->synthetic && !synthetic_is(out->base_model)) TRY(load_synthetic(c, out));
    char *ignored = config_ignored_line(out);
    if (ignored) log_info("%s", ignored);
    mem_free(ignored);
    return STATUS_OK;
}

status verb_load_config(const command *c, bool data, config *out, char **model) {
    *model = NULL;
    TRY(load(c, out));
    status s = hub_find_model(out->base_model, out->revision_of_model, model);
    if (s == STATUS_OK && data) s = verb_resolve_datasets(out);
    if (s == STATUS_OK) return s;
    mem_free(*model);
    *model = NULL;
    config_free(out);
    return s;
}

/* Every key that evaluation and generation read has its default; the three that config_load
 * insists on are given. load_in_4bit=... and the like may stand on the command line. */
status verb_model_config(const command *c, config *out, char **model) {
    if (c->config_path) {
        TRY(verb_load_config(c, false, out, model));
        if (!c->model) return STATUS_OK;
        mem_free(*model);
        *model = NULL;
        status s = hub_find_model(c->model, NULL, model);
        if (s != STATUS_OK) config_free(out);
        return s;
    }
    if (!c->model)
        return status_fail(STATUS_USAGE,
                           "%s needs --model DIR or --config FILE; train %s --help says more",
                           options_verbs[c->verb].name, options_verbs[c->verb].name);
    TRY(hub_find_model(c->model, NULL, model));
    char *base = mem_printf("base_model=%s", *model);
    char **overrides =
        mem_alloc_array((size_t)c->override_count + 12, sizeof *overrides, "overrides");
    status s = base && overrides ? STATUS_OK : STATUS_MEMORY;
    if (s == STATUS_OK) {
        int n = 0;
        overrides[n++] = base;
        overrides[n++] = "learning_rate=0.0001";
        overrides[n++] = "datasets=[{path: none}]";
        overrides[n++] = "output_dir=none";
        overrides[n++] = "lora_r=16"; /* of an adapter that nobody makes here */
        overrides[n++] = "lora_alpha=16";
        overrides[n++] = "lora_target_linear=true";
        bool quantized = false;
        for (int i = 0; i < c->override_count; i++)
            quantized |= !strncmp(c->overrides[i], "load_in_4bit=", 13) ||
                         !strncmp(c->overrides[i], "adapter=", 8);
        if (!quantized) overrides[n++] = "adapter=full";
        for (int i = 0; i < c->override_count; i++) overrides[n++] = c->overrides[i];
        s = config_load(NULL, overrides, n, out);
    }
    mem_free(base);
    mem_free(overrides);
    if (s != STATUS_OK) {
        mem_free(*model);
        *model = NULL;
    }
    return s;
}

status verb_adapter(const command *c, const config *conf, char **out) {
    *out = NULL;
    if (c->adapter && !strcmp(c->adapter, "none")) return STATUS_OK;
    if (c->adapter) return (*out = mem_strdup(c->adapter)) ? STATUS_OK : STATUS_MEMORY;
    if (!c->config_path || conf->adapter == ADAPTER_FULL) return STATUS_OK;
    char *file = file_join(conf->output_dir, "adapter_config.json");
    if (!file) return STATUS_MEMORY;
    bool there = file_exists(file);
    mem_free(file);
    if (!there) return STATUS_OK;
    log_info("using the adapter in %s (--adapter none: the bare base)", conf->output_dir);
    return (*out = mem_strdup(conf->output_dir)) ? STATUS_OK : STATUS_MEMORY;
}

device_request verb_device(const command *c) {
    return (device_request){c->device, (int)c->threads, c->card ? card_find(c->card) : NULL};
}
