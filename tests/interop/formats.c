/* formats.c: the C half of formats.py: writes one of each file with known numbers, and reads
 * what the real libraries wrote. Not a test by itself.
 *
 *   interop_formats write DIR              DIR/adapter, DIR/bnb, DIR/run/checkpoints,
 * DIR/cache.h5 interop_formats read-bnb FOLDER NAME OUT.f32        dequantizes one 4-bit
 * weight interop_formats read-peft FOLDER MODULE OUT.f32     scale * B A of one module */
#include "checkpoints/bnb.h"
#include "checkpoints/cache.h"
#include "checkpoints/checkpoint.h"
#include "checkpoints/peft.h"
#include "common/alloc.h"
#include "common/half.h"
#include "quant/double.h"
#include "quant/dynamic.h"

#include <stdio.h>
#include <string.h>

enum { ROWS = 172, COLS = 64, RANK = 4 };

/* formats.py makes the same: multiples of 2^-9 in [-1, 1), exact in bf16 only where small. */
static float value(int64_t i) {
    return (float)((i * 7919 + 13) % 1024 - 512) / 512.0f;
}

static void fill(float *x, int64_t n, int64_t first) {
    for (int64_t i = 0; i < n; i++) x[i] = value(first + i);
}

static status write_adapter(const char *dir) {
    static float a[RANK * COLS], b[ROWS * RANK];
    fill(a, RANK * COLS, 0);
    fill(b, ROWS * RANK, 1000);
    char *folder = file_join(dir, "adapter");
    if (!folder) return STATUS_MEMORY;
    peft_config c = {
        .base_model = "base", .r = RANK, .alpha = 6, .dropout = 0.25, .rslora = true};
    named_tensor t[2] = {{.name = "model.layers.1.mlp.up_proj.lora_A.weight",
                          .format = format_of(DTYPE_F32, RANK, COLS),
                          .data = a},
                         {.name = "model.layers.1.mlp.up_proj.lora_B.weight",
                          .format = format_of(DTYPE_F32, ROWS, RANK),
                          .data = b}};
    status s = peft_write(folder, &c, t, 2);
    mem_free(folder);
    return s;
}

static status quantize(const tensor_format *f, char *data) {
    static float x[ROWS * COLS], absmax[ROWS * COLS / 64 + 1];
    tensor t = tensor_at(f, data);
    fill(x, ROWS * COLS, 0);
    TRY(quant_quantize(QUANT_NF4, x, QUANT_SRC_F32, ROWS * COLS, 64, t.data, absmax));
    memcpy(t.scales.code, nf4_codebook(), 64);
    memcpy(t.scales.map, dynamic_map_signed(), 1024);
    return quant_nest(absmax, quant_block_count(ROWS * COLS, 64), t.scales.absmax,
                      t.scales.absmax2, t.scales.offset, t.scales.map);
}

static status write_bnb(const char *dir) {
    tensor_format f = format_4bit(DTYPE_NF4, ROWS, COLS, true);
    int64_t bytes;
    TRY(format_bytes(&f, &bytes));
    char *data = mem_alloc((size_t)bytes, "a weight"), *folder = file_join(dir, "bnb");
    char *path = mem_printf("%s/bnb/model.safetensors", dir);
    if (!data || !folder || !path) return STATUS_MEMORY;
    TRY(quantize(&f, data));
    TRY(file_make_directories(folder));
    safetensors_writer w;
    TRY(safetensors_create(&w, path));
    TRY(bnb_declare(&w, "w.weight", &f, DTYPE_F32));
    TRY(safetensors_begin(&w, "pt"));
    TRY(bnb_write(&w, "w.weight", &f, DTYPE_F32, data));
    TRY(safetensors_finish(&w));
    mem_free(data), mem_free(folder), mem_free(path);
    return STATUS_OK;
}

