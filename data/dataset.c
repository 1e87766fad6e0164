/* dataset.c: see dataset.h. */
#include "data/dataset.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/philox.h"
#include "data/files.h"
#include "data/prepared.h"
#include "data/text_buffer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MERGE_ORDER = 8, HELD_OUT = 0 }; /* Philox modules; the loader has 0 to 2 of SHUFFLE */
enum { VERSION = 2 }; /* of how rows are made: part of the prepared rows' name */

/* ---- orders ---- */

/* A seeded permutation of 0 .. n - 1. */
static status permute(int64_t n, uint64_t seed, philox_purpose purpose, uint32_t module,
                      int64_t **out) {
    int64_t *order = mem_alloc_array((size_t)n, sizeof *order, "the rows' order");
    if (!order) return STATUS_MEMORY;
    philox_stream s = philox_open(seed, purpose, module, 0, 0);
    for (int64_t i = 0; i < n; i++) order[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j =
            (int64_t)((unsigned __int128)philox_word(&s, (uint64_t)i) * (uint64_t)(i + 1) >>
                      32);
        int64_t swap = order[i];
        order[i] = order[j], order[j] = swap;
    }
    *out = order;
    return STATUS_OK;
}

static status append_row(row_set *to, const row_set *from, int64_t row) {
    int64_t at = from->offsets[row];
    return row_set_append(to, from->ids + at, from->labels + at, row_set_length(from, row));
}

static status append_rows(row_set *to, const row_set *from, const int64_t *order) {
    for (int64_t i = 0; i < from->count; i++) TRY(append_row(to, from, order[i]));
    return STATUS_OK;
}

/* Rows in another order: a second copy, then the first is let go. */
static status shuffle_rows(row_set *rows, uint64_t seed) {
    int64_t *order;
    row_set shuffled = {0};
    TRY(permute(rows->count, seed, PHILOX_SHUFFLE, MERGE_ORDER, &order));
    status s = append_rows(&shuffled, rows, order);
    mem_free(order);
    row_set_free(s == STATUS_OK ? rows : &shuffled);
    if (s == STATUS_OK) *rows = shuffled;
    return s;
}

/* ---- duplicates ---- */

static hash128 hash_row(const row_set *rows, int64_t row) {
    int64_t at = rows->offsets[row], n = row_set_length(rows, row);
    hash128 a = hash_bytes(rows->ids + at, (size_t)n * sizeof *rows->ids);
    hash128 b = hash_bytes(rows->labels + at, (size_t)n * sizeof *rows->labels);
    uint64_t both[4] = {a.low, a.high, b.low, b.high};
    return hash_bytes(both, sizeof both);
}

/* Removes rows that occurred before, in place. */
static status drop_duplicates(row_set *rows, dataset_report *report) {
    uint64_t slots = 16;
    while (slots < (uint64_t)rows->count * 2) slots *= 2;
    hash128 *seen = mem_alloc_array(slots, sizeof *seen, "looking for duplicates");
    if (!seen) return STATUS_MEMORY;
    int64_t kept = 0, tokens = 0;
    for (int64_t r = 0; r < rows->count; r++) {
        hash128 h = hash_row(rows, r);
        if (!h.low && !h.high) h.low = 1; /* zero marks a free slot */
        uint64_t i = h.low & (slots - 1);
        while ((seen[i].low || seen[i].high) && !hash_equal(seen[i], h))
            i = (i + 1) & (slots - 1);
        if (hash_equal(seen[i], h)) {
            report->dropped_duplicate++;
            continue;
        }
        seen[i] = h;
        int64_t at = rows->offsets[r], n = row_set_length(rows, r);
        memmove(rows->ids + tokens, rows->ids + at, (size_t)n * sizeof *rows->ids);
        memmove(rows->labels + tokens, rows->labels + at, (size_t)n * sizeof *rows->labels);
        rows->offsets[kept++] = tokens;
        tokens += n;
    }
    rows->offsets[kept] = tokens;
    rows->count = kept;
    mem_free(seen);
    return STATUS_OK;
}

