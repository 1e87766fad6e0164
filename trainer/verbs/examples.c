/* examples.c: see examples.h. */
#include "trainer/verbs/examples.h"
#include "common/alloc.h"
#include "common/log.h"
#include "data/dataset.h"
#include "data/lengths.h"

#include <stdio.h>

/* ---- one row ---- */

status example_json(const row_set *rows, int64_t row) {
    int64_t first = rows->offsets[row], n = rows->offsets[row + 1] - first;
    json_t *ids = json_array(), *labels = json_array();
    for (int64_t i = 0; i < n; i++) {
        json_push(&ids, json_integer(rows->ids[first + i]));
        json_push(&labels, json_integer(rows->labels[first + i]));
    }
    json_t *o = json_pack("{s:o, s:o}", "ids", ids, "labels", labels);
    char *text = o ? json_write_text(o, 0) : NULL;
    json_decref(o);
    if (!text) return status_fail(STATUS_MEMORY, "out of memory for an example");
    printf("%s\n", text);
    mem_free(text);
    return STATUS_OK;
}

/* Line ends stay visible and still end the line. */
static void put_token(const char *text) {
    for (const char *p = text; *p; p++) {
        if (*p == '\n')
            fputs("\\n\n", stdout);
        else
            putchar(*p);
    }
}

static void put_coloured(const char *text, bool learned, bool control) {
    fputs(learned ? "\033[32m" : "\033[90m", stdout);
    if (control) fputs("\033[1m", stdout);
    put_token(text);
    if (control) fputs("\033[22m", stdout);
}

status example_text(const tokenizer *t, const row_set *rows, int64_t row) {
    int64_t first = rows->offsets[row], n = rows->offsets[row + 1] - first;
    bool colour = log_stdout_colour(), inside = false;
    char **texts;
    TRY(dataset_texts(t, rows->ids + first, n, &texts));
    printf("row %lld: %lld tokens, %lld learned\n", (long long)row, (long long)n,
           (long long)row_set_targets(rows, row));
    for (int64_t i = 0; i < n; i++) {
        bool learned = rows->labels[first + i] != LABEL_IGNORED;
        if (colour) {
            put_coloured(texts[i], learned, tokenizer_is_special(t, rows->ids[first + i]));
            continue;
        }
        if (learned != inside) fputs(learned ? "[[" : "]]", stdout);
        inside = learned;
        put_token(texts[i]);
    }
    puts(colour ? "\033[0m" : inside ? "]]" : "");
    dataset_free_texts(texts, n);
    return STATUS_OK;
}

/* ---- all rows ---- */

void lengths_text(const row_set *rows) {
    static const char bar[] = "########################################";
    length_bars b = lengths_count(rows);
    int64_t most = 1;
    for (int i = 0; i < b.count; i++)
        if (b.rows[i] > most) most = b.rows[i];
    int first = 0;
    while (first < b.count && !b.rows[first]) first++;
    if (b.count) printf("%15s %9s\n", "tokens", "rows");
    for (int i = first; i < b.count; i++)
        printf("%6lld - %6lld %9lld  %.*s\n", (long long)(i * b.width + 1),
               (long long)((i + 1) * b.width), (long long)b.rows[i],
               (int)(b.rows[i] * (int64_t)(sizeof bar - 1) / most), bar);
}

json_t *lengths_json(const row_set *rows) {
    length_bars b = lengths_count(rows);
    json_t *list = json_array();
    for (int i = 0; i < b.count; i++)
        json_push(&list, json_pack("{s:I, s:I}", "to", (json_int_t)((i + 1) * b.width), "rows",
                                   (json_int_t)b.rows[i]));
    return list;
}
