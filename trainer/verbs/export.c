/* export.c: `train export`: base and adapter merged into one model of 16 or 4 bits, or the
 * adapter alone. */
#include "checkpoints/identity.h"
#include "common/alloc.h"
#include "common/file.h"
#include "common/log.h"
#include "trainer/model/merge.h"
#include "trainer/run/signals.h"
#include "trainer/verbs/verbs.h"

#include <string.h>

static status show_progress(void *context, int64_t done, int64_t total) {
    log_progress("exporting %lld of %lld MiB", (long long)(done >> 20),
                 (long long)(total >> 20));
    return signals_check("exporting");
}

/* Where the trained adapter is: --adapter, else the configuration's output_dir. */
static const char *adapter_folder(const command *c, const config *conf) {
    return c->adapter ? c->adapter : conf->output_dir;
}

/* The type that training rounded weights to before it quantized them. */
static dtype compute_of(const config *conf, const model_config *m) {
    switch (config_compute_precision(conf)) {
    case PRECISION_FP16:
        return DTYPE_F16;
    case PRECISION_FP32:
        return DTYPE_F32;
    case PRECISION_BF16:
        return DTYPE_BF16;
    default:
        return m->stored == DTYPE_F16 ? DTYPE_F16 : DTYPE_BF16;
    }
}

static dtype file_type(const model_config *m) {
    return m->stored == DTYPE_F16 ? DTYPE_F16 : DTYPE_BF16;
}

static void say_merged(const command *c, bool dequantized, double error) {
    log_info("merged into %s: on the %s base. Trained on 4-bit weights the adapter fits "
             "those exactly "
             "(--base dequantized); the 16-bit originals are usually a little better or "
             "the same. "
             "`train eval` on both tells.",
             c->out, dequantized ? "dequantized 4-bit" : "original 16-bit");
    if (c->kind == EXPORT_MERGED_4BIT)
        log_info(
            "4 bits moved the merged weights by %.2g %% (rms), which no training has made "
            "good; `train eval` says what it costs. The adapter on the 4-bit base that it "
            "was trained on loses nothing.",
            100 * error);
}

static status export_merged(const command *c, const config *conf, const char *folder,
                            const model_config *m, weights *w, const peft_adapter *adapter) {
    bool fp4 = conf->bnb_config_kwargs.bnb_4bit_quant_type == CONFIG_FP4;
    merge_options o = {.dequantized = c->base == EXPORT_DEQUANTIZED,
                       .compute = compute_of(conf, m),
                       .quantize = fp4 ? DTYPE_FP4 : DTYPE_NF4,
                       .nested = conf->bnb_config_kwargs.bnb_4bit_use_double_quant};
    double error;
    merge *merged;
    TRY(merge_open(&merged, w, adapter, &o));
    export_source source = merge_source(merged);
    load_progress progress = {show_progress, NULL};
    model_export x = {.config = m,
                      .tied = w->tied,
                      .from = folder,
                      .out = c->out,
                      .type = file_type(m),
                      .quantize = c->kind == EXPORT_MERGED_4BIT,
                      .quantized = o.quantize,
                      .nested = o.nested,
                      .error = &error,
                      .shard_bytes = c->shard_size > 0 ? c->shard_size : 0,
                      .source = &source,
                      .progress = &progress};
    status s = model_export_write(&x);
    merge_close(merged);
    if (s == STATUS_OK) say_merged(c, o.dequantized || w->any_stored, error);
    return s;
}

static status copy_adapter(const char *from, const char *to) {
    static const char *const names[] = {"adapter_model.safetensors", "adapter_config.json"};
    TRY(file_make_directories(to));
    for (int i = 0; i < 2; i++) { /* the configuration last: it marks a whole adapter */
        char *a = file_join(from, names[i]), *b = file_join(to, names[i]);
        status s = a && b ? file_copy(a, b) : STATUS_MEMORY;
        mem_free(a);
        mem_free(b);
        TRY(s);
    }
    return STATUS_OK;
}

