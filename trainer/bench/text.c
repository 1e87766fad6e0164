/* text.c: the tokenizer's speed: a file's text, line by line as a data set has it, on one
 * thread. */
#include "common/alloc.h"
#include "trainer/bench/bench.h"

#include <string.h>

enum { MOST = 256 << 20 };

static status encode_lines(const tokenizer *t, const char *text, size_t bytes, id_list *ids) {
    for (const char *p = text, *end = text + bytes; p < end;) {
        const char *line = memchr(p, '\n', (size_t)(end - p));
        size_t n = line ? (size_t)(line - p) : (size_t)(end - p);
        ids->count = 0;
        TRY(tokenizer_encode(t, p, n, 0, ids));
        p += n + 1;
    }
    return STATUS_OK;
}

/* Small files are repeated until half a second is over: one round. */
static status one_round(bench_report *r, const tokenizer *t, const char *text, size_t bytes,
                        id_list *ids) {
    double began = bench_now(), seconds, best = 0;
    do {
        double start = bench_now();
        TRY(encode_lines(t, text, bytes, ids));
        double rate = (double)bytes / (bench_now() - start);
        if (rate > best) best = rate;
        seconds = bench_now() - began;
    } while (seconds < 0.3);
    bench_add(r, "tokenizer", "MB/s", "", best / 1e6);
    return STATUS_OK;
}

status bench_tokenizer(bench_report *r, const char *folder, const char *file, int rounds) {
    tokenizer *t;
    char *text = NULL;
    size_t bytes = 0;
    id_list ids = {0};
    TRY(tokenizer_open(&t, folder));
    status s = file_read_all(file, MOST, &text, &bytes);
    for (int i = 0; i < rounds && s == STATUS_OK; i++) s = one_round(r, t, text, bytes, &ids);
    mem_free(ids.items);
    mem_free(text);
    tokenizer_close(t);
    return s;
}
