/* render.c: compiling a template and rendering with it. */
#include "common/alloc.h"
#include "data/jinja/eval.h"
#include "data/unicode.h"

#include <string.h>

/* ---- compiling ---- */

enum { SOURCE_LIMIT = 4 << 20 };

static status compile(compiler *c, const char *text, size_t bytes) {
    if (bytes > SOURCE_LIMIT)
        return status_fail(c->code, "%s: a template of more than %d MiB", c->where,
                           SOURCE_LIMIT >> 20);
    TRY(jinja_lex(c, text, bytes));
    TRY(jinja_parse(c));
    return jinja_resolve(c);
}

status jinja_compile(jinja_template **out, const char *text, size_t bytes, const char *where,
                     status code) {
    *out = NULL;
    unicode_setup();
    jinja_template *t = mem_alloc(sizeof *t, "a chat template");
    if (!t) return STATUS_MEMORY;
    compiler c = {.arena = &t->arena, .where = where, .code = code, .template = t};
    status s = compile(&c, text, bytes);
    mem_free(c.tokens);
    mem_free(c.unknown);
    if (s != STATUS_OK)
        jinja_free(t);
    else
        *out = t;
    return s;
}

void jinja_free(jinja_template *t) {
    if (!t) return;
    mem_free(t->variables);
    jinja_arena_free(&t->arena);
    mem_free(t);
}

bool jinja_has_generation(const jinja_template *t) {
    return t->generation;
}

bool jinja_has_date(const jinja_template *t) {
    return t->date;
}

bool jinja_has_variable(const jinja_template *t, const char *name) {
    for (size_t i = 0; i < t->variable_count; i++)
        if (!strcmp(t->variables[i].name->text, name)) return true;
    return false;
}

/* ---- rendering ---- */

static status run(machine *m, const jinja_template *t) {
    frame root = {0};
    TRY(jinja_new(m, (t->variable_count + 1) * sizeof *m->globals, &m->globals));
    TRY(jinja_new(m, (t->slots + 1) * sizeof *root.slots, &root.slots));
    m->frame = &root;
    TRY(jinja_enter_scope(m, t->scope));
    return jinja_exec_all(m, t->items, t->count);
}

status jinja_render(const jinja_template *t, jinja_rendering *r, size_t count, bool prompt) {
    builder out = {0};
    machine m = {.template = t, .r = r, .out = &out, .list_count = count, .prompt = prompt};
    *r->error = 0;
    TRY(jinja_expect_bytes(&m, &out, r->expected));
    TRY(run(&m, t));
    if (out.bytes > r->expected) r->expected = out.bytes;
    if (!out.text) out.text = "";
    r->text = out.text, r->bytes = out.bytes;
    r->runs = out.runs, r->run_count = out.run_count;
    return STATUS_OK;
}
