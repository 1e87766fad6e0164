/* mini_tokenizer.h: a folder with the smallest tokenizer there is: byte-level BPE without
 * merges, so that id = byte, and the special tokens <s> = 256 and </s> = 257. What is encoded
 * with it decodes to the very text, which makes renderings comparable as texts. */
#ifndef NIBBLE_TESTS_MINI_TOKENIZER_H
#define NIBBLE_TESTS_MINI_TOKENIZER_H

#include "scratch.h"

enum { MINI_BOS = 256, MINI_EOS = 257, MINI_SIZE = 258 };

/* The character that stands for a byte in byte-level vocabularies (GPT-2's table), as UTF-8.
 */
static inline void mini_write_byte(FILE *f, int byte) {
    static const int ranges[][2] = {{'!', '~'}, {0xa1, 0xac}, {0xae, 0xff}};
    int code = byte, above = 0;
    bool printable = false;
    for (int i = 0; i < 3; i++) printable |= byte >= ranges[i][0] && byte <= ranges[i][1];
    for (int b = 0; b < byte; b++) {
        bool shown = false;
        for (int i = 0; i < 3; i++) shown |= b >= ranges[i][0] && b <= ranges[i][1];
        above += !shown;
    }
    if (!printable) code = 256 + above;
    if (code == '"' || code == '\\')
        fprintf(f, "\\%c", code);
    else if (code < 128)
        fputc(code, f);
    else
        fprintf(f, "%c%c", 0xc0 | code >> 6, 0x80 | (code & 63));
}

/* `chat_template`: the model's own, or NULL; `bos`: whether texts begin with <s>. */
static inline void mini_tokenizer_write(const char *folder, const char *chat_template,
                                        bool bos) {
    char path[700];
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[", f);
    for (int id = 256; id < MINI_SIZE; id++)
        fprintf(f,
                "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,"
                "\"rstrip\":false,\"normalized\":false,\"special\":true}",
                id > 256 ? "," : "", id, id == MINI_BOS ? "<s>" : "</s>");
    fputs(
        "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":"
        "false,\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":",
        f);
    if (bos)
        fputs("{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\","
              "\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[{"
              "\"Sequence\":"
              "{\"id\":\"A\",\"type_id\":0}},{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}],"
              "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[256],\"tokens\":[\"<s>\"]}"
              "}}",
              f);
    else
        fputs("null", f);
    fputs(
        ",\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"
        "\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
        "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,"
        "\"byte_fallback\":false,\"vocab\":{",
        f);
    for (int b = 0; b < 256; b++) {
        fputs(b ? ",\"" : "\"", f);
        mini_write_byte(f, b);
        fprintf(f, "\":%d", b);
    }
    fputs("},\"merges\":[]}}", f);
    fclose(f);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    put_text(path, "{\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"bos_token\":\"<s>\","
                   "\"eos_token\":\"</s>\"}");
    snprintf(path, sizeof path, "%s/chat_template.jinja", folder);
    unlink(path);
    if (chat_template) put_text(path, chat_template);
}

#endif