/* The adapter was trained on exactly this base, as far as it says on which. A full read: two
 * fine-tunes of one model differ in no name and no shape. */
static status check_base(const weights *w, const peft_adapter *a, const char *adapter,
                         const char *base) {
    char found[HASH_TEXT];
    json_t *tensors = json_object();
    status s = tensors ? STATUS_OK : status_fail(STATUS_MEMORY, "out of memory");
    for (size_t i = 0; i < w->files.count && s == STATUS_OK; i++) {
        const model_tensor *t = &w->files.tensors[i];
        hash128 hash;
        s = identity_tensor(t, &hash);
        if (s == STATUS_OK) s = identity_add(tensors, t->entry->name, hash);
        if (s == STATUS_OK) s = signals_check("checking the base");
    }
    if (s == STATUS_OK) s = identity_digest(tensors, found);
    json_decref(tensors);
    TRY(s);
    if (!strcmp(found, a->config.base_hash)) return STATUS_OK;
    return status_fail(STATUS_MODEL,
                       "%s was trained on another base than %s: its hash was %s, here it is "
                       "%s; give the base that it was trained on",
                       adapter, base, a->config.base_hash, found);
}

static status export_all(const command *c, const config *conf, const char *folder) {
    model_config m;
    weights w;
    peft_adapter adapter;
    if (c->kind == EXPORT_ADAPTER) return copy_adapter(adapter_folder(c, conf), c->out);
    TRY(model_config_open(&m, folder));
    status s = weights_open(&w, folder, &m);
    if (s == STATUS_OK && w.synthetic) {
        weights_close(&w);
        s = status_fail(STATUS_USAGE,
                        "%s: a synthetic base has no weights worth an export; its "
                        "adapter can be had with --kind adapter",
                        folder);
    } else if (s == STATUS_OK) {
        s = peft_open(&adapter, adapter_folder(c, conf));
        if (s == STATUS_OK) {
            if (adapter.config.base_hash)
                s = check_base(&w, &adapter, adapter_folder(c, conf), folder);
            if (s == STATUS_OK) s = export_merged(c, conf, folder, &m, &w, &adapter);
            peft_close(&adapter);
        }
        weights_close(&w);
    }
    model_config_close(&m);
    return s;
}

/* Whether a file of this name may stand in a folder that an export wrote. */
static bool exported_name(const char *name) {
    static const char *const ends[] = {".safetensors", ".json",  ".jinja",
                                       ".txt",         ".model", ".tmp"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t m = strlen(ends[i]);
        if (n > m && !strcmp(name + n - m, ends[i])) return true;
    }
    return false;
}

/* --overwrite: an earlier export goes, anything else stays. */
static status remove_earlier(const char *folder) {
    char **names;
    size_t count;
    if (!file_is_directory(folder)) return STATUS_OK;
    TRY(file_list(folder, &names, &count));
    status s = STATUS_OK;
    for (size_t i = 0; i < count && s == STATUS_OK; i++)
        if (!exported_name(names[i]))
            s = status_fail(STATUS_USAGE,
                            "%s holds %s, which no export wrote; choose another folder",
                            folder, names[i]);
    file_list_free(names, count);
    return s == STATUS_OK ? file_remove_tree(folder) : s;
}

status verb_export(const command *c) {
    config conf;
    char *folder;
    if (!c->out) return status_fail(STATUS_USAGE, "export needs --out DIR");
    if (!c->config_path && !c->adapter)
        return status_fail(STATUS_USAGE,
                           "export needs --config FILE, or --model DIR and --adapter DIR");
    TRY(verb_model_config(c, &conf, &folder));
    status s = STATUS_OK;
    if (c->overwrite) s = remove_earlier(c->out);
    if (s == STATUS_OK) s = export_all(c, &conf, folder);
    mem_free(folder);
    config_free(&conf);
    return s;
}
