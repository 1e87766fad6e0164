/* bnb.c: see bnb.h. */
#include "checkpoints/bnb.h"
#include "common/alloc.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_STATE = 65536, NAME_BYTES = 512, STATE_BYTES = 512 };

static const struct {
    const char *name; /* torch's */
    dtype type;
} sources[] = {{"float32", DTYPE_F32}, {"bfloat16", DTYPE_BF16}, {"float16", DTYPE_F16}};

static const char *source_name(dtype type) {
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        if (sources[i].type == type) return sources[i].name;
    return NULL;
}

static const char *state_ending(dtype type) {
    return type == DTYPE_FP4 ? ".quant_state.bitsandbytes__fp4"
                             : ".quant_state.bitsandbytes__nf4";
}

/* ---- the JSON ---- */

static status bad_state(const char *where, const char *what) {
    return status_fail(STATUS_MODEL, "%s: %s", where, what);
}

static status check_keys(const json_t *state, const char *where) {
    static const char *const known[] = {"quant_type",   "blocksize",        "dtype",
                                        "shape",        "nested_blocksize", "nested_dtype",
                                        "nested_offset"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)state, key, value) {
        size_t i = 0;
        while (i < 7 && strcmp(key, known[i])) i++;
        if (i == 7) return status_fail(STATUS_MODEL, "%s: unknown key \"%.100s\"", where, key);
    }
    size_t n = json_object_size(state);
    return n == 4 || n == 7 ? STATUS_OK
                            : bad_state(where, "must have four keys, or seven when nested");
}

static status parse_nested(bnb_weight *w, const json_t *state, const char *where) {
    const char *type = json_string_value(json_object_get(state, "nested_dtype"));
    const json_t *offset = json_object_get(state, "nested_offset");
    const json_t *block = json_object_get(state, "nested_blocksize");
    w->format.nested = json_object_size(state) == 7;
    if (!w->format.nested) return STATUS_OK;
    if (!json_is_integer(block) || json_integer_value(block) != TENSOR_NEST_BLOCK)
        return bad_state(where, "\"nested_blocksize\" must be 256");
    if (!type || strcmp(type, "float32"))
        return bad_state(where, "\"nested_dtype\" must be \"float32\"");
    w->offset = (float)json_number_value(offset);
    return json_is_number(offset) && isfinite(w->offset)
               ? STATUS_OK
               : bad_state(where, "\"nested_offset\" must be a finite number");
}

static status parse_state(bnb_weight *w, const json_t *state, const char *where) {
    if (!json_is_object(state)) return bad_state(where, "must be an object");
    TRY(check_keys(state, where));
    const char *type = json_string_value(json_object_get(state, "quant_type"));
    const char *source = json_string_value(json_object_get(state, "dtype"));
    const json_t *shape = json_object_get(state, "shape");
    const json_t *rows = json_array_get(shape, 0), *cols = json_array_get(shape, 1);
    const json_t *block = json_object_get(state, "blocksize");
    if (!type || strcmp(type, dtype_name(w->format.type)))
        return bad_state(where, "\"quant_type\" is not the one that the tensor's name says");
    w->source = DTYPE_COUNT;
    for (size_t i = 0; source && i < sizeof sources / sizeof *sources; i++)
        if (!strcmp(source, sources[i].name)) w->source = sources[i].type;
    if (w->source == DTYPE_COUNT)
        return bad_state(where, "\"dtype\" must be \"float32\", \"bfloat16\" or \"float16\"");
    if (json_array_size(shape) != 2 || !json_is_integer(rows) || !json_is_integer(cols) ||
        json_integer_value(rows) < 1 || json_integer_value(cols) < 1)
        return bad_state(where, "\"shape\" must be two positive integers");
    int64_t b = json_is_integer(block) ? json_integer_value(block) : 0;
    if (b < 2 || b > QUANT_BLOCK_MAX || b & (b - 1))
        return bad_state(where, "\"blocksize\" must be a power of two from 2 to 4096");
    w->format.rows = json_integer_value(rows);
    w->format.cols = json_integer_value(cols);
    w->format.block = (int32_t)b;
    return parse_nested(w, state, where);
}

static status read_state(bnb_weight *w, const model_tensor *t) {
    const safetensors_entry *e = t->entry;
    char where[2 * NAME_BYTES];
    snprintf(where, sizeof where, "%.500s: tensor \"%.400s\"", t->file->file.path, e->name);
    if (e->type != DTYPE_U8 || e->bytes > MAX_STATE)
        return bad_state(where, "must be at most 65,536 bytes of JSON");
    char *text = mem_alloc((size_t)e->bytes, "a quant_state");
    if (!text) return STATUS_MEMORY;
    json_t *state = NULL;
    status s = model_tensor_read(t, 0, e->bytes, text);
    if (s == STATUS_OK)
        s = json_read_text(text, (size_t)e->bytes, where, STATUS_MODEL, &state);
    if (s == STATUS_OK) s = parse_state(w, state, where);
    json_decref(state);
    mem_free(text);
    return s;
}

