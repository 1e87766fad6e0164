/* choose.c: see choose.h. */
#include "trainer/hub/choose.h"

#include "common/alloc.h"

#include <fnmatch.h>
#include <string.h>

/* What a model's folder needs, and what its users should have read; no folders within it but
 * that of named templates. */
static const char *const of_models[] = {
    "*.json",
    "*.jinja",
    "tokenizer*",
    "vocab*",
    "merges*",
    "README*",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "adapter_model.safetensors",
    "additional_chat_templates/*.jinja",
};
/* ... of these not: they belong to weights that are not fetched. */
static const char *const not_of_models[] = {"*.bin.index.json", "*.msgpack.index.json",
                                            "*.h5.index.json"};
/* Weights as training reads them: one file or many. Who has both means the one. */
static const char single[] = "model.safetensors",
                  index_name[] = "model.safetensors.index.json",
                  shards[] = "model-*-of-*.safetensors",
                  adapter[] = "adapter_model.safetensors";

static bool matches(const char *pattern, const char *path) {
    return fnmatch(pattern, path, FNM_PATHNAME) == 0;
}

static bool any(const char *const *patterns, size_t count, const char *path) {
    for (size_t i = 0; i < count; i++)
        if (matches(patterns[i], path)) return true;
    return false;
}

static bool has(const hub_listing *l, const char *pattern) {
    for (size_t i = 0; i < l->count; i++)
        if (matches(pattern, l->files[i].path)) return true;
    return false;
}

/* Weights that are there in a form that is not read, to name one. */
static const char *other_weights(const hub_listing *l) {
    static const char *const forms[] = {"*.bin", "*.gguf", "*.safetensors", "*.pth",
                                        "*.pt",  "*.h5",   "*.msgpack",     "*.onnx"};
    for (size_t k = 0; k < sizeof forms / sizeof *forms; k++)
        for (size_t i = 0; i < l->count; i++)
            if (fnmatch(forms[k], l->files[i].path, 0) == 0) return l->files[i].path;
    return NULL;
}

static status choose_model(const hub_place *p, const hub_listing *l, bool *chosen) {
    bool one = has(l, single), many = has(l, shards);
    if (!one && !many && !has(l, adapter)) {
        const char *other = other_weights(l);
        return status_fail(STATUS_MODEL,
                           "%s: has no weights in the form that is read here, "
                           "model.safetensors or its shards%s%s%s; --include fetches what it "
                           "names",
                           p->name, other ? " (but " : "", other ? other : "",
                           other ? ")" : "");
    }
    for (size_t i = 0; i < l->count; i++) {
        const char *path = l->files[i].path;
        chosen[i] = any(of_models, sizeof of_models / sizeof *of_models, path) &&
                    !any(not_of_models, sizeof not_of_models / sizeof *not_of_models, path) &&
                    !(one && (matches(shards, path) || matches(index_name, path)));
    }
    return STATUS_OK;
}

/* The Python library's reading of a pattern. */
static status choose_by(const hub_place *p, const hub_listing *l, const char *pattern,
                        bool *chosen) {
    size_t n = strlen(pattern), found = 0;
    char *whole = mem_printf("%s%s", pattern, n && pattern[n - 1] == '/' ? "*" : "");
    if (!whole) return STATUS_MEMORY;
    for (size_t i = 0; i < l->count; i++)
        if (fnmatch(whole, l->files[i].path, 0) == 0) {
            chosen[i] = true;
            found++;
        }
    mem_free(whole);
    return found ? STATUS_OK
                 : status_fail(STATUS_USAGE,
                               "%s: no file is named like %s; train get %s%s --list --include "
                               "'*' shows all",
                               p->name, pattern, p->name, hub_flag(p));
}

status hub_choose(const hub_place *p, const hub_listing *l, const hub_patterns *patterns,
                  bool *chosen) {
    for (size_t i = 0; i < l->count; i++) chosen[i] = false;
    if (!l->count) return status_fail(hub_code(p), "%s: has no files", p->name);
    for (size_t i = 0; i < patterns->count; i++)
        TRY(choose_by(p, l, patterns->items[i], chosen));
    if (patterns->count) return STATUS_OK;
    if (p->kind == HUB_MODEL) return choose_model(p, l, chosen);
    for (size_t i = 0; i < l->count; i++) chosen[i] = true;
    return STATUS_OK;
}
