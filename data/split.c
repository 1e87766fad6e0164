/* split.c: see split.h. */
#include "data/split.h"
#include "common/checked.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

/* A boundary: digits with optional - before, _ between and % behind, or nothing. */
static bool read_bound(const char **at, split_bound *out) {
    const char *p = *at;
    bool negative = *p == '-';
    p += negative;
    *out = (split_bound){0};
    for (; isdigit((unsigned char)*p) || (out->given && *p == '_'); p++) {
        if (*p == '_') continue;
        if (out->value > INT64_MAX / 100) return false;
        out->value = out->value * 10 + (*p - '0');
        out->given = true;
    }
    if (negative && !out->given) return false;
    if (negative) out->value = -out->value;
    if (out->given && *p == '%') out->percent = true, p++;
    *at = p;
    return !out->percent || (out->value >= -100 && out->value <= 100);
}

static bool read_part(const char **at, row_split *s) {
    const char *p = *at;
    size_t n = 0;
    while (isalnum((unsigned char)p[n]) || p[n] == '_' || p[n] == '.' || p[n] == '-') n++;
    if (!n || n >= SPLIT_NAME || s->count == SPLIT_PARTS) return false;
    if (s->count && (strlen(s->name) != n || memcmp(s->name, p, n) != 0)) return false;
    memcpy(s->name, p, n);
    p += n;
    split_bound from = {0}, to = {0};
    if (*p == '[') {
        p++;
        if (!read_bound(&p, &from) || *p++ != ':' || !read_bound(&p, &to) || *p++ != ']')
            return false;
    }
    s->parts[s->count].from = from;
    s->parts[s->count++].to = to;
    *at = p;
    return true;
}

status split_parse(row_split *out, const char *text) {
    memset(out, 0, sizeof *out);
    const char *p = text && *text ? text : "train";
    for (;;) {
        if (!read_part(&p, out)) break;
        while (*p == ' ') p++;
        if (!*p) return STATUS_OK;
        if (*p++ != '+') break;
        while (*p == ' ') p++;
    }
    return status_fail(STATUS_USAGE,
                       "split: `%s` is not understood; examples: train, train[:500], "
                       "train[10%%:], train[:100]+train[-100:]",
                       text);
}

bool split_needs_count(const row_split *s) {
    for (int i = 0; i < s->count; i++) {
        const split_bound *b[] = {&s->parts[i].from, &s->parts[i].to};
        for (int k = 0; k < 2; k++)
            if (b[k]->given && (b[k]->percent || b[k]->value < 0)) return true;
    }
    return false;
}

static int64_t place(const split_bound *b, int64_t rows, int64_t missing) {
    if (!b->given) return missing;
    int64_t at = b->value;
    if (b->percent) at = (int64_t)rint((double)b->value * (double)rows / 100);
    if (at < 0) at += rows;
    return min_i64(max_i64(at, 0), rows);
}

void split_range(const row_split *s, int part, int64_t rows, int64_t *from, int64_t *to) {
    *from = place(&s->parts[part].from, rows, 0);
    *to = max_i64(place(&s->parts[part].to, rows, rows), *from);
}