/* ---- the parts ---- */

static bool find(const model_files *m, const char *name, const char *ending,
                 model_tensor *out) {
    char full[NAME_BYTES];
    int n = snprintf(full, sizeof full, "%s%s", name, ending);
    return n > 0 && (size_t)n < sizeof full && model_files_find(m, full, out);
}

/* The part NAME + ending, of `type` and `elements` exactly. */
static status get_part(const model_files *m, const char *name, const char *ending, dtype type,
                       int64_t elements, model_tensor *out) {
    if (!find(m, name, ending, out))
        return status_fail(STATUS_MODEL, "%s: 4-bit tensor \"%.300s\" lacks \"%s\"", m->folder,
                           name, ending);
    if (out->entry->type == type && out->entry->elements == elements) return STATUS_OK;
    char text[200];
    return status_fail(STATUS_MODEL,
                       "%s: tensor \"%.300s%s\" is %s %s, not %s with %" PRId64 " values",
                       out->file->file.path, name, ending, out->entry->type_name,
                       safetensors_shape_text(out->entry, text, sizeof text),
                       safetensors_type_name(type), elements);
}

/* The codes: any storage type, as long as the bytes are as many as the shape needs. */
static status get_codes(const model_files *m, const char *name, int64_t bytes,
                        model_tensor *out) {
    if (!model_files_find(m, name, out))
        return status_fail(STATUS_MODEL,
                           "%s: tensor \"%.300s\" has a quant_state but no codes", m->folder,
                           name);
    if (out->entry->bytes == bytes) return STATUS_OK;
    return status_fail(STATUS_MODEL,
                       "%s: tensor \"%.300s\" has %" PRId64 " bytes of 4-bit codes, its "
                       "quant_state needs %" PRId64,
                       out->file->file.path, name, out->entry->bytes, bytes);
}

static status get_parts(const model_files *m, const char *name, bnb_weight *w) {
    int64_t total;
    TRY(format_bytes(&w->format, &total)); /* refuses impossible shapes */
    format_parts p = format_parts_of(&w->format);
    TRY(get_codes(m, name, quant_code_bytes(w->format.rows * w->format.cols), &w->codes));
    TRY(get_part(m, name, ".absmax", w->format.nested ? DTYPE_U8 : DTYPE_F32, p.blocks,
                 &w->absmax));
    TRY(get_part(m, name, ".quant_map", DTYPE_F32, 16, &w->code));
    if (!w->format.nested) return STATUS_OK;
    TRY(get_part(m, name, ".nested_absmax", DTYPE_F32, p.nests, &w->absmax2));
    return get_part(m, name, ".nested_quant_map", DTYPE_F32, 256, &w->map);
}

/* LLM.int8 weights carry <module>.SCB; read as plain numbers they would be nonsense. */
static status refuse_8bit(const model_files *m, const char *name) {
    size_t n = strlen(name), end = strlen(".weight");
    char module[NAME_BYTES];
    model_tensor t;
    if (n <= end || n >= sizeof module || strcmp(name + n - end, ".weight")) return STATUS_OK;
    snprintf(module, sizeof module, "%.*s", (int)(n - end), name);
    if (!find(m, module, ".SCB", &t)) return STATUS_OK;
    return status_fail(STATUS_MODEL,
                       "%s: \"%.300s\" is stored in bitsandbytes' 8 bits, which is not "
                       "supported: use the 16-bit or the 4-bit checkpoint",
                       m->folder, name);
}

status bnb_find(const model_files *m, const char *name, bnb_weight *w, bool *found) {
    static const dtype kinds[] = {DTYPE_NF4, DTYPE_FP4};
    memset(w, 0, sizeof *w);
    *found = false;
    for (int i = 0; i < 2; i++) {
        model_tensor state;
        if (!find(m, name, state_ending(kinds[i]), &state)) continue;
        w->format.type = kinds[i];
        TRY(read_state(w, &state));
        TRY(get_parts(m, name, w));
        *found = true;
        return STATUS_OK;
    }
    return refuse_8bit(m, name);
}

/* ---- reading ---- */

static status check_finite(const model_tensor *t, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return status_fail(STATUS_MODEL,
                               "%s: tensor \"%.300s\": value %" PRId64 " is not finite",
                               t->file->file.path, t->entry->name, i);
    return STATUS_OK;
}

static status read_all(const model_tensor *t, void *out) {
    return model_tensor_read(t, 0, t->entry->bytes, out);
}

status bnb_read(const bnb_weight *w, void *out) {
    int64_t bytes;
    TRY(format_bytes(&w->format, &bytes));
    memset(out, 0, (size_t)bytes); /* the padding between the parts has defined bytes */
    format_parts p = format_parts_of(&w->format);
    tensor t = tensor_at(&w->format, out);
    TRY(read_all(&w->codes, t.data));
    TRY(read_all(&w->absmax, t.scales.absmax));
    TRY(read_all(&w->code, t.scales.code));
    TRY(check_finite(&w->code, t.scales.code, 16));
    *t.scales.offset = w->offset;
    if (!w->format.nested) return check_finite(&w->absmax, t.scales.absmax, p.blocks);
    TRY(read_all(&w->absmax2, t.scales.absmax2));
    TRY(read_all(&w->map, t.scales.map));
    TRY(check_finite(&w->absmax2, t.scales.absmax2, p.nests));
    return check_finite(&w->map, t.scales.map, 256);
}

