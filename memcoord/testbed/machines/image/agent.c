/* The agent in a guest: it reports on the guest's memory, and runs commands for the host.
 *
 * agent PORT [ROOT]     PORT: the device of the port, or fd:N; ROOT: what stands before /proc, /sys
 *
 * Owns: the protocol, version 1. The host writes lines of words, with bytes that are no word's own
 * as %XX; the agent writes JSON objects, one on each line, LINE_BYTES at most.
 *   hello                        {"hello":1,"kernel":...,"boot":...}    whenever the host asks
 *   rate MS                      a report every MS milliseconds; 0: none
 *   idle MS                      look at the pages in use so often; 0: not at all
 *   run ID COUNT ENV... ARG...   starts a command with COUNT words of environment
 *                                {"id":ID,"pid":N}, {"id":ID,"out":TEXT}, and at its end
 *                                {"id":ID,"exit":N} or {"id":ID,"signal":N}, with what it used
 *   kill ID SIGNAL               signals the command and all that it has started
 * TEXT has a character of Latin-1 for each byte. What is not understood: {"error":TEXT}.
 * Of what a command writes OUTPUT_BYTES are sent; the rest is counted in "cut".
 *
 * It answers under memory pressure: it is locked in memory, is no choice of the OOM killer, and
 * allocates nothing. A host that does not read costs reports, never an end of a command.
 */
#define _GNU_SOURCE
#include "readings.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    VERSION = 1,
    COMMANDS_MAX = 8,
    WORDS_MAX = 256,
    LINE_BYTES = 8 << 10,
    OUT_BYTES = 256 << 10,
    CHUNK_BYTES = 1024, /* as JSON it fits a line, whatever it holds */
    OUTPUT_BYTES = 256 << 10,
    RATE_MS_MIN = 20,
    RATE_MS_MAX = 60000,
    LOST_MS = 100, /* between two looks for a host that is gone */
};

struct command {
    int64_t id;
    pid_t pid; /* 0: free */
    int out;   /* -1: closed */
    uint64_t sent, cut, late; /* bytes sent, left out, and read after its end */
    bool ended;
    int status;
    struct rusage usage;
};

struct agent {
    int port;
    const char *root;
    int64_t since_ms, rate_ms, due_ms;
    struct idle idle;
    struct command commands[COMMANDS_MAX];
    char in[LINE_BYTES], out[OUT_BYTES];
    size_t in_used, out_used;
    bool skipping; /* the rest of a line that is too long */
};

/* A line for the host; false, and nothing, when there is no room. */
__attribute__((format(printf, 2, 3))) static bool say(struct agent *agent, const char *form, ...)
{
    va_list values;
    size_t room = OUT_BYTES - agent->out_used;
    int wrote;

    va_start(values, form);
    wrote = vsnprintf(agent->out + agent->out_used, room, form, values);
    va_end(values);
    if (wrote < 0 || (size_t)wrote + 1 >= room)
        return false;
    agent->out_used += (size_t)wrote;
    agent->out[agent->out_used++] = '\n';
    return true;
}

static void hello(struct agent *agent)
{
    struct utsname name;
    char boot[64] = "", path[512];
    int fd;

    snprintf(path, sizeof path, "%s/proc/sys/kernel/random/boot_id", agent->root);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t got = read(fd, boot, sizeof boot - 1);

        boot[got > 0 ? strcspn(boot, "\n") : 0] = 0;
        close(fd);
    }
    uname(&name);
    say(agent, "{\"hello\":%d,\"kernel\":\"%s\",\"boot\":\"%s\",\"since_ms\":%" PRId64 "}",
        VERSION, name.release, boot, agent->since_ms);
}

static struct command *command_of(struct agent *agent, int64_t id)
{
    for (int at = 0; at < COMMANDS_MAX; at++) {
        if (agent->commands[at].pid != 0 && agent->commands[at].id == id)
            return &agent->commands[at];
    }
    return NULL;
}

