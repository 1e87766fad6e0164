/* profile.h: where a step's time goes: every operation's calls, time and distance from its
 * limit, which is the rate of a large matrix product or of a copy, whichever would take the
 * longer; both rates are measured when the run is planned. */
#ifndef NIBBLE_TRAINER_RUN_PROFILE_H
#define NIBBLE_TRAINER_RUN_PROFILE_H

#include "common/json.h"
#include "trainer/run/session.h"

/* Seconds that a cost would take at its limit. */
double profile_limit_seconds(const backend_rates *r, const engine_cost *c);
/* Training, norm and update since the session was loaded: operation[.backward] -> calls,
 * seconds, flops, bytes, of_limit. NULL when out of memory. */
json_t *profile_json(const session *s);
/* The same as a table on stdout; `seconds` of the steps, of which the table gives shares. */
void profile_print(const session *s, double seconds);

#endif
