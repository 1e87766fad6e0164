/* fuzz_tokenizer.c: tokenizer.json, NUL, a text, NUL, tokenizer_config.json. A tokenizer that
 * opens encodes the text and a few hard ones with every flag and decodes what it got. Its ids
 * are its own, somebody's words never become a special token, and encoding twice is the same. */
#include "data/tokenizer.h"
#include "fuzz.h"

static const char *const hard[] = {
    "",
    " ",
    "a",
    "  The year 1984's end:\n\n\tdon't \r\n",
    "\xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7 e\xcc\x81\xcc\x82",
    "<s></s><unk><0x0A>\xe2\x96\x81 <|endoftext|>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
};

static void decode(const tokenizer *t, const id_list *ids, bool skip) {
    char *text = NULL;
    size_t bytes = 0;
    status s = tokenizer_decode(t, ids->items, ids->count, skip, &text, &bytes);
    fuzz_require(s == STATUS_OK && text[bytes] == '\0');
    mem_free(text);
}

/* The model's own unknown token, which unknown characters become; -1: none. */
static int32_t unknown_of(const tokenizer *t, fuzz_part file) {
    json_t *json = json_loadb(file.text, file.bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    const json_t *model = json_object_get(json, "model");
    const char *unk = json_string_value(json_object_get(model, "unk_token"));
    int32_t id = unk ? tokenizer_id(t, unk) : -1;
    json_decref(json);
    return id;
}

static void encode(const tokenizer *t, const char *text, size_t bytes, unsigned flags,
                   int32_t unknown) {
    id_list ids = {0}, again = {0};
    if (fuzz_succeeds(tokenizer_encode(t, text, bytes, flags, &ids), MAY_FAIL(STATUS_DATA))) {
        for (size_t i = 0; i < ids.count; i++) {
            fuzz_require(ids.items[i] >= 0 && ids.items[i] < tokenizer_size(t));
            fuzz_require(flags != TOKENIZER_PLAIN_TEXT ||
                         !tokenizer_is_special(t, ids.items[i]) || ids.items[i] == unknown);
        }
        fuzz_require(tokenizer_encode(t, text, bytes, flags, &again) == STATUS_OK);
        fuzz_require(ids.count == again.count &&
                     (!ids.count || !memcmp(ids.items, again.items, ids.count * 4)));
        decode(t, &ids, false);
        decode(t, &ids, true);
    }
    mem_free(ids.items);
    mem_free(again.items);
}

static void use(const tokenizer *t, fuzz_part text, int32_t unknown) {
    for (int32_t id = -1; id <= tokenizer_size(t) && id < 1000; id++) {
        tokenizer_token(t, id);
        tokenizer_is_special(t, id);
    }
    tokenizer_adds_bos(t);
    tokenizer_chat_template(t);
    for (unsigned flags = 0; flags < 4; flags++) {
        encode(t, text.text, text.bytes, flags, unknown);
        for (size_t i = 0; i < sizeof hard / sizeof *hard; i++)
            encode(t, hard[i], strlen(hard[i]), flags, unknown);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    fuzz_setup();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_part part[3];
    tokenizer *t = NULL;
    fuzz_blocks before = fuzz_begin();
    fuzz_cut(data, size, part, 3);
    fuzz_write("t/tokenizer.json", part[0].text, part[0].bytes);
    const char *more = fuzz_write("t/tokenizer_config.json", part[2].text, part[2].bytes);
    if (!part[2].bytes) remove(more);
    if (fuzz_succeeds(tokenizer_open(&t, fuzz_path("t")), MAY_FAIL(STATUS_MODEL))) {
        use(t, part[1], unknown_of(t, part[0]));
        tokenizer_close(t);
    }
    fuzz_end(before);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
    return fuzz_mutate(data, size, room, seed, 0);
}