static struct command *free_command(struct agent *agent)
{
    for (int at = 0; at < COMMANDS_MAX; at++) {
        if (agent->commands[at].pid == 0)
            return &agent->commands[at];
    }
    return NULL;
}

/* Start a command in a process group of its own; an error number, 0 for none. */
static int start(struct command *command, char **arguments, char **environment)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none, usual;
    int ends[2], failed;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return errno;
    sigemptyset(&none);
    sigemptyset(&usual);
    sigaddset(&usual, SIGPIPE); /* the agent ignores it, and a child would, too */
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, ends[1], 1);
    posix_spawn_file_actions_adddup2(&files, ends[1], 2);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                              POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigdefault(&attributes, &usual);
    posix_spawnattr_setsigmask(&attributes, &none);
    failed = posix_spawnp(&command->pid, arguments[0], &files, &attributes, arguments, environment);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    close(ends[1]);
    if (failed != 0) {
        close(ends[0]);
        command->pid = 0;
        return failed;
    }
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    command->out = ends[0];
    return 0;
}

/* The OOM killer is to choose a command before the agent, whose place a child inherits. */
static void be_mortal(pid_t pid, const char *place)
{
    char path[64];
    int fd;

    snprintf(path, sizeof path, "/proc/%d/oom_score_adj", (int)pid);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (write(fd, place, strlen(place)) < 0) /* where we may not, it is as good as it was */
            errno = 0;
        close(fd);
    }
}

static void run(struct agent *agent, char **words, int count)
{
    static char path[] = "PATH=/bin:/usr/bin:/sbin:/usr/sbin";
    char *environment[WORDS_MAX + 2];
    int64_t id = strtoll(words[1], NULL, 10);
    int given = atoi(words[2]), failed;
    struct command *command = free_command(agent);

    if (given < 0 || 3 + given >= count || command_of(agent, id) != NULL || command == NULL) {
        say(agent, "{\"id\":%" PRId64 ",\"failed\":\"%s\"}", id,
            command == NULL ? "too many commands" : "no such command line");
        return;
    }
    environment[0] = path;
    memcpy(environment + 1, words + 3, (size_t)given * sizeof *words);
    environment[1 + given] = NULL;
    *command = (struct command){.id = id, .out = -1};
    failed = start(command, words + 3 + given, environment);
    if (failed != 0) {
        say(agent, "{\"id\":%" PRId64 ",\"failed\":\"%s\"}", id, strerror(failed));
        return;
    }
    be_mortal(command->pid, "0");
    say(agent, "{\"id\":%" PRId64 ",\"pid\":%d}", id, (int)command->pid);
}

static int64_t interval(const char *word)
{
    int64_t wanted = strtoll(word, NULL, 10);

    if (wanted <= 0)
        return 0;
    return wanted < RATE_MS_MIN ? RATE_MS_MIN : wanted > RATE_MS_MAX ? RATE_MS_MAX : wanted;
}

static void obey(struct agent *agent, char **words, int count)
{
    if (strcmp(words[0], "hello") == 0) {
        hello(agent);
    } else if (strcmp(words[0], "rate") == 0 && count == 2) {
        agent->rate_ms = interval(words[1]);
        agent->due_ms = now_ms();
    } else if (strcmp(words[0], "idle") == 0 && count == 2) {
        agent->idle.every_ms = interval(words[1]);
        agent->idle.due_ms = 0;
        agent->idle.used_pages = -1;
    } else if (strcmp(words[0], "run") == 0 && count >= 4) {
        run(agent, words, count);
    } else if (strcmp(words[0], "kill") == 0 && count == 3) {
        struct command *command = command_of(agent, strtoll(words[1], NULL, 10));

        if (command != NULL)
            kill(-command->pid, atoi(words[2]));
    } else {
        say(agent, "{\"error\":\"not understood\"}");
    }
}

/* Take a word's %XX for the bytes they stand for, in place. */
static void unescape(char *word)
{
    char *to = word;

    for (char *from = word; *from != 0; from++) {
        unsigned byte;

        if (*from == '%' && sscanf(from + 1, "%2x", &byte) == 1 && from[1] != 0 && from[2] != 0) {
            *to++ = (char)byte;
            from += 2;
        } else {
            *to++ = *from;
        }
    }
    *to = 0;
}

