/* config_words.h: what tests of the configuration share: the least that trains, loading it
 * with overrides, and expecting a refusal with certain words. */
#ifndef NIBBLE_TESTS_CONFIG_WORDS_H
#define NIBBLE_TESTS_CONFIG_WORDS_H

#include "scratch.h"
#include "trainer/verbs/load.h"

/* The least that trains. */
static const char least[] = "base_model: m\nadapter: qlora\nlora_r: 8\nlora_alpha: 16\n"
                            "lora_target_linear: true\nlearning_rate: 1e-4\n"
                            "datasets:\n  - path: rows.jsonl\n    type: alpaca\n";

static inline status load_words(const char *words, config *c) {
    return config_load_text(words, strlen(words), "t.yaml", c);
}

/* The least configuration with overrides (up to a NULL). */
static inline status load_with(config *c, char **overrides) {
    int n = 0;
    while (overrides[n]) n++;
    put_text(scratch("least.yaml"), least);
    return config_load(scratch("least.yaml"), overrides, n, c);
}
#define LOAD(c, ...) load_with(c, (char *[]){__VA_ARGS__, NULL})

static inline void expect_refused(const char *words, const char *part) {
    config c;
    assert_fails(load_words(words, &c), STATUS_USAGE, part);
}

/* An override that is refused, with these words. */
static inline void expect_wrong(char *override, const char *part) {
    config c;
    status s = LOAD(&c, override);
    if (s != STATUS_USAGE || !strstr(status_message(), part))
        fail_msg("%s: status %d, \"%s\"; wanted \"%s\"", override, s,
                 s ? status_message() : "", part);
}

#endif
