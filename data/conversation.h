/* conversation.h: a row's messages, by whatever names the dataset gives them, and what of them
 * is learned. From JSON to the list that a template renders; the rules are Axolotl's
 * `type: chat_template`, ShareGPT's from/value rows included without further words.
 *
 * An interpreted template gets all of a message: content that is a list of parts, tool calls
 * (arguments that are a JSON text are parsed), names, thinking, under the template's names;
 * keys that are null are left out, but for content. The built-in renderers get role, content
 * and thinking. */
#ifndef NIBBLE_DATA_CONVERSATION_H
#define NIBBLE_DATA_CONVERSATION_H

#include "common/json.h"
#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>

/* Whose end tokens are learned: of turns that are learned, all, the last learned one, none. */
typedef enum learn_ends { ENDS_TURN, ENDS_ALL, ENDS_LAST, ENDS_NONE } learn_ends;

typedef struct role_names { /* names in the rows that mean `role` to the template */
    const char *role;
    const char *const *names;
    size_t count;
} role_names;

typedef struct byte_range {
    size_t from, to;
} byte_range;

typedef struct chat_message {
    const char *role;    /* after mapping: system, user, assistant, or another */
    const char *content; /* NULL: no text (only where chat_fields.whole) */
    size_t bytes;
    const char *thinking;            /* reasoning_content, NUL-terminated; NULL = none */
    bool learn;                      /* what it says */
    bool learn_end;                  /* the token that ends the turn */
    size_t left_out, left_out_count; /* ranges of the content that are not learned */
} chat_message;

typedef struct property { /* of a message: the template's name, the row's */
    const char *name, *key;
} property;

/* NULL and 0 mean the usual. Owns nothing. */
typedef struct chat_fields {
    const char *messages; /* the list; usual: "messages", then "conversations" */
    const char *role,
        *content;         /* in a message; usual: role, content; from, value where they are */
    const char *thinking; /* usual: reasoning_content */
    const char *thinking_name; /* the template's name of that; usual: reasoning_content */
    const char *system;   /* beside the list: a system message to put first; usual: system */
    const char *tools;    /* beside the list; usual: tools */
    const char *training; /* in a message: true or false, whether it is learned; usual: none */
    const char *detail;   /* in a message: a list of {begin_offset, end_offset, train}, in
                           characters of the content, the last included; usual: none */
    const property *properties; /* more of a message, under the template's names */
    size_t property_count;
    bool whole; /* for an interpreted template: `data` is made, content may be anything */
    const role_names *roles; /* usual: human, user; gpt, assistant; system; tool */
    size_t role_count;
    const char *const *roles_to_train; /* usual: assistant */
    size_t train_count;
    bool train_on_inputs; /* every message is learned */
    bool drop_system_message;
    learn_ends ends;
} chat_fields;

typedef struct conversation {
    chat_message *items; /* point into the row */
    size_t count, capacity;
    byte_range *ranges;
    size_t range_count, range_capacity;
    json_t *data; /* {messages, tools}: what an interpreted template gets; NULL */
} conversation;

/* Reads a row; *out is reused. STATUS_DATA without a place (the caller knows file and line)
 * when a field is missing or no text, or for tool calls where they cannot be rendered. */
status conversation_read(conversation *out, const json_t *row, const chat_fields *fields);
void conversation_free(conversation *c);

/* Whether the row has tools that a template might render. */
bool conversation_has_tools(const json_t *row, const chat_fields *fields);

#endif
