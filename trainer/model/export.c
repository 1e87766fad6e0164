/* export.c: see export.h. */
#include "trainer/model/export.h"
#include "checkpoints/bnb.h"
#include "checkpoints/identity.h"
#include "checkpoints/safetensors_writer.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "trainer/model/requantize.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const int64_t shard_bytes_default = 5000000000; /* Hugging Face's max_shard_size */

typedef struct exporter {
    const model_export *x;
    model_layout layout;
    int32_t *shard_of; /* [layout.count] */
    hash128 *hashes;   /* [layout.count] of what was written */
    int32_t shards;
    char *folder;  /* <out>.tmp */
    float *values; /* [chunk] */
    void *rounded; /* [chunk] */
    requantizer requantizer;
    int64_t done, total, stored; /* bytes to write and read back; of tensors in the files */
    bool named;                  /* the folder has its final name */
} exporter;

/* Whether a tensor is written in 4 bits, and how. */
static bool in_4bit(const exporter *e, const layout_tensor *t) {
    return e->x->quantize && t->module >= 0;
}

static tensor_format format_4bit_of(const exporter *e, const layout_tensor *t) {
    return requantizer_format(t, e->x->quantized, e->x->nested);
}

static int64_t tensor_bytes(const exporter *e, const layout_tensor *t) {
    if (!in_4bit(e, t)) return t->rows * t->cols * dtype_bytes(e->x->type);
    tensor_format f = format_4bit_of(e, t);
    return format_parts_of(&f).bytes;
}

static int64_t rows_at_once(const exporter *e, const layout_tensor *t) {
    int64_t unit = in_4bit(e, t) ? requantizer_row_unit(t) : 1;
    return min_i64(t->rows, max_i64(1, EXPORT_CHUNK / t->cols / unit) * unit);
}

/* ---- what goes where ---- */

static void assign_shards(exporter *e) {
    int64_t most = e->x->shard_bytes ? e->x->shard_bytes : shard_bytes_default, used = 0;
    e->shards = 1;
    for (size_t i = 0; i < e->layout.count; i++) {
        int64_t bytes = tensor_bytes(e, &e->layout.tensors[i]);
        if (used && used + bytes > most) {
            e->shards++;
            used = 0;
        }
        used += bytes;
        e->shard_of[i] = e->shards - 1;
        e->total += 2 * bytes; /* written, then read back */
    }
}

static void shard_name(const exporter *e, int32_t shard, char name[64]) {
    if (e->shards == 1)
        snprintf(name, 64, "model.safetensors");
    else
        snprintf(name, 64, "model-%05d-of-%05d.safetensors", shard + 1, e->shards);
}

static status report(exporter *e, int64_t bytes) {
    const load_progress *p = e->x->progress;
    e->done += bytes;
    return p ? p->report(p->context, e->done, e->total) : STATUS_OK;
}

/* ---- tensors ---- */

/* Rows [first, first + rows) into e->rounded. */
static status read_rows(exporter *e, const layout_tensor *t, int64_t first, int64_t rows) {
    const export_source *s = e->x->source;
    int64_t n = rows * t->cols;
    TRY(s->read(s->context, t, first, rows, e->values));
    convert_array(e->values, QUANT_SRC_F32, e->rounded, quant_source_of(e->x->type), n);
    int64_t bad = first_not_finite(e->rounded, e->x->type, n);
    if (bad < 0) return STATUS_OK;
    return status_fail(STATUS_MODEL, "%s: element %lld is not finite as %s", t->name,
                       (long long)(first * t->cols + bad), dtype_name(e->x->type));
}

static status write_plain(exporter *e, safetensors_writer *w, const layout_tensor *t,
                          hash_stream *h) {
    int64_t step = rows_at_once(e, t);
    for (int64_t row = 0; row < t->rows; row += step) {
        int64_t rows = min_i64(step, t->rows - row);
        int64_t bytes = rows * t->cols * dtype_bytes(e->x->type);
        TRY(read_rows(e, t, row, rows));
        hash_update(h, e->rounded, (size_t)bytes);
        TRY(safetensors_write(w, t->name, e->rounded, (size_t)bytes));
        TRY(report(e, bytes));
    }
    return STATUS_OK;
}

