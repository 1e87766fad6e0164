/* synthetic.c: see synthetic.h. The shapes are those of the models' published config.json. */
#include "trainer/model/synthetic.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/half.h"
#include "common/philox.h"
#include "quant/dynamic.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- shapes ---- */

typedef struct shape {
    const char *name, *model_type;
    int layers, hidden, ffn, heads, kv_heads, head_dim, vocab;
    bool tied;
    double theta;
    int positions;
    double eps, stretch; /* stretch: factor of Llama-3.1's rope scaling; 0: none */
} shape;

static const shape shapes[] = {
    {"llama-2-7b", "llama", 32, 4096, 11008, 32, 32, 128, 32000, false, 1e4, 4096, 1e-5, 0},
    {"llama-2-13b", "llama", 40, 5120, 13824, 40, 40, 128, 32000, false, 1e4, 4096, 1e-5, 0},
    {"llama-2-70b", "llama", 80, 8192, 28672, 64, 8, 128, 32000, false, 1e4, 4096, 1e-5, 0},
    {"llama-3-8b", "llama", 32, 4096, 14336, 32, 8, 128, 128256, false, 5e5, 8192, 1e-5, 0},
    {"llama-3-70b", "llama", 80, 8192, 28672, 64, 8, 128, 128256, false, 5e5, 8192, 1e-5, 0},
    {"llama-3.1-8b", "llama", 32, 4096, 14336, 32, 8, 128, 128256, false, 5e5, 131072, 1e-5,
     8},
    {"llama-3.1-70b", "llama", 80, 8192, 28672, 64, 8, 128, 128256, false, 5e5, 131072, 1e-5,
     8},
    {"llama-3.1-405b", "llama", 126, 16384, 53248, 128, 8, 128, 128256, false, 5e5, 131072,
     1e-5, 8},
    {"llama-3.2-1b", "llama", 16, 2048, 8192, 32, 8, 64, 128256, true, 5e5, 131072, 1e-5, 32},
    {"llama-3.2-3b", "llama", 28, 3072, 8192, 24, 8, 128, 128256, true, 5e5, 131072, 1e-5, 32},
    {"tinyllama-1.1b", "llama", 22, 2048, 5632, 32, 4, 64, 32000, false, 1e4, 2048, 1e-5, 0},
    {"smollm2-135m", "llama", 30, 576, 1536, 9, 3, 64, 49152, true, 1e5, 8192, 1e-5, 0},
    {"mistral-7b", "mistral", 32, 4096, 14336, 32, 8, 128, 32768, false, 1e6, 32768, 1e-5, 0},
    {"qwen2.5-0.5b", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, true, 1e6, 32768, 1e-6, 0},
    {"qwen2.5-1.5b", "qwen2", 28, 1536, 8960, 12, 2, 128, 151936, true, 1e6, 131072, 1e-6, 0},
    {"qwen2.5-3b", "qwen2", 36, 2048, 11008, 16, 2, 128, 151936, true, 1e6, 32768, 1e-6, 0},
    {"qwen2.5-7b", "qwen2", 28, 3584, 18944, 28, 4, 128, 152064, false, 1e6, 131072, 1e-6, 0},
    {"qwen2.5-14b", "qwen2", 48, 5120, 13824, 40, 8, 128, 152064, false, 1e6, 131072, 1e-6, 0},
    {"qwen2.5-32b", "qwen2", 64, 5120, 27648, 40, 8, 128, 152064, false, 1e6, 131072, 1e-6, 0},
    {"qwen2.5-72b", "qwen2", 80, 8192, 29568, 64, 8, 128, 152064, false, 1e6, 131072, 1e-6, 0},
    {"qwen3-0.6b", "qwen3", 28, 1024, 3072, 16, 8, 128, 151936, true, 1e6, 40960, 1e-6, 0},
    {"qwen3-1.7b", "qwen3", 28, 2048, 6144, 16, 8, 128, 151936, true, 1e6, 40960, 1e-6, 0},
    {"qwen3-4b", "qwen3", 36, 2560, 9728, 32, 8, 128, 151936, true, 1e6, 40960, 1e-6, 0},
    {"qwen3-8b", "qwen3", 36, 4096, 12288, 32, 8, 128, 151936, false, 1e6, 40960, 1e-6, 0},
    {"qwen3-14b", "qwen3", 40, 5120, 17408, 40, 8, 128, 151936, false, 1e6, 40960, 1e-6, 0},
    {"qwen3-32b", "qwen3", 64, 5120, 25600, 64, 8, 128, 151936, false, 1e6, 40960, 1e-6, 0},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

bool synthetic_is(const char *folder) {
    return folder && !strncmp(folder, SYNTHETIC_PREFIX, sizeof SYNTHETIC_PREFIX - 1);
}

/* `part` stands in `text`, letters of either case, with no letter or digit right behind. */
static bool holds(const char *text, const char *part) {
    size_t n = strlen(part);
    for (; strlen(text) >= n; text++)
        if (!strncasecmp(text, part, n) && !isalnum((unsigned char)text[n])) return true;
    return false;
}

const char *synthetic_like(const char *base_model) {
    const char *best = NULL;
    for (int i = 0; base_model && i < SHAPES; i++)
        if (holds(base_model, shapes[i].name) &&
            (!best || strlen(shapes[i].name) > strlen(best)))
            best = shapes[i].name;
    return best;
}

static const shape *find(const char *name) {
    for (int i = 0; i < SHAPES; i++)
        if (!strcasecmp(shapes[i].name, name)) return &shapes[i];
    return NULL;
}

static status refuse(const char *folder) {
    char names[512] = "";
    for (int i = 0; i < SHAPES; i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "",
                 shapes[i].name);
    return status_fail(STATUS_MODEL, "%.80s: no such shape; there are %s", folder, names);
}

status synthetic_config(const char *folder, json_t **out) {
    const shape *s = find(folder + sizeof SYNTHETIC_PREFIX - 1);
    *out = NULL;
    if (!s) return refuse(folder);
    json_t *o = json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:f, s:i, s:f, s:s}", "model_type",
        s->model_type, "num_hidden_layers", s->layers, "hidden_size", s->hidden,
        "intermediate_size", s->ffn, "num_attention_heads", s->heads, "num_key_value_heads",
        s->kv_heads, "head_dim", s->head_dim, "vocab_size", s->vocab, "tie_word_embeddings",
        s->tied, "rope_theta", s->theta, "max_position_embeddings", s->positions,
        "rms_norm_eps", s->eps, "torch_dtype", "bfloat16");
    json_put(&o, "sliding_window", json_null());
    if (s->stretch > 0)
        json_put(&o, "rope_scaling",
                 json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor",
                           s->stretch, "low_freq_factor", 1.0, "high_freq_factor", 4.0,
                           "original_max_position_embeddings", 8192));
    if (!o) return status_fail(STATUS_MEMORY, "out of memory for a synthetic base");
    *out = o;
    return STATUS_OK;
}

