#define _GNU_SOURCE
#include "readings.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    FILE_BYTES = 16 << 10, /* vmstat has 5 KiB */
    PATH_BYTES = 512,
    /* The bitmap is read and written in pieces; 1 TiB of memory has 512 of these. */
    PIECE_WORDS = 8192,
    PIECES_MAX = 512,
};

struct figure {
    const char *key;  /* in the report */
    const char *name; /* in the kernel's file, up to the number */
    int64_t scale;
};

static const struct figure MEMINFO[] = {
    {"total_bytes", "MemTotal:", 1024},
    {"free_bytes", "MemFree:", 1024},
    {"available_bytes", "MemAvailable:", 1024},
    {"swap_total_bytes", "SwapTotal:", 1024},
    {"swap_free_bytes", "SwapFree:", 1024},
};
static const struct figure VMSTAT[] = {
    {"major_faults", "pgmajfault ", 1},
    {"swap_in_pages", "pswpin ", 1},
    {"swap_out_pages", "pswpout ", 1},
    {"oom_kills", "oom_kill ", 1},
};
static const struct figure PRESSURE[] = {
    {"some_us", "some ", 1},
    {"full_us", "full ", 1},
};

int64_t now_ms(void)
{
    struct timespec time;

    clock_gettime(CLOCK_BOOTTIME, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* The text of a file; false when it cannot be read. */
static bool read_file(char *text, const char *root, const char *name)
{
    char path[PATH_BYTES];
    ssize_t got;
    size_t used = 0;
    int fd;

    snprintf(path, sizeof path, "%s%s", root, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    while (used < FILE_BYTES - 1 && (got = read(fd, text + used, FILE_BYTES - 1 - used)) > 0)
        used += (size_t)got;
    close(fd);
    text[used] = 0;
    return used > 0;
}

/* The line that begins with `name`, what follows it; NULL when there is none. */
static const char *line_of(const char *text, const char *name)
{
    size_t length = strlen(name);

    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, length) == 0)
            return line + length;
        if (*line == 0)
            break;
    }
    return NULL;
}

static void add(char *text, size_t room, size_t *used, const char *key, int64_t value)
{
    int wrote;

    if (*used >= room)
        return;
    wrote = snprintf(text + *used, room - *used, "%s\"%s\":%" PRId64, *used ? "," : "", key, value);
    *used = wrote > 0 ? *used + (size_t)wrote : room;
}

static void add_figures(char *text, size_t room, size_t *used, const char *file,
                        const struct figure *figures, size_t count)
{
    for (size_t at = 0; at < count; at++) {
        const char *value = line_of(file, figures[at].name);

        if (value != NULL && figures == PRESSURE && (value = strstr(value, "total=")) != NULL)
            value += strlen("total=");
        if (value != NULL)
            add(text, room, used, figures[at].key, strtoll(value, NULL, 10) * figures[at].scale);
    }
}

size_t readings(char *text, size_t room, const char *root, const struct idle *idle)
{
    char file[FILE_BYTES];
    size_t used = 0;

    add(text, room, &used, "uptime_ms", now_ms());
    if (read_file(file, root, "/proc/meminfo"))
        add_figures(text, room, &used, file, MEMINFO, sizeof MEMINFO / sizeof *MEMINFO);
    if (read_file(file, root, "/proc/vmstat"))
        add_figures(text, room, &used, file, VMSTAT, sizeof VMSTAT / sizeof *VMSTAT);
    if (read_file(file, root, "/proc/pressure/memory"))
        add_figures(text, room, &used, file, PRESSURE, sizeof PRESSURE / sizeof *PRESSURE);
    if (idle->used_pages >= 0)
        add(text, room, &used, "working_set_bytes",
            idle->used_pages * (int64_t)sysconf(_SC_PAGESIZE));
    return used < room ? used : 0;
}

void idle_open(struct idle *idle, const char *root)
{
    char path[PATH_BYTES];

    snprintf(path, sizeof path, "%s/sys/kernel/mm/page_idle/bitmap", root);
    *idle = (struct idle){.fd = open(path, O_RDWR | O_CLOEXEC), .used_pages = -1};
}

static uint64_t count_idle(int fd)
{
    uint64_t piece[PIECE_WORDS], count = 0;

    for (off_t at = 0; at < PIECES_MAX; at++) {
        ssize_t got = pread(fd, piece, sizeof piece, at * (off_t)sizeof piece);

        for (ssize_t word = 0; word < got / (ssize_t)sizeof *piece; word++)
            count += (uint64_t)__builtin_popcountll(piece[word]);
        if (got < (ssize_t)sizeof piece)
            break;
    }
    return count;
}

static void mark_idle(int fd)
{
    uint64_t piece[PIECE_WORDS];

    memset(piece, 0xff, sizeof piece);
    for (off_t at = 0; at < PIECES_MAX; at++) {
        if (pwrite(fd, piece, sizeof piece, at * (off_t)sizeof piece) < (ssize_t)sizeof piece)
            break;
    }
}

void idle_look(struct idle *idle, int64_t now)
{
    uint64_t still;

    if (idle->fd < 0 || idle->every_ms == 0 || now < idle->due_ms)
        return;
    if (idle->due_ms != 0) {
        still = count_idle(idle->fd);
        idle->used_pages = idle->marked > still ? (int64_t)(idle->marked - still) : 0;
    }
    mark_idle(idle->fd);
    idle->marked = count_idle(idle->fd); /* a page that cannot be tracked stays unmarked */
    idle->due_ms = now + idle->every_ms;
}
