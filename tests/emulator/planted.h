/* planted.h: kernels with bugs, for the emulator's own test.
 *
 * Each has a right form (bug == false), which must pass in every build and order, and one that
 * differs by a line. A run says whether the numbers that came out are right; what the emulator
 * reported is asked of it. */
#ifndef NIBBLE_TESTS_EMULATOR_PLANTED_H
#define NIBBLE_TESTS_EMULATOR_PLANTED_H

enum planted_found {
    MISSED, /* right numbers in every order, nothing said */
    WRONG,  /* wrong numbers in at least one order */
    FOUND,  /* reported, or the process died */
};

struct planted {
    const char *name;
    bool (*run)(bool bug); /* whether the numbers are right */
    planted_found plain, sanitized, shadow;
};
extern const planted planted_bugs[];
extern const int planted_count;

#endif