static status write_checkpoint(const char *dir) {
    static float x[ROWS * COLS];
    static uint16_t h[ROWS * COLS], b[ROWS * COLS];
    fill(x, ROWS * COLS, 0);
    for (int i = 0; i < ROWS * COLS; i++) h[i] = f32_to_f16(x[i]), b[i] = f32_to_bf16(x[i]);
    named_tensor t[3] = {
        {.name = "f32", .format = format_of(DTYPE_F32, ROWS, COLS), .data = x},
        {.name = "f16", .format = format_of(DTYPE_F16, ROWS, COLS), .data = h},
        {.name = "bf16", .format = format_of(DTYPE_BF16, ROWS, COLS), .data = b},
    };
    char *run = file_join(dir, "run");
    json_t *content = json_pack("{s:i}", "answer", 42);
    if (!run || !content) return STATUS_MEMORY;
    TRY(checkpoint_save(run, 5, content, t, 3, 0));
    json_decref(content);
    mem_free(run);
    return STATUS_OK;
}

static status write_cache(const char *dir) {
    static float x[5000];
    fill(x, 5000, 0);
    cache_item item = {.name = "layer.0", .bytes = sizeof x};
    cache_writer w;
    char *path = file_join(dir, "cache.h5");
    json_t *metadata = json_object();
    if (!path || !metadata) return STATUS_MEMORY;
    TRY(cache_create(&w, path, &item, 1));
    TRY(cache_write(&w, 0, 0, x, sizeof x));
    TRY(cache_finish(&w, metadata));
    json_decref(metadata);
    mem_free(path);
    return STATUS_OK;
}

static status read_bnb(const char *folder, const char *name, const char *out) {
    model_files m;
    bnb_weight w;
    bool found;
    int64_t bytes;
    TRY(model_files_open(&m, folder));
    TRY(bnb_find(&m, name, &w, &found));
    if (!found) return status_fail(STATUS_MODEL, "%s is not in 4 bits", name);
    TRY(format_bytes(&w.format, &bytes));
    int64_t n = w.format.rows * w.format.cols;
    char *data = mem_alloc((size_t)bytes, "a weight");
    float *x = mem_alloc((size_t)n * 4, "its values");
    if (!data || !x) return STATUS_MEMORY;
    TRY(bnb_read(&w, data));
    tensor t = tensor_at(&w.format, data);
    quant_view view = tensor_quant_view(&t);
    quant_dequantize_f32(&view, 0, n, x);
    TRY(file_write_all(out, x, (size_t)n * 4));
    mem_free(data), mem_free(x);
    model_files_close(&m);
    return STATUS_OK;
}

static status read_peft(const char *folder, const char *module, const char *out) {
    peft_adapter p;
    TRY(peft_open(&p, folder));
    const peft_module *m = peft_find(&p, module);
    if (!m) return status_fail(STATUS_MODEL, "%s is not adapted", module);
    float *a = mem_alloc((size_t)(m->rank * m->in) * 4, "A");
    float *b = mem_alloc((size_t)(m->out * m->rank) * 4, "B");
    float *delta = mem_alloc((size_t)(m->out * m->in) * 4, "B A");
    if (!a || !b || !delta) return STATUS_MEMORY;
    TRY(peft_read(&p, m->a, a));
    TRY(peft_read(&p, m->b, b));
    for (int64_t o = 0; o < m->out; o++)
        for (int64_t i = 0; i < m->in; i++) {
            double sum = 0;
            for (int64_t r = 0; r < m->rank; r++)
                sum += (double)b[o * m->rank + r] * a[r * m->in + i];
            delta[o * m->in + i] = (float)(m->scale * sum);
        }
    TRY(file_write_all(out, delta, (size_t)(m->out * m->in) * 4));
    mem_free(a), mem_free(b), mem_free(delta);
    peft_close(&p);
    return STATUS_OK;
}

static status write_all(const char *dir) {
    TRY(write_adapter(dir));
    TRY(write_bnb(dir));
    TRY(write_checkpoint(dir));
    return write_cache(dir);
}

int main(int argc, char **argv) {
    json_setup();
    status s = STATUS_USAGE;
    if (argc == 3 && !strcmp(argv[1], "write")) s = write_all(argv[2]);
    if (argc == 5 && !strcmp(argv[1], "read-bnb")) s = read_bnb(argv[2], argv[3], argv[4]);
    if (argc == 5 && !strcmp(argv[1], "read-peft")) s = read_peft(argv[2], argv[3], argv[4]);
    if (s != STATUS_OK) fprintf(stderr, "%s\n", status_message());
    return s;
}
