/* plan_text.h: a plan for people and as JSON: memory by class and tier, disk, FLOPs, traffic,
 * time. */
#ifndef NIBBLE_TRAINER_RUN_PLAN_TEXT_H
#define NIBBLE_TRAINER_RUN_PLAN_TEXT_H

#include "common/json.h"
#include "trainer/run/session.h"

/* accumulation: micro-steps per optimizer step. The result is to be freed with mem_free /
 * json_decref; NULL when out of memory. */
char *plan_text(const session *s, int accumulation);
json_t *plan_json(const session *s, int accumulation);

/* Bytes of one checkpoint and of the adapter's file (or the model's, with full training). */
int64_t plan_checkpoint_bytes(const session *s);
int64_t plan_result_bytes(const session *s);

/* FLOPs, bytes and predicted seconds of one optimizer step, of micro-batches as they are
 * expected (session_request). */
plan_cost plan_step_cost(const session *s, int accumulation);

/* "1.50 GiB", "12.0 MiB" */
enum { BYTES_TEXT = 24 };
const char *bytes_text(int64_t bytes, char text[BYTES_TEXT]);

#endif
