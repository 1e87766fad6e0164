/* parameter.c: the table of what outlives a step. */
#include "autograd/parameter.h"
#include "common/alloc.h"
#include "common/checked.h"

#include <string.h>

const char *mem_class_name(mem_class c) {
    static const char *const names[] = {"base",      "embedding", "adapter",    "gradient",
                                        "optimizer", "state",     "activation", "cache",
                                        "input",     "workspace"};
    _Static_assert(sizeof names / sizeof *names == MEM_CLASS_COUNT, "a name for each class");
    return names[c];
}

void parameter_table_init(parameter_table *t, int64_t alignment) {
    memset(t, 0, sizeof *t);
    for (int c = 0; c < MEM_CLASS_COUNT; c++) t->last[c] = -1;
    t->alignment = alignment;
}

void parameter_table_free(parameter_table *t) {
    for (size_t i = 0; i < t->count; i++) mem_free(t->items[i].name);
    mem_free(t->items);
    mem_free(t->pages);
    memset(t, 0, sizeof *t);
}

/* Layers come in order, so that the page is the class's last one or a new one; what comes out
 * of order is looked for. */
static int32_t find_page(const parameter_table *t, mem_class class, int32_t group) {
    int32_t last = t->last[class];
    if (last < 0 || t->pages[last].group < group) return -1;
    if (t->pages[last].group == group) return last;
    for (int32_t i = (int32_t)t->page_count; i-- > 0;)
        if (t->pages[i].class == class && t->pages[i].group == group) return i;
    return -1;
}

static status page_of(parameter_table *t, mem_class class, int32_t group, int32_t *out) {
    if ((*out = find_page(t, class, group)) >= 0) return STATUS_OK;
    if (mem_grow(&t->pages, &t->page_capacity, t->page_count + 1, sizeof *t->pages, "pages"))
        return STATUS_MEMORY;
    t->pages[t->page_count] = (page){.class = class, .group = group};
    t->pages[t->page_count].written = class == MEM_OPTIMIZER;
    *out = (int32_t)t->page_count++;
    int32_t *last = &t->last[class];
    if (*last < 0 || t->pages[*last].group < group) *last = *out;
    return STATUS_OK;
}

status parameter_add(parameter_table *t, const char *name, tensor_format format,
                     mem_class class, int32_t group, parameter_id *out) {
    *out = PARAMETER_NONE;
    int64_t bytes, end;
    TRY(format_bytes(&format, &bytes));
    if (t->count >= INT32_MAX / 2)
        return status_fail(STATUS_MODEL, "%s: more than %d tensors", name, INT32_MAX / 2);
    int32_t at;
    TRY(page_of(t, class, group, &at));
    if (mem_grow(&t->items, &t->capacity, t->count + 1, sizeof *t->items, "parameters"))
        return STATUS_MEMORY;
    page *p = &t->pages[at];
    if (!checked_add_i64(p->bytes, t->alignment - 1, &end)) end = INT64_MAX;
    int64_t offset = end & ~(t->alignment - 1);
    if (!checked_add_i64(offset, bytes, &end))
        return status_fail(STATUS_MODEL, "%s: its page has more than 2^63 bytes", name);
    char *copy = mem_strdup(name);
    if (!copy) return STATUS_MEMORY;
    p->bytes = end;
    t->items[t->count] = (parameter){.name = copy,
                                     .format = format,
                                     .bytes = bytes,
                                     .page = at,
                                     .offset = offset,
                                     .gradient = PARAMETER_NONE};
    *out = (parameter_id)t->count++;
    return STATUS_OK;
}

parameter_id parameter_find(const parameter_table *t, const char *name) {
    for (size_t i = 0; i < t->count; i++)
        if (!strcmp(t->items[i].name, name)) return (parameter_id)i;
    return PARAMETER_NONE;
}

void parameter_set_gathered(parameter_table *t, parameter_id id) {
    t->pages[t->items[id].page].gathered = true;
}

void parameter_set_gradient(parameter_table *t, parameter_id of, parameter_id gradient) {
    t->items[of].gradient = gradient;
}