/* ---- making the rows ---- */

static void summarize(const row_set *rows, dataset_report *report) {
    report->kept = rows->count;
    report->tokens = rows->offsets[rows->count];
    for (int64_t r = 0; r < rows->count; r++) {
        report->targets += row_set_targets(rows, r);
        report->longest = max_i64(report->longest, row_set_length(rows, r));
    }
}

static status nothing_left(const dataset_report *r, const dataset_options *o) {
    char bad[600] = "";
    if (r->bad) snprintf(bad, sizeof bad, "; the first bad one: %s", r->first_bad);
    const char *remedy = "";
    char length[160];
    if (r->read == 0) remedy = ": the files, or the split, hold none";
    if (r->dropped_long) {
        snprintf(length, sizeof length,
                 "; the longest row has %lld: raise sequence_len, or cut rows with "
                 "excess_length_strategy: truncate",
                 (long long)r->longest_seen);
        remedy = length;
    } else if (r->dropped_untargeted) {
        remedy = "; train check --show 3 train_on_inputs=true shows them";
    }
    return status_fail(
        STATUS_DATA,
        "no row is left of %lld: %lld longer than sequence_len %lld, %lld without a "
        "token to learn, %lld bad%s%s",
        (long long)r->read, (long long)r->dropped_long, (long long)o->sequence_len,
        (long long)r->dropped_untargeted, (long long)r->bad, remedy, bad);
}

static status make_rows(row_set *rows, const dataset_source *sources, size_t count,
                        const dataset_options *o, dataset_report *report) {
    for (size_t i = 0; i < count; i++) TRY(source_read(&sources[i], o, rows, report));
    if (!rows->count) return nothing_left(report, o);
    if (o->deduplicate) TRY(drop_duplicates(rows, report));
    if (o->shuffle) TRY(shuffle_rows(rows, o->seed));
    summarize(rows, report);
    return STATUS_OK;
}

/* ---- prepared rows ---- */

static void take_number(hash_stream *h, int64_t value) {
    hash_update(h, &value, sizeof value);
}

static status identify_tokenizer(const dataset_options *o, hash_stream *h) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json",
                                        "special_tokens_map.json", "chat_template.jinja"};
    for (size_t i = 0; o->tokenizer_folder && i < sizeof names / sizeof *names; i++) {
        char *path = file_join(o->tokenizer_folder, names[i]);
        if (!path) return STATUS_MEMORY;
        bool there = file_exists(path);
        take_number(h, there);
        status s = there ? files_hash(path, h) : STATUS_OK;
        mem_free(path);
        TRY(s);
    }
    return STATUS_OK;
}

static status identify_into(hash_stream *h, const dataset_source *sources, size_t count,
                            const dataset_options *o) {
    token_names names;
    TRY(dataset_token_names(o, &names));
    const int64_t numbers[] = {
        VERSION,        names.bos,          names.eos,
        o->vocabulary,  o->train_on_inputs, o->sequence_len,
        o->long_rows,   o->skip_bad_rows,   o->keep_untargeted,
        o->deduplicate, o->shuffle,         o->shuffle ? (int64_t)o->seed : 0,
        (int64_t)count};
    hash_update(h, numbers, sizeof numbers);
    TRY(identify_tokenizer(o, h));
    for (size_t i = 0; i < count; i++) TRY(source_identify(&sources[i], o, h));
    return STATUS_OK;
}

static status identify(const dataset_source *sources, size_t count, const dataset_options *o,
                       hash128 *out) {
    hash_stream *h = hash_open();
    if (!h) return STATUS_MEMORY;
    status s = identify_into(h, sources, count, o);
    *out = hash_close(h);
    return s;
}

static void note(dataset *d, const char *what) {
    snprintf(d->prepared_note, sizeof d->prepared_note, "%s: %.400s", what, status_message());
    status_clear();
}