static status write_4bit(exporter *e, safetensors_writer *w, const layout_tensor *t,
                         hash_stream *h) {
    requantizer *q = &e->requantizer;
    tensor_format f = format_4bit_of(e, t);
    int64_t step = rows_at_once(e, t), bytes = tensor_bytes(e, t);
    TRY(requantizer_begin(q, &f, e->x->type));
    for (int64_t row = 0; row < t->rows; row += step) {
        int64_t rows = min_i64(step, t->rows - row);
        TRY(read_rows(e, t, row, rows));
        TRY(requantizer_put(q, row * t->cols, e->rounded, rows * t->cols));
    }
    TRY(requantizer_finish(q));
    hash_update(h, q->data, (size_t)bytes);
    TRY(bnb_write(w, t->name, &f, e->x->type, q->data));
    return report(e, bytes);
}

static status write_tensor(exporter *e, safetensors_writer *w, size_t i) {
    const layout_tensor *t = &e->layout.tensors[i];
    const export_source *s = e->x->source;
    if (s->begin) TRY(s->begin(s->context, t));
    hash_stream *h = hash_open();
    if (!h) return STATUS_MEMORY;
    status r = in_4bit(e, t) ? write_4bit(e, w, t, h) : write_plain(e, w, t, h);
    e->hashes[i] = hash_close(h);
    return r;
}

static status declare_tensor(const exporter *e, safetensors_writer *w,
                             const layout_tensor *t) {
    const int64_t shape[] = {t->rows, t->cols};
    tensor_format f = format_4bit_of(e, t);
    if (in_4bit(e, t)) return bnb_declare(w, t->name, &f, e->x->type);
    return safetensors_declare(w, t->name, e->x->type, t->rank,
                               t->rank == 1 ? shape + 1 : shape);
}

static status declare_tensors(exporter *e, safetensors_writer *w, int32_t shard) {
    for (size_t i = 0; i < e->layout.count; i++)
        if (e->shard_of[i] == shard) TRY(declare_tensor(e, w, &e->layout.tensors[i]));
    TRY(safetensors_begin(w, "pt"));
    for (size_t i = 0; i < w->count; i++) e->stored += w->items[i].bytes;
    return STATUS_OK;
}

static status write_shard(exporter *e, int32_t shard) {
    char name[64];
    safetensors_writer w;
    shard_name(e, shard, name);
    char *path = file_join(e->folder, name);
    if (!path) return STATUS_MEMORY;
    status s = safetensors_create(&w, path);
    mem_free(path);
    TRY(s);
    s = declare_tensors(e, &w, shard);
    for (size_t i = 0; s == STATUS_OK && i < e->layout.count; i++)
        if (e->shard_of[i] == shard) s = write_tensor(e, &w, i);
    if (s == STATUS_OK) return safetensors_finish(&w);
    safetensors_abandon(&w);
    return s;
}

/* ---- JSON files ---- */

static status write_json(const exporter *e, const char *name, json_t *json) {
    char *path = file_join(e->folder, name);
    char *text = json ? json_write_text(json, JSON_INDENT(2)) : NULL;
    char *line = text ? mem_printf("%s\n", text) : NULL;
    status s = path && line ? file_write_all(path, line, strlen(line))
                            : status_fail(STATUS_MEMORY, "%s: out of memory", name);
    json_decref(json);
    mem_free(path);
    mem_free(text);
    mem_free(line);
    return s;
}

/* The file of a tensor, or of each part of one in 4 bits. True when memory is out. */
static bool index_tensor(const exporter *e, json_t *map, const layout_tensor *t,
                         const char *file) {
    tensor_format f = format_4bit_of(e, t);
    bool bad = json_object_set_new(map, t->name, json_string(file));
    for (int i = 1; !bad && in_4bit(e, t) && i < bnb_part_count(&f); i++) {
        char *name = mem_printf("%s%s", t->name, bnb_part_ending(&f, i));
        bad = !name || json_object_set_new(map, name, json_string(file));
        mem_free(name);
    }
    return bad;
}

static json_t *index_json(const exporter *e) {
    json_t *map = json_object(), *metadata = json_object(), *json = json_object();
    bool bad = !map || !metadata || !json;
    for (size_t i = 0; !bad && i < e->layout.count; i++) {
        char name[64];
        shard_name(e, e->shard_of[i], name);
        bad = index_tensor(e, map, &e->layout.tensors[i], name);
    }
    bad = bad || json_object_set_new(metadata, "total_size", json_integer(e->stored));
    bad = bad || json_object_set(json, "metadata", metadata);
    bad = bad || json_object_set(json, "weight_map", map);
    json_decref(map);
    json_decref(metadata);
    if (!bad) return json;
    json_decref(json);
    return NULL;
}

static const char *torch_name(dtype type) {
    return type == DTYPE_F32 ? "float32" : type == DTYPE_BF16 ? "bfloat16" : "float16";
}

