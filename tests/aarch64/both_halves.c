/* both_halves.c: the host half and the guest half, in two processes, without Python.
 *
 * Owns:  one life of a domain under each mechanism: boot, use, grow, shrink, leave. The guest is a
 *        child that is sent its fds, as at an attach, and stamps every frame it takes.
 * Rules: ends with 0 and a line per mechanism; else with 1, and the line says at which step. Built
 *        for 64-bit ARM by test_aarch64.py and run under qemu-user; for this machine too.
 */
#include "guest.h"
#include "host.h"
#include "mechanism.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_AREAS 32u
#define LOW_AREAS 8u
#define HIGH_AREAS 24u
#define HOST_AREAS 48u
#define SLACK_AREAS 2u
#define KEPT_FRAMES 300u
#define WAIT_NS 60000000000ull
#define POLL_NS 2000000

struct handed {
    uint64_t ram_bytes;
    uint64_t meta_bytes;
};

struct order {
    char what;                      /* take, give all but `count`, verify, or quit */
    uint64_t count;
};

static const char *step = "start";
static char failure[160];

#define MUST(condition)                                                                    \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            snprintf(failure, sizeof failure, "%s: %s", step, #condition);                 \
            return 0;                                                                      \
        }                                                                                  \
    } while (0)

/* ---- the guest: a process of its own ---- */

static int receive(int line, struct handed *handed, int fds[3])
{
    char room[CMSG_SPACE(3 * sizeof(int))];
    struct iovec part = {handed, sizeof *handed};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room,
                             .msg_controllen = sizeof room};
    struct cmsghdr *head;
    if (recvmsg(line, &message, 0) != (ssize_t)sizeof *handed)
        return 0;
    head = CMSG_FIRSTHDR(&message);
    if (!head)
        return 0;
    memcpy(fds, CMSG_DATA(head), 3 * sizeof(int));
    return 1;
}

static uint64_t *stamp(struct mc_guest *guest, uint32_t frame)
{
    return (uint64_t *)(guest->ram + ((uint64_t)frame << MC_FRAME_SHIFT));
}

static int64_t obey(struct mc_guest *guest, const struct order *order, uint32_t *frames,
                    uint64_t *held)
{
    uint64_t wrong = 0;
    if (order->what == 't')
        while (*held < order->count) {
            int64_t frame = mc_guest_alloc(guest, guest->slot, 0);
            if (frame < 0)
                break;
            frames[(*held)++] = (uint32_t)frame;
            *stamp(guest, (uint32_t)frame) = (uint64_t)frame + 1;
        }
    while (order->what == 'g' && *held > order->count)
        if (mc_frames_free(&guest->frames, guest->slot, frames[--*held], 0))
            return -1;
    if (order->what == 'g')
        mc_slot_drain(&guest->frames, guest->slot);
    for (uint64_t i = 0; i < *held; i++)
        wrong += *stamp(guest, frames[i]) != (uint64_t)frames[i] + 1;
    return order->what == 'v' ? (int64_t)wrong : (int64_t)*held;
}

static int be_guest(int line)
{
    uint32_t *frames = calloc(MOST_AREAS * MC_AREA_FRAMES, sizeof *frames);
    struct handed handed;
    struct mc_guest *guest = NULL;
    struct order order;
    uint64_t held = 0;
    int fds[3];
    if (!frames || !receive(line, &handed, fds) ||
        mc_guest_open(&guest, fds[0], fds[1], fds[2], line, handed.ram_bytes, handed.meta_bytes, 0))
        return 1;
    while (read(line, &order, sizeof order) == (ssize_t)sizeof order && order.what != 'q') {
        int64_t answer = obey(guest, &order, frames, &held);
        if (write(line, &answer, sizeof answer) != (ssize_t)sizeof answer)
            break;
    }
    mc_guest_close(guest);
    free(frames);
    return 0;
}

/* ---- the host ---- */

static void *serve(void *host) { mc_service_run(host); return NULL; }
static void *work(void *host) { mc_worker_run(host); return NULL; }

static void rest(void)
{
    struct timespec poll = {.tv_nsec = POLL_NS};
    nanosleep(&poll, NULL);
}

static int hand_over(struct mc_host *host, int line)
{
    const struct mc_domain *domain = &host->domains[0];
    struct handed handed = {(uint64_t)domain->areas * MC_AREA_BYTES, domain->meta_bytes};
    int fds[3] = {domain->ram_fd, domain->meta_fd, domain->bell_fd};
    char room[CMSG_SPACE(sizeof fds)] = {0};
    struct iovec part = {&handed, sizeof handed};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room,
                             .msg_controllen = sizeof room};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(head), fds, sizeof fds);
    return sendmsg(line, &message, 0) == (ssize_t)sizeof handed;
}