/* ---- weights ---- */

enum { POOL = 1048573 /* bytes and numbers, repeated; a prime, so that rows differ */ };

typedef struct maker {
    const decoder *d;
    const base_sink *sink;
    const load_progress *progress;
    uint8_t *random; /* [POOL] */
    float *noise;    /* [POOL] about normal */
    char *piece;     /* [4 * POOL] */
    int64_t done, total;
} maker;

static status put(maker *m, parameter_id id, int64_t offset, const void *data, int64_t n) {
    TRY(m->sink->put(m->sink->context, id, offset, data, n));
    m->done += n;
    return m->progress ? m->progress->report(m->progress->context, m->done, m->total)
                       : STATUS_OK;
}

/* Bytes [first, last) of a parameter, random or all `byte`. */
static status put_bytes(maker *m, parameter_id id, int64_t first, int64_t last, int byte) {
    if (byte >= 0) memset(m->piece, byte, (size_t)min_i64(max_i64(last - first, 0), POOL));
    for (int64_t at = first, n; at < last; at += n) {
        n = min_i64(last - at, POOL);
        TRY(put(m, id, at, byte >= 0 ? (const void *)m->piece : m->random, n));
    }
    return STATUS_OK;
}

static status put_floats(maker *m, parameter_id id, int64_t at, const float *x, int64_t n) {
    return put(m, id, at, x, n * (int64_t)sizeof *x);
}

/* n equal floats. */
static status put_level(maker *m, parameter_id id, int64_t at, float x, int64_t n) {
    float *piece = (float *)m->piece;
    for (int64_t i = 0; i < min_i64(n, POOL); i++) piece[i] = x;
    for (int64_t done = 0, k; done < n; done += k) {
        k = min_i64(n - done, POOL);
        TRY(put_floats(m, id, at + 4 * done, piece, k));
    }
    return STATUS_OK;
}

/* Uniform codes have a root mean square near 0.55; a row of `cols` weights with 1/sqrt(cols)
 * keeps x's size. Nested scales are the same times 1 +- 0.25. */
