/* check.h: MC_CHECK, which ends a process that finds a mistake of our own.
 *
 * Owns:  the macro and its report: one line on standard error, with file, line, function,
 *        condition and values, before abort().
 * Rules: check only what this side alone wrote: the ledger, private states, arguments that our own
 *        code passes. Never check a word that the other side of shared memory can write: copy
 *        such a word, test it, and answer with a status. Never check on the path of a single 4 KiB
 *        allocation. Name the domain and the values in the message.
 * Who may call: every C file of the project. backend/abi/host.h has MC_CHECK_DOMAIN for a broken
 *        state that belongs to one domain: that domain is detached, the host goes on.
 */
#ifndef MC_CHECK_H
#define MC_CHECK_H

#define MC_CHECK_VALUES_BYTES 256

/* Write the report, and return: for a caller that ends less than the process. */
__attribute__((cold))
void mc_check_report(const char *file, int line, const char *function, const char *condition,
                     const char *values);
__attribute__((noreturn, cold, format(printf, 5, 6)))
void mc_check_failed(const char *file, int line, const char *function, const char *condition,
                     const char *format, ...);

/* MC_CHECK(condition, "domain %u: %lu of %lu frames", ...): goes on when `condition` holds. */
#define MC_CHECK(condition, ...)                                                        \
    do {                                                                                \
        if (__builtin_expect(!(condition), 0))                                          \
            mc_check_failed(__FILE__, __LINE__, __func__, #condition, __VA_ARGS__);     \
    } while (0)

#endif