static int64_t ask(int line, char what, uint64_t count)
{
    struct order order = {what, count};
    int64_t answer;
    if (write(line, &order, sizeof order) != (ssize_t)sizeof order ||
        read(line, &answer, sizeof answer) != (ssize_t)sizeof answer)
        return -1;
    return answer;
}

static int reached(struct mc_host *host)
{
    uint64_t until_ns = mc_clock_ns() + WAIT_NS;
    enum mc_reach reach = MC_MOVING;
    enum mc_why why;
    while (reach == MC_MOVING && mc_clock_ns() < until_ns) {
        rest();
        if (mc_domain_reach(host, 0, &reach, &why))
            return 0;
    }
    return reach == MC_REACHED;
}

static int live(struct mc_host *host, int line, const struct mc_mechanism *mechanism)
{
    struct mc_domain_spec spec = {.areas = MOST_AREAS, .boot_areas = LOW_AREAS,
                                  .target_frames = LOW_AREAS * MC_AREA_FRAMES,
                                  .mechanism = mechanism->id};
    int64_t most = HIGH_AREAS * MC_AREA_FRAMES * 3 / 4;
    uint64_t until_ns;
    uint32_t where;
    for (int i = 0; i < MC_OPTIONS_MAX; i++)
        spec.options[i] = mechanism->options[i].value;
    step = "boot";
    MUST(mc_domain_open(host, 0, &spec) == MC_OK);
    MUST(hand_over(host, line));
    MUST(ask(line, 't', KEPT_FRAMES) == KEPT_FRAMES);
    step = "grow";
    MUST(mc_domain_set_target(host, 0, HIGH_AREAS * MC_AREA_FRAMES) == MC_OK);
    until_ns = mc_clock_ns() + WAIT_NS;
    while (ask(line, 't', (uint64_t)most) < most && mc_clock_ns() < until_ns)
        rest();
    MUST(ask(line, 't', (uint64_t)most) == most);
    MUST(ask(line, 'v', 0) == 0);
    MUST(mc_host_validate(host, &where) == MC_OK);
    step = "shrink";
    MUST(ask(line, 'g', KEPT_FRAMES) == KEPT_FRAMES);
    MUST(mc_domain_set_target(host, 0, LOW_AREAS * MC_AREA_FRAMES) == MC_OK);
    MUST(reached(host));
    MUST(mc_domain_size(host, 0) <= LOW_AREAS * MC_AREA_FRAMES);
    MUST(ask(line, 'v', 0) == 0);
    MUST(mc_host_validate(host, &where) == MC_OK);
    step = "leave";
    (void)!write(line, &(struct order){'q', 0}, sizeof(struct order));
    MUST(mc_domain_close(host, 0, 0) == MC_OK);
    until_ns = mc_clock_ns() + WAIT_NS;
    while (!mc_domain_is_gone(host, 0) && mc_clock_ns() < until_ns)
        rest();
    MUST(mc_domain_is_gone(host, 0));
    MUST(host->free_frames == HOST_AREAS * MC_AREA_FRAMES);
    MUST(mc_host_validate(host, &where) == MC_OK);
    return 1;
}

static int try(const struct mc_mechanism *mechanism)
{
    struct mc_host *host = NULL;
    pthread_t service, worker;
    int line[2], lived, ended = 1;
    pid_t child;
    step = "start";
    failure[0] = 0;
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, line) == 0);
    child = fork();                     /* before there is a thread */
    MUST(child >= 0);
    if (!child) {
        close(line[0]);
        _exit(be_guest(line[1]));
    }
    close(line[1]);
    MUST(mc_host_open(&host, HOST_AREAS, SLACK_AREAS, 0, -1) == MC_OK);
    MUST(!pthread_create(&service, NULL, serve, host));
    MUST(!pthread_create(&worker, NULL, work, host));
    while (!(host->service_running && host->worker_running))
        rest();
    lived = live(host, line[0], mechanism);
    close(line[0]);
    waitpid(child, &ended, 0);
    mc_host_stop(host);
    pthread_join(service, NULL);
    pthread_join(worker, NULL);
    mc_host_close(host);
    if (lived)
        MUST(ended == 0);
    return lived;
}

#define ENTRY(id, mechanism) &mc_##mechanism,
int main(void)
{
    static const struct mc_mechanism *const all[] = {MC_MECHANISM_LIST(ENTRY)};
    int failed = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        uint64_t begin_ns = mc_clock_ns();
        int lived = try(all[i]);
        failed |= !lived;
        printf("%s: %s (%lu ms)\n", all[i]->name, lived ? "ok" : failure,
               (unsigned long)((mc_clock_ns() - begin_ns) / 1000000));
        fflush(stdout);
    }
    return failed;
}