/* One id as a number, several as a list: transformers' own forms. */
static json_t *eos_json(const model_export *x) {
    if (x->eos_count == 1) return json_integer(x->eos[0]);
    json_t *list = json_array();
    for (int i = 0; i < x->eos_count; i++) json_push(&list, json_integer(x->eos[i]));
    return list;
}

/* As transformers' BitsAndBytesConfig.to_dict() writes it. */
static json_t *quantization_json(const model_export *x) {
    return json_pack(
        "{s:b, s:b, s:s, s:s, s:s, s:b, s:b, s:b, s:n, s:f, s:b, s:b, s:s}", "_load_in_4bit",
        1, "_load_in_8bit", 0, "bnb_4bit_compute_dtype", torch_name(x->type),
        "bnb_4bit_quant_storage", "uint8", "bnb_4bit_quant_type", dtype_name(x->quantized),
        "bnb_4bit_use_double_quant", x->nested, "llm_int8_enable_fp32_cpu_offload", 0,
        "llm_int8_has_fp16_weight", 0, "llm_int8_skip_modules", "llm_int8_threshold", 6.0,
        "load_in_4bit", 1, "load_in_8bit", 0, "quant_method", "bitsandbytes");
}

/* The base's config.json, in the type written. */
static status write_config(const exporter *e) {
    const model_export *x = e->x;
    json_t *json = json_clone(x->config->json);
    bool new_form = json_object_get(json, "dtype") != NULL;
    if (json) json_object_del(json, "quantization_config");
    if (x->quantize) json_put(&json, "quantization_config", quantization_json(x));
    json_put(&json, new_form ? "dtype" : "torch_dtype", json_string(torch_name(x->type)));
    json_put(&json, "tie_word_embeddings", json_boolean(x->tied));
    if (x->eos) json_put(&json, "eos_token_id", eos_json(x));
    return write_json(e, "config.json", json);
}

/* generation_config.json as the base's, with the end tokens that hold now. */
static status write_generation_config(const exporter *e) {
    static const char name[] = "generation_config.json";
    json_t *json = NULL;
    char *path = file_join(e->x->from, name);
    if (!path) return STATUS_MEMORY;
    bool there = file_exists(path);
    status s = there ? json_read_file(path, 1 << 20, STATUS_MODEL, &json) : STATUS_OK;
    mem_free(path);
    TRY(s);
    if (!there) return STATUS_OK;
    if (e->x->eos && json_is_object(json)) json_put(&json, "eos_token_id", eos_json(e->x));
    return write_json(e, name, json);
}

static status copy_file(const exporter *e, const char *name) {
    char *from = file_join(e->x->from, name), *to = file_join(e->folder, name);
    status s = from && to ? STATUS_OK : STATUS_MEMORY;
    if (s == STATUS_OK && file_exists(from)) s = file_copy(from, to);
    mem_free(from);
    mem_free(to);
    return s;
}

