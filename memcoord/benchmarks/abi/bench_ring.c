/* bench_ring.c: see bench_ring.h. */
#include "bench_ring.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#define MESSAGE_BYTES_MAX 64
#define FLAG_LOOKS 4096

void mcb_rest(uint64_t rest_ns)
{
    uint64_t start = mc_clock_ns();
    while (mc_clock_ns() - start < rest_ns)
        sched_yield();
}

int mcb_ring_nop(struct mc_guest *guest, uint64_t *samples, uint32_t count, uint32_t batch,
                 uint64_t rest_ns)
{
    struct mc_record records[MC_RING_SLOTS];
    if (batch < 1 || batch > MC_RING_SLOTS)
        return MC_EINDEX;
    for (uint32_t s = 0; s < count; s++) {
        memset(records, 0, batch * sizeof records[0]);
        mcb_rest(rest_ns);
        uint64_t start = mc_clock_ns();
        int status = mc_guest_call(guest, MC_RING_MEMORY, records, batch);
        samples[s] = mc_clock_ns() - start;
        if (status < 0)
            return status;
    }
    return MC_OK;
}

/* A read here gets a whole message: from an eventfd by nature, from the socket because only one
 * message is in flight. */
static int transfer(int fd, uint8_t *message, uint32_t bytes, int writing)
{
    ssize_t done;
    do
        done = writing ? write(fd, message, bytes) : read(fd, message, bytes);
    while (done < 0 && errno == EINTR);
    if (done == 0)
        return MC_EGONE;
    return done == (ssize_t)bytes ? MC_OK : MC_EKERNEL;
}

int mcb_fd_call(int read_fd, int write_fd, uint32_t bytes, uint64_t *samples, uint32_t count,
                uint64_t rest_ns)
{
    uint8_t message[MESSAGE_BYTES_MAX] = {1}; /* as an eventfd's count: 1 */
    if (bytes < 8 || bytes > MESSAGE_BYTES_MAX)
        return MC_EINDEX;
    for (uint32_t s = 0; s < count; s++) {
        mcb_rest(rest_ns);
        uint64_t start = mc_clock_ns();
        int status = transfer(write_fd, message, bytes, 1);
        if (status == MC_OK)
            status = transfer(read_fd, message, bytes, 0);
        samples[s] = mc_clock_ns() - start;
        if (status < 0)
            return status;
    }
    return MC_OK;
}

int mcb_fd_echo(int read_fd, int write_fd, uint32_t bytes)
{
    uint8_t message[MESSAGE_BYTES_MAX];
    if (bytes < 8 || bytes > MESSAGE_BYTES_MAX)
        return MC_EINDEX;
    for (;;) { /* ends with the last write end of read_fd */
        int status = transfer(read_fd, message, bytes, 0);
        if (status == MC_OK)
            status = transfer(write_fd, message, bytes, 1);
        if (status < 0)
            return status;
    }
}

/* Until the flag has this value: 0, or MC_ETIMEOUT. */
static int flag_await(const uint32_t *flag, uint32_t value)
{
    uint64_t until_ns = mc_clock_ns() + MCB_FLAG_NS_MAX;
    for (uint32_t looks = 1; __atomic_load_n(flag, __ATOMIC_ACQUIRE) != value; looks++) {
        if (looks % FLAG_LOOKS == 0 && mc_clock_ns() > until_ns)
            return MC_ETIMEOUT;
        mc_cpu_relax();
    }
    return MC_OK;
}

int mcb_flag_call(struct mcb_flags *flags, uint64_t *samples, uint32_t count, uint32_t first)
{
    for (uint32_t s = 0; s < count; s++) {
        uint64_t start = mc_clock_ns();
        __atomic_store_n(&flags->call, first + s + 1, __ATOMIC_RELEASE);
        if (flag_await(&flags->answer, first + s + 1))
            return MC_ETIMEOUT;
        samples[s] = mc_clock_ns() - start;
    }
    return MC_OK;
}

int mcb_flag_echo(struct mcb_flags *flags, uint32_t count, uint32_t first)
{
    for (uint32_t s = 0; s < count; s++) {
        if (flag_await(&flags->call, first + s + 1))
            return MC_ETIMEOUT;
        __atomic_store_n(&flags->answer, first + s + 1, __ATOMIC_RELEASE);
    }
    return MC_OK;
}