/* The rows from the prepared file, else made and written there. */
static status prepare(dataset *d, row_set *rows, const dataset_source *sources, size_t count,
                      const dataset_options *o) {
    hash128 key;
    bool found = false;
    TRY(identify(sources, count, o, &key));
    status s = prepared_read(o->prepared, key, rows, &d->report, &found);
    if (s == STATUS_MEMORY) return s;
    if (s != STATUS_OK) note(d, "the prepared rows are made again");
    d->from_prepared = found && s == STATUS_OK;
    if (d->from_prepared) return STATUS_OK;
    memset(&d->report, 0, sizeof d->report);
    TRY(make_rows(rows, sources, count, o, &d->report));
    if (prepared_write(o->prepared, key, rows, &d->report) != STATUS_OK)
        note(d, "the prepared rows could not be kept");
    return STATUS_OK;
}

/* ---- the held-out part ---- */

static status hold_out(dataset *d, row_set *rows, const dataset_options *o) {
    int64_t n = o->held_out < 1 ? (int64_t)ceil(o->held_out * (double)rows->count - 1e-9)
                                : (int64_t)o->held_out;
    if (n >= rows->count)
        return status_fail(STATUS_DATA,
                           "val_set_size holds out %lld of %lld rows: none is left to "
                           "train on",
                           (long long)n, (long long)rows->count);
    int64_t *order;
    TRY(permute(rows->count, o->seed, PHILOX_SPLIT, HELD_OUT, &order));
    bool *held = mem_alloc((size_t)rows->count, "the held-out rows");
    for (int64_t i = 0; held && i < n; i++) held[order[i]] = true;
    mem_free(order);
    status s = held ? STATUS_OK : STATUS_MEMORY;
    for (int64_t r = 0; s == STATUS_OK && r < rows->count; r++)
        s = append_row(held[r] ? &d->held_out : &d->train, rows, r);
    mem_free(held);
    return s;
}

static status open_parts(dataset *d, row_set *rows, const dataset_source *sources,
                         size_t count, const dataset_options *o) {
    if (!count) return status_fail(STATUS_USAGE, "there is no dataset");
    if (o->sequence_len < 1 || !(o->held_out >= 0))
        return status_fail(STATUS_USAGE,
                           "sequence_len must be at least 1, val_set_size at least 0");
    if (o->prepared && o->tokenizer && !o->tokenizer_folder)
        return status_fail(STATUS_INTERNAL, "prepared rows need the tokenizer's folder");
    if (o->prepared)
        TRY(prepare(d, rows, sources, count, o));
    else
        TRY(make_rows(rows, sources, count, o, &d->report));
    if (o->held_out > 0) return hold_out(d, rows, o);
    d->train = *rows;
    memset(rows, 0, sizeof *rows);
    return STATUS_OK;
}

status dataset_open(dataset *out, const dataset_source *sources, size_t count,
                    const dataset_options *options) {
    row_set rows = {0};
    memset(out, 0, sizeof *out);
    status s = open_parts(out, &rows, sources, count, options);
    row_set_free(&rows);
    if (s != STATUS_OK) dataset_close(out);
    return s;
}

status dataset_open_first(dataset *out, row_stream *stream, int64_t want,
                          const dataset_options *options) {
    bool ended;
    memset(out, 0, sizeof *out);
    status s = row_stream_read(stream, want, false, &out->train, &out->report, &ended);
    if (s == STATUS_OK && !out->train.count) s = nothing_left(&out->report, options);
    if (s == STATUS_OK) summarize(&out->train, &out->report);
    if (s != STATUS_OK) dataset_close(out);
    return s;
}

void dataset_close(dataset *d) {
    row_set_free(&d->train);
    row_set_free(&d->held_out);
}

/* ---- showing ---- */

