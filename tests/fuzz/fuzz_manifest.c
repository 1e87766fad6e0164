/* fuzz_manifest.c: one byte of options, then a manifest, beside the data that a good one
 * vouches for: a checkpoint, a quantized cache. Bit 0 chooses between the two. Bit 1 makes the
 * manifest's own hash right again, so that the fields behind it are reached: then only what
 * the reader checks stands between the file and the program. libhdf5 never sees a byte that
 * was not vouched for, so nothing here is for it. */
#include "checkpoints/cache.h"
#include "checkpoints/checkpoint.h"
#include "fuzz.h"

enum { PAGE = 5000, CACHE = 1, REPAIR = 2 };
static const tensor_format format = {.type = DTYPE_F32, .rows = 3, .cols = 50};

static void make_checkpoint(void) {
    static float values[150];
    named_tensor t = {.name = "a", .format = format, .data = values};
    json_t *content = json_pack("{s:i}", "step", 7);
    fuzz_require(checkpoint_save(fuzz_path("run"), 7, content, &t, 1, 0) == STATUS_OK);
    json_decref(content);
}

static void make_cache(void) {
    static char page[PAGE];
    cache_item items[] = {{.name = "layer.0", .bytes = PAGE},
                          {.name = "layer.1", .bytes = 64}};
    json_t *metadata = json_pack("{s:s}", "format", "nf4");
    cache_writer w;
    fuzz_require(cache_create(&w, fuzz_path("base.h5"), items, 2) == STATUS_OK);
    for (size_t i = 0; i < 2; i++)
        fuzz_require(cache_write(&w, i, 0, page, items[i].bytes) == STATUS_OK);
    fuzz_require(cache_finish(&w, metadata) == STATUS_OK);
    json_decref(metadata);
}

static const char *manifest_of(unsigned bits) {
    return bits & CACHE ? "base.h5.json" : "run/checkpoints/step-000007.json";
}

/* The manifest with the hash of what it says now; NULL when it is no object. As manifest.h
 * describes it: of the compact text without "check". */
static char *repair(const char *text, size_t bytes) {
    json_t *json = json_loadb(text, bytes, 0, NULL);
    char *compact = NULL, *out = NULL, check[HASH_TEXT];
    json_object_del(json, "check");
    if (json_is_object(json) && (compact = json_write_text(json, 0))) {
        hash_format(hash_bytes(compact, strlen(compact)), check);
        json_object_set_new(json, "check", json_string(check));
        out = json_write_text(json, 0);
    }
    mem_free(compact);
    json_decref(json);
    return out;
}

static void use_checkpoint(void) {
    checkpoint c;
    float values[150];
    if (!fuzz_succeeds(checkpoint_open(fuzz_path("run"), &c), MAY_FAIL(STATUS_MODEL))) return;
    fuzz_require(c.step >= 0 && checkpoint_has(&c, "a"));
    fuzz_require(checkpoint_read(&c, "a", &format, values) == STATUS_OK && values[149] == 0);
    fuzz_require(json_integer_value(json_object_get(c.content, "step")) == 7);
    checkpoint_close(&c);
}

static void use_cache(void) {
    cache c;
    if (!fuzz_succeeds(cache_open(&c, fuzz_path("base.h5")), MAY_FAIL(STATUS_MODEL))) return;
    for (size_t i = 0; i < c.count; i++) {
        char byte;
        const cache_item *item = &c.items[i];
        fuzz_require(cache_find(&c, item->name) != NULL && item->bytes >= 1);
        fuzz_require(cache_read(&c, item, item->bytes - 1, 1, &byte) == STATUS_OK);
        fuzz_require(cache_read(&c, item, item->bytes, 1, &byte) == STATUS_INTERNAL);
    }
    fuzz_succeeds(cache_verify(&c), MAY_FAIL(STATUS_MODEL));
    cache_close(&c);
}

/* The good manifests as seeds into the first folder of the command line. */
static void write_seeds(int argc, char **argv) {
    const char *folder = NULL;
    for (int i = argc - 1; i > 0; i--)
        if (file_is_directory(argv[i])) folder = argv[i];
    for (unsigned bits = 0; folder && bits < 4; bits++) {
        char *text, path[600], byte = (char)bits;
        size_t bytes;
        fuzz_require(file_read_all(fuzz_path(manifest_of(bits)), 1 << 20, &text, &bytes) ==
                     STATUS_OK);
        snprintf(path, sizeof path, "%s/manifest-%u", folder, bits);
        FILE *f = fopen(path, "wb");
        fuzz_require(f && fwrite(&byte, 1, 1, f) == 1 && fwrite(text, 1, bytes, f) == bytes &&
                     !fclose(f));
        mem_free(text);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    fuzz_setup();
    fuzz_write("run/empty", "", 0);
    make_checkpoint();
    make_cache();
    write_seeds(*argc, *argv);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    fuzz_blocks before = fuzz_begin();
    const char *text = (const char *)data + 1;
    char *repaired = data[0] & REPAIR ? repair(text, size - 1) : NULL;
    if (repaired)
        fuzz_write(manifest_of(data[0]), repaired, strlen(repaired));
    else
        fuzz_write(manifest_of(data[0]), text, size - 1);
    if (data[0] & CACHE)
        use_cache();
    else
        use_checkpoint();
    mem_free(repaired);
    fuzz_end(before);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
    return fuzz_mutate(data, size, room, seed, 1);
}
