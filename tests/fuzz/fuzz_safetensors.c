/* fuzz_safetensors.c: any bytes as a .safetensors file, read as a file, as a model's only
 * shard and, where names say so, as bitsandbytes weights. What is accepted obeys the format:
 * every byte after the header belongs to exactly one tensor. */
#include "checkpoints/bnb.h"
#include "fuzz.h"

#include <stdlib.h>

enum { LENGTH = 8 /* bytes of the header's length */, BIG = 1 << 24 };

static void check_entries(const safetensors *st) {
    int64_t end = st->header_bytes;
    for (size_t i = 0; i < st->count; i++) {
        const safetensors_entry *e = &st->entries[i];
        int64_t elements = 1;
        for (int d = 0; d < e->rank; d++) elements *= e->shape[d];
        char shape[256], bytes[16];
        fuzz_require(elements == e->elements && e->offset == end);
        fuzz_require(safetensors_find(st, e->name) == e);
        safetensors_shape_text(e, shape, sizeof shape);
        int64_t n = e->bytes < 16 ? e->bytes : 16;
        fuzz_require(safetensors_read(st, e, 0, n, bytes) == STATUS_OK);
        fuzz_require(safetensors_read(st, e, e->bytes - n, n, bytes) == STATUS_OK);
        fuzz_require(safetensors_read(st, e, e->bytes, 1, bytes) == STATUS_INTERNAL);
        end += e->bytes;
    }
    fuzz_require(end == st->file.size);
}

static void read_weight(const model_files *m, const char *name) {
    bnb_weight w;
    bool found;
    int64_t bytes;
    if (!fuzz_succeeds(bnb_find(m, name, &w, &found), MAY_FAIL(STATUS_MODEL)) || !found)
        return;
    fuzz_require(format_bytes(&w.format, &bytes) == STATUS_OK);
    fuzz_require(bytes <= 2 * m->shards[0].file.size); /* nested scales are widened */
    void *out = mem_alloc((size_t)bytes, "a weight");
    fuzz_require(out != NULL);
    fuzz_succeeds(bnb_read(&w, out), MAY_FAIL(STATUS_MODEL));
    mem_free(out);
}

static void read_model(void) {
    model_files m;
    if (!fuzz_succeeds(model_files_open(&m, fuzz_path("model")), MAY_FAIL(STATUS_MODEL)))
        return;
    for (size_t i = 0; i < m.count; i++) read_weight(&m, m.tensors[i].entry->name);
    model_files_close(&m);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    fuzz_setup();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_blocks before = fuzz_begin();
    const char *path = fuzz_write("model/model.safetensors", data, size);
    safetensors st;
    if (fuzz_succeeds(safetensors_open(&st, path), MAY_FAIL(STATUS_MODEL))) {
        check_entries(&st);
        safetensors_close(&st);
        read_model();
    }
    fuzz_end(before);
    return 0;
}

/* Changes the header as JSON and corrects its length. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
    uint64_t header = 0;
    if (size > LENGTH) memcpy(&header, data, LENGTH);
    if (size <= LENGTH || header > size - LENGTH || seed % 4 == 0)
        return LLVMFuzzerMutate(data, size, room);
    size_t rest = size - LENGTH - header, n = 0;
    char *out = malloc(room);
    fuzz_require(out != NULL);
    memcpy(out, data + LENGTH, header);
    n = fuzz_mutate_json(out, header, room - LENGTH - rest, seed / 4);
    if (n) {
        memmove(data + LENGTH + n, data + LENGTH + header, rest);
        memcpy(data + LENGTH, out, n);
        header = n;
        memcpy(data, &header, LENGTH);
    }
    free(out);
    return n ? LENGTH + n + rest : LLVMFuzzerMutate(data, size, room);
}
