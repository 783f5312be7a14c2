/* check.c: see check.h. */
#include "check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void mc_check_report(const char *file, int line, const char *function, const char *condition,
                     const char *values)
{
    char report[2 * MC_CHECK_VALUES_BYTES];
    int length = snprintf(report, sizeof(report), "memcoord: check failed: %s:%d: %s: %s: %s\n",
                          file, line, function, condition, values);

    if (length >= (int)sizeof(report))
        length = sizeof(report) - 1;
    /* One write, and no lock: another thread may hold that of stdio. */
    (void)!write(STDERR_FILENO, report, (size_t)length);
}

void mc_check_failed(const char *file, int line, const char *function, const char *condition,
                     const char *format, ...)
{
    char values[MC_CHECK_VALUES_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(values, sizeof(values), format, arguments);
    va_end(arguments);
    mc_check_report(file, line, function, condition, values);
    abort();
}