/* ---- writing ---- */

/* As Python prints a float: the shortest text that reads back the same, with a point. */
static void print_real(double x, char *text, size_t bytes) {
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, bytes, "%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    if (!strpbrk(text, ".e")) strncat(text, ".0", bytes - strlen(text) - 1);
}

/* The JSON with the longest offset sets the length; shorter ones are padded with spaces. */
static size_t print_state(const tensor_format *f, dtype source, const char *offset,
                          char *text) {
    int n = snprintf(
        text, STATE_BYTES,
        "{\"quant_type\": \"%s\", \"blocksize\": %d, \"dtype\": \"%s\", \"shape\": [%" PRId64
        ", %" PRId64 "]",
        dtype_name(f->type), f->block, source_name(source), f->rows, f->cols);
    if (f->nested)
        n += snprintf(text + n, STATE_BYTES - (size_t)n,
                      ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", "
                      "\"nested_offset\": %s",
                      offset);
    return (size_t)n + (size_t)snprintf(text + n, STATE_BYTES - (size_t)n, "}");
}

static size_t state_bytes(const tensor_format *f, dtype source) {
    char text[STATE_BYTES];
    return print_state(f, source, "-1.2345678901234567e-300", text);
}

typedef struct part {
    const char *ending;
    dtype type;
    int rank;
    int64_t shape[2];
    const void *data;
} part;

/* The parts of a tensor in a fixed order; data only when it is there. Returns how many. */
static int list_parts(const tensor_format *f, dtype source, const tensor *t, const char *state,
                      part out[6]) {
    format_parts p = format_parts_of(f);
    int n = 0;
    out[n++] = (part){"", DTYPE_U8, 2, {quant_code_bytes(f->rows * f->cols), 1}, t->data};
    out[n++] =
        (part){".absmax", f->nested ? DTYPE_U8 : DTYPE_F32, 1, {p.blocks}, t->scales.absmax};
    out[n++] = (part){".quant_map", DTYPE_F32, 1, {16}, t->scales.code};
    if (f->nested) {
        out[n++] = (part){".nested_absmax", DTYPE_F32, 1, {p.nests}, t->scales.absmax2};
        out[n++] = (part){".nested_quant_map", DTYPE_F32, 1, {256}, t->scales.map};
    }
    out[n++] =
        (part){state_ending(f->type), DTYPE_U8, 1, {(int64_t)state_bytes(f, source)}, state};
    return n;
}

static status check_writable(const char *name, const tensor_format *f, dtype source) {
    int64_t bytes;
    if (!dtype_is_4bit(f->type) || !source_name(source))
        return status_fail(STATUS_INTERNAL, "\"%s\" is no 4-bit tensor of a float type", name);
    return format_bytes(f, &bytes);
}

status bnb_declare(safetensors_writer *w, const char *name, const tensor_format *f,
                   dtype source) {
    part parts[6];
    tensor none = {0};
    TRY(check_writable(name, f, source));
    int n = list_parts(f, source, &none, NULL, parts);
    status s = STATUS_OK;
    for (int i = 0; i < n && s == STATUS_OK; i++) {
        char *full = mem_printf("%s%s", name, parts[i].ending);
        s = full ? safetensors_declare(w, full, parts[i].type, parts[i].rank, parts[i].shape)
                 : STATUS_MEMORY;
        mem_free(full);
    }
    return s;
}

status bnb_write(safetensors_writer *w, const char *name, const tensor_format *f, dtype source,
                 const void *data) {
    part parts[6];
    char state[STATE_BYTES], offset[64];
    TRY(check_writable(name, f, source));
    tensor t = tensor_at(f, (void *)data);
    print_real(*t.scales.offset, offset, sizeof offset);
    size_t used = print_state(f, source, offset, state);
    memset(state + used, ' ', sizeof state - used);
    int n = list_parts(f, source, &t, state, parts);
    status s = STATUS_OK;
    for (int i = 0; i < n && s == STATUS_OK; i++) {
        int64_t elements = parts[i].shape[0] * (parts[i].rank == 2 ? parts[i].shape[1] : 1);
        char *full = mem_printf("%s%s", name, parts[i].ending);
        s = full ? safetensors_write(w, full, parts[i].data,
                                     (size_t)(elements * dtype_bytes(parts[i].type)))
                 : STATUS_MEMORY;
        mem_free(full);
    }
    return s;
}

int bnb_part_count(const tensor_format *f) {
    return f->nested ? 6 : 4;
}

const char *bnb_part_ending(const tensor_format *f, int i) {
    part parts[6];
    tensor none = {0};
    list_parts(f, DTYPE_F32, &none, NULL, parts);
    return parts[i].ending;
}