/* Token `at`'s text: what the decoded text gains by it. Decoding it alone would lose the
 * spaces that some tokenizers strip from the beginning of a text. */
static status text_of(const tokenizer *t, const int32_t *ids, int64_t at, char **out) {
    char *before = NULL, *both = NULL;
    int64_t from = max_i64(at - 4, 0); /* parts of one character */
    status s = tokenizer_decode(t, ids + from, (size_t)(at - from), false, &before, NULL);
    if (s == STATUS_OK)
        s = tokenizer_decode(t, ids + from, (size_t)(at - from) + 1, false, &both, NULL);
    if (s == STATUS_OK) {
        size_t same = 0;
        while (before[same] && before[same] == both[same]) same++;
        while (same && ((unsigned char)both[same] & 0xc0) == 0x80) same--;
        *out = mem_strdup(both + same);
        if (!*out) s = STATUS_MEMORY;
    }
    mem_free(before);
    mem_free(both);
    return s;
}

status dataset_texts(const tokenizer *t, const int32_t *ids, int64_t n, char ***texts) {
    char **out = mem_alloc_array((size_t)n, sizeof *out, "texts of tokens");
    status s = out ? STATUS_OK : STATUS_MEMORY;
    for (int64_t i = 0; s == STATUS_OK && i < n; i++) s = text_of(t, ids, i, &out[i]);
    if (s != STATUS_OK) {
        dataset_free_texts(out, n);
        out = NULL;
    }
    *texts = out;
    return s;
}

void dataset_free_texts(char **texts, int64_t n) {
    for (int64_t i = 0; texts && i < n; i++) mem_free(texts[i]);
    mem_free(texts);
}

static status say(text_buffer *b, int64_t n, const char *what) {
    if (!n) return STATUS_OK;
    char line[256];
    int bytes = snprintf(line, sizeof line, "  %lld %s\n", (long long)n, what);
    return text_append(b, line, (size_t)bytes);
}

static status describe(text_buffer *b, const dataset *d, const dataset_options *o) {
    const dataset_report *r = &d->report;
    char line[512];
    int n =
        snprintf(line, sizeof line,
                 "%lld rows read%s, %lld kept (%lld to train on, %lld held out): %lld tokens, "
                 "%lld learned, the longest row has %lld\n",
                 (long long)r->read, d->from_prepared ? " (prepared before)" : "",
                 (long long)r->kept, (long long)d->train.count, (long long)d->held_out.count,
                 (long long)r->tokens, (long long)r->targets, (long long)r->longest);
    TRY(text_append(b, line, (size_t)min_i64(n, sizeof line - 1)));
    snprintf(line, sizeof line,
             "dropped: longer than sequence_len %lld (the longest has %lld)",
             (long long)o->sequence_len, (long long)r->longest_seen);
    TRY(say(b, r->dropped_long, line));
    TRY(say(b, r->dropped_untargeted, "dropped: no token to learn"));
    TRY(say(b, r->dropped_duplicate, "dropped: the same as a row before"));
    snprintf(line, sizeof line, "truncated to sequence_len: %lld tokens lost",
             (long long)r->truncated_tokens);
    TRY(say(b, r->truncated, line));
    TRY(say(b, r->cut, "texts longer than sequence_len, cut into pieces"));
    TRY(say(b, r->bad, "bad rows skipped; the first:"));
    if (r->bad) {
        TRY(text_append_string(b, "    "));
        TRY(text_append_string(b, r->first_bad));
        TRY(text_append_string(b, "\n"));
    }
    if (*d->prepared_note) {
        TRY(text_append_string(b, "  "));
        TRY(text_append_string(b, d->prepared_note));
        TRY(text_append_string(b, "\n"));
    }
    return text_append(b, "", 1);
}

char *dataset_describe(const dataset *d, const dataset_options *options) {
    text_buffer b = {0};
    if (describe(&b, d, options) == STATUS_OK) return b.data;
    mem_free(b.data);
    return NULL;
}
