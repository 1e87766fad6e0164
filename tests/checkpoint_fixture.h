/* checkpoint_fixture.h: a small training state that is a function of its step; saving it,
 * expecting it back, spoiling its files. Failing here fails the running test. */
#ifndef NIBBLE_TESTS_CHECKPOINT_FIXTURE_H
#define NIBBLE_TESTS_CHECKPOINT_FIXTURE_H

#include "checkpoints/checkpoint.h"
#include "scratch.h"

enum { WIDE = 700, TENSORS = 5 };
typedef struct state {
    float masters[3 * WIDE], first[3 * WIDE];
    uint8_t codes[WIDE];
    uint16_t working[WIDE];
    float paged[5000];
} state_t;

static const tensor_format formats[TENSORS] = {
    {.type = DTYPE_F32, .rows = 3, .cols = WIDE},
    {.type = DTYPE_F32, .rows = 3, .cols = WIDE},
    {.type = DTYPE_U8, .rows = 1, .cols = WIDE},
    {.type = DTYPE_BF16, .rows = WIDE, .cols = 1},
    {.type = DTYPE_F32, .rows = 1, .cols = 5000},
};
static const char *const names[TENSORS] = {"model.layers.0.q_proj.lora_A.weight", "adam/first",
                                           "adam.codes", "working", "paged"};

static inline void fill(state_t *s, int64_t step) {
    uint64_t seed = (uint64_t)step;
    for (size_t i = 0; i < sizeof *s / 8; i++) {
        uint64_t x = noise(&seed);
        memcpy((char *)s + 8 * i, &x, 8);
    }
}

static inline status fetch(void *context, int64_t first, int64_t bytes, void *out) {
    memcpy(out, (char *)((state_t *)context)->paged + first, (size_t)bytes);
    return STATUS_OK;
}

static inline void list_tensors(state_t *s, named_tensor t[TENSORS]) {
    const void *data[TENSORS] = {s->masters, s->first, s->codes, s->working, NULL};
    for (int i = 0; i < TENSORS; i++) {
        t[i] = (named_tensor){.name = names[i], .format = formats[i], .data = data[i]};
        if (i == 1) t[i].name = "adam.first"; /* '/' is not for names */
        if (!data[i]) t[i].read = fetch, t[i].context = s;
    }
}

static inline status save(const char *dir, int64_t step, int keep) {
    static state_t s;
    named_tensor t[TENSORS];
    fill(&s, step);
    list_tensors(&s, t);
    json_t *content = json_pack("{s:I, s:s, s:{s:f}}", "step", (json_int_t)step, "note", "π",
                                "config", "lr", 3e-4);
    if (!content) return status_fail(STATUS_MEMORY, "out of memory");
    status done = checkpoint_save(dir, step, content, t, TENSORS, keep);
    json_decref(content);
    return done;
}

/* What was opened is exactly the state of its step. */
static inline void check_state(const checkpoint *c) {
    static state_t want, got;
    fill(&want, c->step);
    void *out[TENSORS] = {got.masters, got.first, got.codes, got.working, got.paged};
    for (int i = 0; i < TENSORS; i++)
        assert_ok(checkpoint_read(c, i == 1 ? "adam.first" : names[i], &formats[i], out[i]));
    assert_memory_equal(&got, &want, sizeof got);
    assert_int_equal(json_integer_value(json_object_get(c->content, "step")), c->step);
    assert_string_equal(json_string_value(json_object_get(c->content, "note")), "π");
}

/* The newest usable checkpoint is that of `step` and whole. */
static inline void expect_newest(const char *dir, int64_t step) {
    checkpoint c;
    bool found;
    assert_ok(checkpoint_find(dir, &c, &found));
    assert_true(found);
    assert_int_equal(c.step, step);
    check_state(&c);
    checkpoint_close(&c);
}

static inline int files_in(const char *dir, const char *ending) {
    char folder[600], **list;
    size_t count;
    int n = 0;
    snprintf(folder, sizeof folder, "%s/checkpoints", dir);
    assert_ok(file_list(folder, &list, &count));
    for (size_t i = 0; i < count; i++) {
        size_t a = strlen(list[i]), b = strlen(ending);
        n += a >= b && !strcmp(list[i] + a - b, ending);
    }
    file_list_free(list, count);
    return n;
}

static inline void folder_for(char dir[512], const char *name) {
    snprintf(dir, 512, "%s", scratch_folder(name));
}

static inline void spoil(const char *path, size_t at, int bit) {
    size_t n;
    char *data = get_file(path, &n);
    data[at % n] ^= (char)(1 << bit);
    put_file(path, data, n);
    free(data);
}

#endif
