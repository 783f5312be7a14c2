/* check.c: see check.h. */
#include "check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define REPORT_BYTES_MAX 512

void mc_check_failed(const char *file, int line, const char *function, const char *condition,
                     const char *format, ...)
{
    char report[REPORT_BYTES_MAX], values[REPORT_BYTES_MAX / 2];
    va_list arguments;
    int length;

    va_start(arguments, format);
    vsnprintf(values, sizeof(values), format, arguments);
    va_end(arguments);
    length = snprintf(report, sizeof(report), "memcoord: check failed: %s:%d: %s: %s: %s\n", file,
                      line, function, condition, values);
    if (length >= (int)sizeof(report))
        length = sizeof(report) - 1;
    /* One write, and no lock: another thread may hold that of stdio. */
    (void)!write(STDERR_FILENO, report, (size_t)length);
    abort();
}
