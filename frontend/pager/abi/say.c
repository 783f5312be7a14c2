/* say.c: see say.h. The pager's thread has a table of descriptors of its own, without standard
 * error: it takes the program's. */
#include "say.h"

#include "kernel.h"

#define LINE_BYTES 200

static int append(char *line, int at, const char *text)
{
    while (*text && at < LINE_BYTES - 24)
        line[at++] = *text++;
    return at;
}

static int append_number(char *line, int at, long number)
{
    char digits[24];
    int count = 0;
    unsigned long rest = number < 0 ? -(unsigned long)number : (unsigned long)number;
    do {
        digits[count++] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (number < 0)
        line[at++] = '-';
    while (count)
        line[at++] = digits[--count];
    return at;
}

void mcp_say(const char *what, long number)
{
    char line[LINE_BYTES];
    int at = append(line, 0, "memcoord: process ");
    at = append_number(line, at, mcp_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0));
    at = append(line, append(line, at, ": "), what);
    if (number)
        at = append_number(line, append(line, at, " "), number);
    line[at++] = '\n';
    long self = mcp_syscall(SYS_pidfd_open, mcp_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0), 0, 0, 0, 0,
                            0);
    long fd = self < 0 ? self : mcp_syscall(SYS_pidfd_getfd, self, 2, 0, 0, 0, 0);
    mcp_syscall(SYS_write, fd < 0 ? 2 : fd, (long)line, at, 0, 0, 0);
    if (fd >= 0)
        mcp_syscall(SYS_close, fd, 0, 0, 0, 0, 0);
    if (self >= 0)
        mcp_syscall(SYS_close, self, 0, 0, 0, 0, 0);
}

void mcp_die(const char *what, long number)
{
    mcp_say(what, number);
    for (;;)
        mcp_syscall(SYS_exit_group, MCP_EXIT_LOST, 0, 0, 0, 0, 0);
}
