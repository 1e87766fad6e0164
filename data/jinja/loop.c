/* loop.c: the iteration of {% for %}, and what `loop` says of it. */
#include "data/jinja/loop.h"
#include "data/jinja/eval.h"

#include <string.h>

/* Whether the loop's `if` takes an item. What is bound now stays bound: the next item is looked
 * at while the body has the present one. */
static status test_item(machine *m, loop *l, value item, bool *out) {
    const node *n = l->node;
    value kept[16], answer;
    size_t count = 0;
    const node *const *targets =
        n->a->kind == N_TUPLE ? (const node *const *)n->a->items : (const node *const *)&n->a;
    size_t all = n->a->kind == N_TUPLE ? n->a->count : 1;
    for (; count < all && count < 16; count++)
        kept[count] =
            targets[count]->kind == N_NAME ? m->frame->slots[targets[count]->slot] : MISSING;
    TRY(jinja_assign(m, n->a, item));
    TRY(jinja_enter_scope(m, n->test_scope));
    TRY(jinja_eval(m, n->c, &answer));
    *out = jinja_truth(&answer);
    for (size_t i = 0; i < count; i++)
        if (targets[i]->kind == N_NAME) m->frame->slots[targets[i]->slot] = kept[i];
    return STATUS_OK;
}

/* The same where a macro that the body calls asks for it. */
static status passes(machine *m, loop *l, value item, bool *out) {
    frame *now = m->frame;
    *out = true;
    if (!l->node->c) return STATUS_OK;
    m->frame = l->frame;
    TRY(test_item(m, l, item, out));
    m->frame = now;
    return STATUS_OK;
}

/* The next that passes, from the list. */
static status pull(machine *m, loop *l, value *out, bool *more) {
    for (*more = false; l->at < l->items->count;) {
        bool good;
        *out = l->items->items[l->at++];
        TRY(jinja_step(m, 1));
        TRY(passes(m, l, *out, &good));
        if (good) {
            *more = true;
            return STATUS_OK;
        }
    }
    return STATUS_OK;
}

static status peek(machine *m, loop *l, bool *more) {
    *more = true;
    if (l->after.kind != V_MISSING) return STATUS_OK;
    TRY(pull(m, l, &l->after, more));
    if (!*more) l->after = MISSING;
    return STATUS_OK;
}

status jinja_loop_next(machine *m, loop *l, value *out, bool *more) {
    if (l->after.kind != V_MISSING) {
        *out = l->after, *more = true;
        l->after = MISSING;
    } else {
        TRY(pull(m, l, out, more));
    }
    if (!*more) return STATUS_OK;
    l->index++;
    l->before = l->now;
    l->now = *out;
    return STATUS_OK;
}

status jinja_loop_length(machine *m, loop *l, int64_t *out) {
    if (l->length < 0 && !l->node->c) {
        l->length = (int64_t)l->items->count;
    } else if (l->length < 0) { /* those that pass, computed now and kept */
        list *rest;
        size_t capacity = 0;
        bool more = true, ahead = l->after.kind != V_MISSING;
        TRY(jinja_make_list(m, 0, &rest));
        for (;;) {
            value v;
            TRY(pull(m, l, &v, &more));
            if (!more) break;
            TRY(jinja_append(m, rest, &capacity, v));
        }
        l->length = (int64_t)rest->count + l->index + 1 + ahead;
        l->items = rest, l->at = 0;
        node *plain;
        TRY(jinja_new(m, sizeof *plain, &plain));
        *plain = *l->node;
        plain->c = NULL;
        l->node = plain;
    }
    *out = l->length;
    return STATUS_OK;
}

static status neighbour(machine *m, const value *v, bool there, const char *hint, value *out) {
    *out = *v;
    return there ? STATUS_OK : jinja_make_undefined(m, MISSING, NONE, hint, out);
}

static status other_attribute(machine *m, loop *l, const char *name, value *out, bool *found) {
    int64_t length;
    bool more;
    if (!strcmp(name, "last")) {
        TRY(peek(m, l, &more));
        *out = BOOL(!more);
    } else if (!strcmp(name, "previtem")) {
        return neighbour(m, &l->before, l->index > 0, "there is no previous item", out);
    } else if (!strcmp(name, "nextitem")) {
        TRY(peek(m, l, &more));
        return neighbour(m, &l->after, more, "there is no next item", out);
    } else if (!strcmp(name, "length") || !strncmp(name, "revindex", 8)) {
        TRY(jinja_loop_length(m, l, &length));
        *out = INT(*name == 'l'     ? length
                   : name[8] == '0' ? length - l->index - 1
                                    : length - l->index);
    } else {
        *found = false;
    }
    return STATUS_OK;
}

status jinja_loop_attribute(machine *m, loop *l, const string *name, value *out, bool *found) {
    char text[16] = "";
    *found = true;
    if (name->bytes < sizeof text) memcpy(text, name->text, name->bytes);
    if (!strcmp(text, "index"))
        *out = INT(l->index + 1);
    else if (!strcmp(text, "index0"))
        *out = INT(l->index);
    else if (!strcmp(text, "first"))
        *out = BOOL(l->index == 0);
    else if (!strcmp(text, "depth"))
        *out = INT(l->depth + 1);
    else if (!strcmp(text, "depth0"))
        *out = INT(l->depth);
    else
        return other_attribute(m, l, text, out, found);
    return STATUS_OK;
}

static status cycle(machine *m, value self, const arguments *a, value *out) {
    if (!a->count) return jinja_raise(m, "TypeError", "no items for cycling given");
    *out = a->items[self.loop->index % (int64_t)a->count];
    return STATUS_OK;
}

static status changed(machine *m, value self, const arguments *a, value *out) {
    loop *l = self.loop;
    bool same = l->was_changed && l->changed.count == a->count;
    for (size_t i = 0; same && i < a->count; i++)
        same = jinja_equal(&l->changed.items[i], &a->items[i]);
    *out = BOOL(!same);
    if (same) return STATUS_OK;
    list *kept;
    TRY(jinja_make_list(m, a->count, &kept));
    if (a->count) memcpy(kept->items, a->items, a->count * sizeof *a->items);
    l->changed = *kept, l->was_changed = true;
    return STATUS_OK;
}

const builtin *jinja_loop_method(const char *name) {
    static const builtin methods[] = {{"cycle", NULL, {0}, 0, cycle},
                                      {"changed", NULL, {0}, 0, changed}};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (!strcmp(methods[i].name, name)) return &methods[i];
    return NULL;
}
