/* bench_orchestra.c: see bench_orchestra.h. */
#include "bench_orchestra.h"

#include <poll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

typedef int (*set_target_fn)(void *host, uint32_t domid, uint64_t frames);
typedef int (*reach_fn)(void *host, uint32_t domid, int *reach, int *why);

static int orchestra_is_stopping(const struct mcb_orchestra *orchestra)
{
    return __atomic_load_n(&orchestra->stop, __ATOMIC_ACQUIRE) != 0;
}

/* Wait until the donor is at its target, or as near as it comes: 0, or a status. */
static int orchestra_await_donor(const struct mcb_orchestra *orchestra)
{
    const struct timespec rest = {.tv_nsec = MCB_REACH_POLL_NS};
    reach_fn ask = (reach_fn)(uintptr_t)orchestra->reach;
    uint64_t until_ns = mc_clock_ns() + MCB_REACH_NS_MAX;
    int reach = MCB_REACH_MOVING, why = 0, status = MC_OK;
    while (!orchestra_is_stopping(orchestra)) {
        status = ask(orchestra->host, orchestra->donor, &reach, &why);
        if (status < 0 || reach != MCB_REACH_MOVING)
            return status;
        if (mc_clock_ns() > until_ns)
            return MC_ETIMEOUT;
        nanosleep(&rest, NULL);
    }
    return status;
}

static int orchestra_answer(struct mcb_orchestra *orchestra)
{
    set_target_fn set = (set_target_fn)(uintptr_t)orchestra->set_target;
    int status;
    if (orchestra->donor_frames < orchestra->step_frames)
        return MC_ENOMEM;
    orchestra->donor_frames -= orchestra->step_frames;
    orchestra->asker_frames += orchestra->step_frames;
    status = set(orchestra->host, orchestra->donor, orchestra->donor_frames);
    if (status >= 0)
        status = orchestra_await_donor(orchestra);
    if (status >= 0)
        status = set(orchestra->host, orchestra->asker, orchestra->asker_frames);
    orchestra->answered += status >= 0;
    return status;
}

int mcb_orchestrate(struct mcb_orchestra *orchestra)
{
    struct pollfd plea = {.fd = orchestra->plea_fd, .events = POLLIN};
    int status = MC_OK;
    prctl(PR_SET_TIMERSLACK, 1ul);      /* or each rest would last 50 us longer */
    while (!orchestra_is_stopping(orchestra) && status >= 0) {
        uint64_t rung;
        if (poll(&plea, 1, MCB_PLEA_POLL_MS) > 0 &&
            read(orchestra->plea_fd, &rung, sizeof rung) == sizeof rung)
            status = orchestra_answer(orchestra);
    }
    prctl(PR_SET_TIMERSLACK, 0ul);
    return status < 0 ? status : MC_OK;
}
