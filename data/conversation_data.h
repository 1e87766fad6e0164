/* conversation_data.h: the object that an interpreted template gets of a row: {messages,
 * tools}, under the template's names. Values are shared with the row, not copied, but for
 * texts that hold JSON, which are parsed. */
#ifndef NIBBLE_DATA_CONVERSATION_DATA_H
#define NIBBLE_DATA_CONVERSATION_DATA_H

#include "data/conversation.h"

typedef struct message_keys { /* in the row */
    const char *role, *content, *thinking, *thinking_name;
    const property *properties;
    size_t property_count;
} message_keys;

/* Makes *data with no message and the row's tools: a list, or a JSON text of one; NULL or null:
 * none. STATUS_DATA for another thing. */
status conversation_put_tools(json_t **data, const json_t *tools, const char *key);
/* Appends message `number` (for messages) with its role after mapping. */
status conversation_put_message(json_t **data, const json_t *message, const char *role,
                                const message_keys *keys, size_t number);
status conversation_put_system(json_t **data, const json_t *content);

#endif
