/* fuzz_yaml.c: a configuration file, NUL, an override of the command line. What is accepted
 * is resolved, and the resolved text means the same configuration. */
#include "fuzz.h"
#include "trainer/verbs/load.h"
#include "data/yaml.h"

static void read_back(const config *c) {
    config again;
    status s = config_load_text(c->resolved, strlen(c->resolved), "resolved", &again);
    fuzz_require(s == STATUS_OK);
    fuzz_require(!strcmp(c->resolved, again.resolved));
    config_free(&again);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    fuzz_setup();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_part part[2];
    config c;
    fuzz_blocks before = fuzz_begin();
    fuzz_cut(data, size, part, 2);
    char *path = mem_strdup(fuzz_write("c.yaml", part[0].text, part[0].bytes));
    char *override = mem_strndup(part[1].text, part[1].bytes);
    fuzz_require(path && override);
    if (fuzz_succeeds(config_load(path, &override, part[1].bytes > 0, &c),
                      MAY_FAIL(STATUS_USAGE))) {
        read_back(&c);
        mem_free(config_ignored_line(&c));
        config_free(&c);
    }
    mem_free(path);
    mem_free(override);
    fuzz_end(before);
    return 0;
}