static status write_small_files(const exporter *e) {
    static const char *const names[] = {"tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "tokenizer.model",
                                        "vocab.json",
                                        "merges.txt",
                                        "added_tokens.json",
                                        "chat_template.jinja",
                                        "chat_template.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) TRY(copy_file(e, names[i]));
    TRY(write_generation_config(e));
    if (e->shards > 1) TRY(write_json(e, "model.safetensors.index.json", index_json(e)));
    return write_config(e);
}

/* ---- reading back ---- */

/* A tensor in 4 bits, put together of its parts again. */
static status hash_4bit(const exporter *e, const model_files *files, const layout_tensor *t,
                        hash128 *hash) {
    bnb_weight written;
    bool found;
    int64_t bytes;
    TRY(bnb_find(files, t->name, &written, &found));
    TRY(format_bytes(&written.format, &bytes));
    if (!found || bytes != tensor_bytes(e, t))
        return status_fail(STATUS_INTERNAL, "%s was not written in 4 bits", t->name);
    void *data = mem_alloc((size_t)bytes, "a 4-bit weight");
    if (!data) return STATUS_MEMORY;
    status s = bnb_read(&written, data);
    *hash = hash_bytes(data, (size_t)bytes);
    mem_free(data);
    return s;
}

static status hash_written(const exporter *e, const model_files *files, const layout_tensor *t,
                           hash128 *hash) {
    model_tensor written;
    if (in_4bit(e, t)) return hash_4bit(e, files, t, hash);
    TRY(model_files_get(files, t->name, &written));
    return identity_tensor(&written, hash);
}

static status verify_tensors(exporter *e, const model_files *files) {
    requantizer_close(&e->requantizer);
    for (size_t i = 0; i < e->layout.count; i++) {
        const layout_tensor *t = &e->layout.tensors[i];
        hash128 hash;
        TRY(hash_written(e, files, t, &hash));
        if (!hash_equal(hash, e->hashes[i]))
            return status_fail(STATUS_IO,
                               "%s: %s was read back with other bytes than written: "
                               "check the disk",
                               e->folder, t->name);
        TRY(report(e, tensor_bytes(e, t)));
    }
    return STATUS_OK;
}

/* The folder as a reader will meet it: config.json, names, shapes, bytes. */
static status verify(exporter *e) {
    model_config config;
    weights w;
    TRY(model_config_open(&config, e->folder));
    status s = weights_open(&w, e->folder, &config);
    if (s == STATUS_OK) {
        s = verify_tensors(e, &w.files);
        weights_close(&w);
    }
    model_config_close(&config);
    return s;
}

/* ---- the folder ---- */

static status check_target(const model_export *x) {
    char **names;
    size_t count;
    if (!file_exists(x->out)) return STATUS_OK;
    if (!file_is_directory(x->out))
        return status_fail(STATUS_USAGE, "%s is a file; give a new folder", x->out);
    TRY(file_list(x->out, &names, &count));
    file_list_free(names, count);
    if (!count) return STATUS_OK;
    return status_fail(STATUS_USAGE,
                       "%s is not empty; give a new folder, nothing is overwritten", x->out);
}

static status check_space(const exporter *e) {
    int64_t free_bytes, need = e->total / 2 + (64 << 20);
    TRY(file_free_space(e->x->out, &free_bytes));
    if (free_bytes >= need) return STATUS_OK;
    return status_fail(STATUS_IO, "%s: the export needs %.2f GB, %.2f GB are free", e->x->out,
                       (double)need * 1e-9, (double)free_bytes * 1e-9);
}

static status write_folder(exporter *e) {
    TRY(file_remove_tree(e->folder)); /* what a killed export left */
    TRY(file_make_directories(e->folder));
    for (int32_t i = 0; i < e->shards; i++) TRY(write_shard(e, i));
    TRY(write_small_files(e));
    TRY(verify(e));
    TRY(file_sync_path(e->folder));
    TRY(file_rename(e->folder, e->x->out));
    e->named = true;
    return file_sync_parent(e->x->out);
}

/* <out>.tmp, without the slashes that may end a folder's name. */
static char *temporary_name(const char *out) {
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') n--;
    return mem_printf("%.*s.tmp", (int)n, out);
}

static status open_exporter(exporter *e) {
    TRY(model_layout_make(&e->layout, e->x->config, e->x->tied));
    int64_t chunk = 1;
    for (size_t i = 0; i < e->layout.count; i++) {
        const layout_tensor *t = &e->layout.tensors[i];
        chunk = max_i64(chunk, rows_at_once(e, t) * t->cols);
    }
    e->shard_of = mem_alloc_array(e->layout.count, sizeof *e->shard_of, "shards");
    e->hashes = mem_alloc_array(e->layout.count, sizeof *e->hashes, "hashes");
    e->values = mem_alloc_array((size_t)chunk, sizeof *e->values, "staging of the export");
    e->rounded = mem_alloc_array((size_t)chunk, sizeof *e->values, "staging of the export");
    e->folder = temporary_name(e->x->out);
    bool ready = e->shard_of && e->hashes && e->values && e->rounded && e->folder;
    if (!ready) return STATUS_MEMORY;
    assign_shards(e);
    return check_space(e);
}

static void close_exporter(exporter *e) {
    model_layout_free(&e->layout);
    mem_free(e->shard_of);
    mem_free(e->hashes);
    mem_free(e->values);
    mem_free(e->rounded);
    mem_free(e->folder);
    requantizer_close(&e->requantizer);
}

status model_export_write(const model_export *x) {
    exporter e = {.x = x};
    TRY(check_target(x));
    status s = open_exporter(&e);
    if (s == STATUS_OK) {
        s = write_folder(&e);
        if (s != STATUS_OK) {
            char *message = mem_strdup(status_message()); /* removal has errors of its own */
            file_remove_tree(e.named ? x->out : e.folder);
            if (message) status_set(s, message);
            mem_free(message);
        }
    }
    if (x->error) *x->error = requantizer_error(&e.requantizer);
    close_exporter(&e);
    return s;
}