static void obey_line(struct agent *agent, char *line)
{
    char *words[WORDS_MAX + 1], *rest = NULL;
    int count = 0;

    for (char *word = strtok_r(line, " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest)) {
        if (count == WORDS_MAX) {
            say(agent, "{\"error\":\"too many words\"}");
            return;
        }
        unescape(word);
        words[count++] = word;
    }
    words[count] = NULL;
    if (count > 0)
        obey(agent, words, count);
}

/* Read what the host says; false when no host is there. */
static bool listen_to_host(struct agent *agent)
{
    ssize_t got = read(agent->port, agent->in + agent->in_used, LINE_BYTES - agent->in_used);
    char *end;

    if (got <= 0)
        return got < 0 && (errno == EAGAIN || errno == EINTR);
    agent->in_used += (size_t)got;
    while ((end = memchr(agent->in, '\n', agent->in_used)) != NULL) {
        size_t length = (size_t)(end - agent->in) + 1;

        *end = 0;
        if (!agent->skipping)
            obey_line(agent, agent->in);
        agent->skipping = false;
        agent->in_used -= length;
        memmove(agent->in, agent->in + length, agent->in_used);
    }
    if (agent->in_used == LINE_BYTES) {
        if (!agent->skipping)
            say(agent, "{\"error\":\"a line is too long\"}");
        agent->skipping = true;
        agent->in_used = 0;
    }
    return true;
}

static bool tell_host(struct agent *agent)
{
    ssize_t wrote = write(agent->port, agent->out, agent->out_used);

    if (wrote < 0)
        return errno == EAGAIN || errno == EINTR;
    agent->out_used -= (size_t)wrote;
    memmove(agent->out, agent->out + wrote, agent->out_used);
    return true;
}

/* Send a piece of what a command writes, or count what is too much. */
static void pass_on(struct agent *agent, struct command *command)
{
    unsigned char chunk[CHUNK_BYTES];
    char text[6 * CHUNK_BYTES + 1];
    size_t used = 0, kept;
    ssize_t got;

    if (OUT_BYTES - agent->out_used < LINE_BYTES)
        return; /* the host is late: the command waits, and so does its end */
    got = read(command->out, chunk, sizeof chunk);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        close(command->out);
        command->out = -1;
        return;
    }
    kept = OUTPUT_BYTES - command->sent < (uint64_t)got ? OUTPUT_BYTES - command->sent
                                                        : (uint64_t)got;
    command->cut += (uint64_t)got - kept;
    command->late += command->ended ? (uint64_t)got : 0;
    command->sent += kept;
    for (size_t at = 0; at < kept; at++) {
        if (chunk[at] >= ' ' && chunk[at] < 127 && chunk[at] != '"' && chunk[at] != '\\')
            text[used++] = (char)chunk[at];
        else
            used += (size_t)sprintf(text + used, "\\u%04x", chunk[at]);
    }
    text[used] = 0;
    if (kept > 0)
        say(agent, "{\"id\":%" PRId64 ",\"out\":\"%s\"}", command->id, text);
}

static void note_ends(struct agent *agent)
{
    for (int at = 0; at < COMMANDS_MAX; at++) {
        struct command *command = &agent->commands[at];
        const struct rusage *used = &command->usage;

        if (command->pid == 0)
            continue;
        if (!command->ended && wait4(command->pid, &command->status, WNOHANG, &command->usage) > 0)
            command->ended = true;
        /* What it started may hold the pipe for ever: its end is not that of its output. */
        if (!command->ended)
            continue;
        if (command->out >= 0)
            pass_on(agent, command);
        if (command->out >= 0 && command->late < OUTPUT_BYTES &&
            poll(&(struct pollfd){command->out, POLLIN, 0}, 1, 0) > 0)
            continue; /* where others write on, so much of it is waited for */
        if (!say(agent,
                 "{\"id\":%" PRId64 ",\"%s\":%d,\"cut\":%" PRIu64 ",\"major_faults\":%ld"
                 ",\"user_us\":%" PRId64 ",\"system_us\":%" PRId64 ",\"max_kib\":%ld}",
                 command->id, WIFEXITED(command->status) ? "exit" : "signal",
                 WIFEXITED(command->status) ? WEXITSTATUS(command->status)
                                            : WTERMSIG(command->status),
                 command->cut, used->ru_majflt,
                 (int64_t)used->ru_utime.tv_sec * 1000000 + used->ru_utime.tv_usec,
                 (int64_t)used->ru_stime.tv_sec * 1000000 + used->ru_stime.tv_usec,
                 used->ru_maxrss))
            continue;
        if (command->out >= 0)
            close(command->out);
        command->pid = 0;
    }
}

