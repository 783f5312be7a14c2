/* app.h: what the programs of this folder have in common.
 *
 * They are ordinary programs: they know nothing of memcoord but one variable of the environment,
 * MEMCOORD_WORK, the number of a descriptor to which a program writes a line for a unit of work
 * done. Without it they run as well. Each is deterministic: the same arguments and data give the
 * same checksum, whatever its memory had to go through, and a program that finds its memory changed
 * says so and ends with 1. `gcc -O2 -static -o als als.c app.c pattern.c -lm` builds one alone.
 */
#ifndef APP_H
#define APP_H

#include <stddef.h>
#include <stdint.h>

#define APP_MIB ((size_t)1 << 20)

/* The next of a sequence that `state` begins (splitmix64). */
uint64_t app_random(uint64_t *state);

/* The number after the option `name`, or `otherwise`; ends the program when it is none above 0. */
uint64_t app_number(int count, char **words, const char *name, uint64_t otherwise);

/* The word after the option `name`, or NULL. */
const char *app_word(int count, char **words, const char *name);

/* Ends the program when an option stands there that is not in `known`, a list that ends in NULL. */
void app_only(int count, char **words, const char *const *known);

/* Zeroed memory of its own mapping; ends the program when there is none. */
void *app_memory(size_t bytes);
void app_return(void *memory, size_t bytes);

/* `bytes`, a multiple of 4, mixed into `hash`: any changed bit, and any order, changes it. */
uint64_t app_hash(uint64_t hash, const void *memory, size_t bytes);

/* One unit of work is done. */
void app_unit(void);

/* Sleep. */
void app_pause(double seconds);

/* Says `what` and ends with 1. */
_Noreturn void app_fail(const char *what);

/* The last line of a program that did its work: what it touched, and the checksum. */
void app_done(size_t touched_bytes, uint64_t checksum);

#endif
