/* conversation.h: a row's messages, by whatever names the dataset gives them, and what of them
 * is learned. From JSON to the chat_message list that a template renders; the rules are
 * Axolotl's `type: chat_template`, ShareGPT's from/value rows included without further words.
 */
#ifndef NIBBLE_DATA_CONVERSATION_H
#define NIBBLE_DATA_CONVERSATION_H

#include "common/json.h"
#include "common/status.h"
#include "data/template.h"

#include <stdbool.h>
#include <stddef.h>

/* Whose end tokens are learned: of turns that are learned, all, the last learned one, none. */
typedef enum learn_ends { ENDS_TURN, ENDS_ALL, ENDS_LAST, ENDS_NONE } learn_ends;

typedef struct role_names { /* names in the rows that mean `role` to the template */
    const char *role;
    const char *const *names;
    size_t count;
} role_names;

/* NULL and 0 mean the usual. Owns nothing. */
typedef struct chat_fields {
    const char *messages; /* the list; usual: "messages", then "conversations" */
    const char *role,
        *content;         /* in a message; usual: role, content; from, value where they are */
    const char *thinking; /* usual: reasoning_content */
    const char *system;   /* beside the list: a system message to put first; usual: system */
    const char *tools;    /* beside the list; usual: tools */
    const char *training; /* in a message: true or false, whether it is learned; usual: none */
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
} conversation;

/* Reads a row; *out is reused. STATUS_DATA without a place (the caller knows file and line)
 * when a field is missing or no text, or for tool calls, which no template here renders. */
status conversation_read(conversation *out, const json_t *row, const chat_fields *fields);
void conversation_free(conversation *c);

/* Whether the row has tools that a template might render. */
bool conversation_has_tools(const json_t *row, const chat_fields *fields);

#endif