static status make_quantized(maker *m, parameter_id id, const tensor_format *f) {
    format_parts p = format_parts_of(f);
    int64_t codes = quant_code_bytes(f->rows * f->cols), end;
    float level = 1 / (0.55f * sqrtf((float)f->cols)), zero = 0;
    TRY(put_bytes(m, id, 0, codes, -1));
    TRY(put_bytes(m, id, codes, p.absmax, 0));
    if (f->nested) {
        TRY(put_bytes(m, id, p.absmax, p.absmax + p.blocks, -1));
        TRY(put_bytes(m, id, p.absmax + p.blocks, p.absmax2, 0));
        TRY(put_level(m, id, p.absmax2, 0.25f * level, p.nests));
        TRY(put_bytes(m, id, p.absmax2 + 4 * p.nests, p.map, 0));
        TRY(put_floats(m, id, p.map, dynamic_map_signed(), 256));
        end = p.map + 4 * 256;
    } else {
        TRY(put_level(m, id, p.absmax, level, p.blocks));
        end = p.absmax + 4 * p.blocks;
    }
    TRY(put_bytes(m, id, end, p.code, 0));
    TRY(put_floats(m, id, p.code, quant_codebook(f->type == DTYPE_NF4 ? QUANT_NF4 : QUANT_FP4),
                   16));
    TRY(put_bytes(m, id, p.code + 4 * 16, p.offset, 0));
    TRY(put_floats(m, id, p.offset, f->nested ? &level : &zero, 1));
    return put_bytes(m, id, p.offset + 4, p.bytes, 0);
}

static void narrow(const float *x, dtype type, int64_t n, char *out) {
    if (type == DTYPE_F32) memcpy(out, x, (size_t)n * sizeof *x);
    for (int64_t i = 0; type != DTYPE_F32 && i < n; i++)
        ((uint16_t *)out)[i] = type == DTYPE_BF16 ? f32_to_bf16(x[i]) : f32_to_f16(x[i]);
}

/* Norms lie around 1; embeddings and biases are small, the head keeps x's size. */
static status make_plain(maker *m, parameter_id id, const tensor_format *f) {
    int64_t count = f->rows * f->cols, size = dtype_bytes(f->type);
    float middle = f->rows == 1 ? 1 : 0,
          wide = f->rows == 1 ? 0.1f : 1 / sqrtf((float)f->cols),
          *x = mem_alloc_array(POOL, sizeof *x, "synthetic weights");
    if (!x) return STATUS_MEMORY;
    status s = STATUS_OK;
    for (int64_t i = 0; i < min_i64(count, POOL); i++) x[i] = middle + wide * m->noise[i];
    narrow(x, f->type, min_i64(count, POOL), m->piece);
    mem_free(x);
    for (int64_t at = 0, n; at < count && s == STATUS_OK; at += n) {
        n = min_i64(count - at, POOL);
        s = put(m, id, at * size, m->piece, n * size);
    }
    return s;
}

static status make_all(maker *m) {
    const parameter_table *t = &m->d->table;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < t->count; i++) {
            const parameter *q = &t->items[i];
            mem_class class = t->pages[q->page].class;
            if (class != MEM_BASE && class != MEM_EMBEDDING) continue;
            if (!pass)
                m->total += q->bytes;
            else
                TRY(dtype_is_4bit(q->format.type)
                        ? make_quantized(m, (parameter_id)i, &q->format)
                        : make_plain(m, (parameter_id)i, &q->format));
        }
    return STATUS_OK;
}

/* Four uniform bytes summed are normal enough. */
static void fill_pool(maker *m) {
    philox_stream random = philox_open(7, PHILOX_INIT, 0, 0, 0);
    for (uint32_t i = 0; i < POOL; i++) {
        uint32_t w = philox_word(&random, i);
        float sum = (float)((w & 255) + (w >> 8 & 255) + (w >> 16 & 255) + (w >> 24));
        m->random[i] = (uint8_t)(w >> 11);
        m->noise[i] = (sum - 510) / 147.8f;
    }
}

status synthetic_stream(const decoder *d, const base_sink *sink,
                        const load_progress *progress) {
    maker m = {.d = d, .sink = sink, .progress = progress};
    if (d->options.training == TRAIN_EVERYTHING)
        return status_fail(STATUS_USAGE, "a synthetic base cannot be trained itself: "
                                         "adapter: qlora or lora");
    m.random = mem_alloc(POOL, "synthetic weights");
    m.noise = mem_alloc_array(POOL, sizeof *m.noise, "synthetic weights");
    m.piece = mem_alloc(4 * (size_t)POOL, "synthetic weights");
    status s = m.random && m.noise && m.piece ? STATUS_OK : STATUS_MEMORY;
    if (s == STATUS_OK) {
        fill_pool(&m);
        s = make_all(&m);
    }
    mem_free(m.random);
    mem_free(m.noise);
    mem_free(m.piece);
    return s;
}
