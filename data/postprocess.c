/* postprocess.c: see postprocess.h. */
#include "data/postprocess.h"
#include "common/alloc.h"
#include "data/vocabulary.h"

#include <string.h>

enum { MAX_NESTING = 8 };

static const char where[] = "post_processor";

static status add_id(id_list *list, const json_t *value) {
    int64_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    if (id < 0 || id >= VOCABULARY_IDS)
        return status_fail(STATUS_MODEL, "%s: an id is unusable", where);
    int32_t small = (int32_t)id;
    return id_list_append(list, &small, 1);
}

/* A special token of a template: its ids stand in "special_tokens". */
static status add_special(id_list *list, const json_t *specials, const json_t *piece) {
    const char *name = "";
    TRY(json_get_text(piece, "id", &name, where, STATUS_MODEL));
    const json_t *ids = json_object_get(json_object_get(specials, name), "ids"), *id;
    size_t i;
    if (!json_is_array(ids))
        return status_fail(STATUS_MODEL, "%s: the template's token \"%.80s\" has no ids",
                           where, name);
    json_array_foreach(ids, i, id) TRY(add_id(list, id));
    return STATUS_OK;
}

static status read_template(postprocessor *p, const json_t *json) {
    const json_t *single = json_object_get(json, "single"), *piece;
    bool seen = false;
    size_t i;
    if (!json_is_array(single))
        return status_fail(STATUS_MODEL, "%s: a template needs a list \"single\"", where);
    json_array_foreach(single, i, piece) {
        const json_t *special = json_object_get(piece, "SpecialToken");
        const json_t *sequence = json_object_get(piece, "Sequence");
        const char *name = "";
        if (special) {
            TRY(add_special(seen ? &p->after : &p->before,
                            json_object_get(json, "special_tokens"), special));
            continue;
        }
        TRY(json_get_text(sequence, "id", &name, where, STATUS_MODEL));
        if (seen || strcmp(name, "A"))
            return status_fail(STATUS_MODEL, "%s: a template must hold the text A once",
                               where);
        seen = true;
    }
    return seen ? STATUS_OK
                : status_fail(STATUS_MODEL, "%s: a template must hold the text A once", where);
}

/* "cls" before and "sep" behind, each [text, id]. */
static status read_bert(postprocessor *p, const json_t *json) {
    TRY(add_id(&p->before, json_array_get(json_object_get(json, "cls"), 1)));
    return add_id(&p->after, json_array_get(json_object_get(json, "sep"), 1));
}

static status read_any(postprocessor *p, const json_t *json, int depth, bool *adds) {
    const char *type = "";
    TRY(json_get_text(json, "type", &type, where, STATUS_MODEL));
    if (depth > MAX_NESTING) return status_fail(STATUS_MODEL, "%s: nested too deep", where);
    if (!strcmp(type, "ByteLevel")) return STATUS_OK;
    if (!strcmp(type, "Sequence")) {
        const json_t *list = json_object_get(json, "processors"), *item;
        size_t i;
        if (!json_is_array(list))
            return status_fail(STATUS_MODEL, "%s: a Sequence needs a list of \"processors\"",
                               where);
        json_array_foreach(list, i, item) TRY(read_any(p, item, depth + 1, adds));
        return STATUS_OK;
    }
    if (*adds)
        return status_fail(STATUS_MODEL, "%s: more than one that adds tokens is not supported",
                           where);
    *adds = true;
    if (!strcmp(type, "TemplateProcessing")) return read_template(p, json);
    if (!strcmp(type, "BertProcessing") || !strcmp(type, "RobertaProcessing"))
        return read_bert(p, json);
    return status_fail(STATUS_MODEL, "%s \"%.60s\" is not supported", where, type);
}

status postprocessor_read(postprocessor *p, const json_t *json) {
    bool adds = false;
    return !json || json_is_null(json) ? STATUS_OK : read_any(p, json, 0, &adds);
}

void postprocessor_free(postprocessor *p) {
    mem_free(p->before.items);
    mem_free(p->after.items);
}