static void report(struct agent *agent, int64_t now)
{
    char text[2048];
    size_t length;

    if (agent->rate_ms == 0 || now < agent->due_ms)
        return;
    /* A report that is late is left out, and never sent twice. */
    agent->due_ms += agent->rate_ms;
    if (agent->due_ms <= now)
        agent->due_ms = now + agent->rate_ms;
    length = readings(text, sizeof text, agent->root, &agent->idle);
    if (length > 0 && OUT_BYTES - agent->out_used > OUT_BYTES / 2)
        say(agent, "{%s}", text);
}

/* One turn: wait for host, commands or the time of a report, and do what is due. */
static void turn(struct agent *agent)
{
    struct pollfd files[1 + COMMANDS_MAX] = {{agent->port, POLLIN, 0}};
    int64_t now = now_ms(), wait = 1000;
    bool there = true;

    for (int at = 0; at < COMMANDS_MAX; at++) {
        struct command *command = &agent->commands[at];
        bool wanted = command->pid != 0 && OUT_BYTES - agent->out_used >= LINE_BYTES;

        files[1 + at] = (struct pollfd){wanted ? command->out : -1, POLLIN, 0};
        if (command->pid != 0) /* its end is looked for; SIGCHLD mostly comes first */
            wait = LOST_MS;
    }
    if (agent->out_used > 0)
        files[0].events |= POLLOUT;
    if (agent->rate_ms != 0 && agent->due_ms - now < wait)
        wait = agent->due_ms > now ? agent->due_ms - now : 0;
    poll(files, 1 + COMMANDS_MAX, (int)wait);
    if (files[0].revents & POLLIN)
        there = listen_to_host(agent);
    if (there && (files[0].revents & POLLOUT))
        there = tell_host(agent);
    if (!there || (files[0].revents & (POLLHUP | POLLERR))) {
        agent->out_used = agent->in_used = 0;
        agent->rate_ms = agent->idle.every_ms = 0;
        poll(NULL, 0, LOST_MS);
    }
    for (int at = 0; at < COMMANDS_MAX; at++) {
        if (files[1 + at].revents != 0)
            pass_on(agent, &agent->commands[at]);
    }
    note_ends(agent);
    now = now_ms();
    idle_look(&agent->idle, now);
    report(agent, now);
}

static void woken(int number)
{
    (void)number; /* poll returns, that is all */
}

int main(int count, char **arguments)
{
    static struct agent agent;
    struct sigaction wake = {.sa_handler = woken};

    if (count < 2) {
        fprintf(stderr, "agent PORT [ROOT]\n");
        return 2;
    }
    agent.root = count > 2 ? arguments[2] : "";
    agent.port = strncmp(arguments[1], "fd:", 3) == 0
                     ? atoi(arguments[1] + 3)
                     : open(arguments[1], O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (agent.port < 0 || fcntl(agent.port, F_SETFL, O_NONBLOCK) != 0) {
        perror(arguments[1]);
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGCHLD, &wake, NULL);
    be_mortal(getpid(), "-1000");
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
        fprintf(stderr, "agent: may be swapped out\n");
    idle_open(&agent.idle, agent.root);
    agent.since_ms = now_ms();
    hello(&agent);
    for (;;)
        turn(&agent);
}
