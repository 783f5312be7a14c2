/* bell.c: see bell.h for the order of steps that makes a lost wake-up impossible. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bell.h"

#include "check.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull
#define WAIT_NS_MAX (NS_PER_S * 86400 * 365)    /* longer waits are cut to a year: no overflow */
#define WAKEUPS_MAX 4096                        /* wake-ups without a change of the word */
#define INTERRUPTS_MAX 4096                     /* signals during one eventfd call */
#define CALIBRATE_ROUNDS_MAX 64
#define CALIBRATE_NS_MAX 4000000

uint64_t mc_clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

void mc_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

uint32_t mc_cpu_now(void)
{
    int cpu = sched_getcpu();

    return cpu < 0 ? 0 : (uint32_t)cpu;
}

static void bell_wake(uint32_t *word, uint32_t *waiters)
{
    MC_CHECK((uintptr_t)word % sizeof *word == 0, "a bell at %p", (void *)word);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(waiters, __ATOMIC_RELAXED) != 0)
        syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void mc_bell_ring(uint32_t *word, uint32_t *waiters)
{
    __atomic_fetch_add(word, 1, __ATOMIC_RELEASE);
    bell_wake(word, waiters);
}

void mc_bell_set(uint32_t *word, uint32_t *waiters, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
    bell_wake(word, waiters);
}

/* FUTEX_WAIT_BITSET takes a deadline, so an interrupted sleep goes on for what remains. */
static int bell_sleep(uint32_t *word, uint32_t seen, uint64_t deadline_ns)
{
    struct timespec deadline = {
        .tv_sec = (time_t)(deadline_ns / NS_PER_S),
        .tv_nsec = (long)(deadline_ns % NS_PER_S),
    };

    for (int i = 0; i < WAKEUPS_MAX; i++) {
        if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != seen)
            return MC_OK;
        if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, seen, &deadline, NULL,
                    FUTEX_BITSET_MATCH_ANY) == 0)
            continue;
        if (errno == ETIMEDOUT)
            break;
        if (errno != EAGAIN && errno != EINTR)
            return MC_EKERNEL;
    }
    return __atomic_load_n(word, __ATOMIC_ACQUIRE) != seen ? MC_OK : MC_ETIMEOUT;
}

int mc_bell_wait(uint32_t *word, uint32_t *waiters, uint32_t seen, uint64_t timeout_ns)
{
    uint64_t bounded_ns = timeout_ns < WAIT_NS_MAX ? timeout_ns : WAIT_NS_MAX;
    int status;

    __atomic_fetch_add(waiters, 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    status = bell_sleep(word, seen, mc_clock_ns() + bounded_ns);
    __atomic_fetch_sub(waiters, 1, __ATOMIC_RELAXED);
    return status;
}

int mc_eventfd(int nonblocking)
{
    int fd = eventfd(0, EFD_CLOEXEC | (nonblocking ? EFD_NONBLOCK : 0));

    return fd < 0 ? MC_EKERNEL : fd;
}

int mc_eventfd_ring(int fd)
{
    uint64_t one = 1;

    for (int i = 0; i < INTERRUPTS_MAX; i++) {
        if (write(fd, &one, sizeof one) == (ssize_t)sizeof one)
            return MC_OK;
        if (errno == EAGAIN)
            return MC_OK;           /* the counter is full: the bell rings already */
        if (errno != EINTR)
            break;
    }
    return MC_EKERNEL;
}

/* Two threads that wake each other, as the two ends of a ring do. */
struct pingpong {
    uint32_t ping, ping_waiters, pong, pong_waiters;
    uint64_t deadline_ns;
    uint64_t round_ns;              /* median of the rounds; UINT64_MAX when none ended in time */
};

static uint64_t pingpong_left_ns(const struct pingpong *pair)
{
    uint64_t now_ns = mc_clock_ns();

    return now_ns < pair->deadline_ns ? pair->deadline_ns - now_ns : 0;
}

static void *pingpong_answer(void *argument)
{
    struct pingpong *pair = argument;

    for (uint32_t i = 0; i < CALIBRATE_ROUNDS_MAX; i++) {
        if (mc_bell_wait(&pair->ping, &pair->ping_waiters, i, pingpong_left_ns(pair)) != MC_OK)
            break;
        mc_bell_ring(&pair->pong, &pair->pong_waiters);
    }
    return NULL;
}

static int ns_compare(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

    return (a > b) - (a < b);
}

static void *pingpong_ask(void *argument)
{
    struct pingpong *pair = argument;
    uint64_t rounds_ns[CALIBRATE_ROUNDS_MAX];
    uint32_t done = 0;

    while (done < CALIBRATE_ROUNDS_MAX) {
        uint64_t start_ns = mc_clock_ns();

        mc_bell_ring(&pair->ping, &pair->ping_waiters);
        if (mc_bell_wait(&pair->pong, &pair->pong_waiters, done, pingpong_left_ns(pair)) != MC_OK)
            break;
        rounds_ns[done++] = mc_clock_ns() - start_ns;
    }
    if (done > 0) {
        qsort(rounds_ns, done, sizeof rounds_ns[0], ns_compare);
        pair->round_ns = rounds_ns[done / 2];
    }
    return NULL;
}

/* Start a thread on the first CPU of *allowed, and take that CPU out of the set. 0, or
 * MC_EKERNEL. */
static int pingpong_start(cpu_set_t *allowed, pthread_t *thread, void *(*run)(void *),
                          void *argument)
{
    pthread_attr_t attributes;
    cpu_set_t one;
    size_t cpu = 0;
    int failed;

    while (!CPU_ISSET(cpu, allowed))
        cpu++;
    CPU_CLR(cpu, allowed);
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (pthread_attr_init(&attributes) != 0)
        return MC_EKERNEL;
    failed = pthread_attr_setaffinity_np(&attributes, sizeof one, &one) ||
             pthread_create(thread, &attributes, run, argument);
    pthread_attr_destroy(&attributes);
    return failed ? MC_EKERNEL : MC_OK;
}

uint64_t mc_spin_calibrate_ns(void)
{
    struct pingpong pair = {
        .deadline_ns = mc_clock_ns() + CALIBRATE_NS_MAX,
        .round_ns = UINT64_MAX,
    };
    sigset_t all, before;
    cpu_set_t allowed;
    pthread_t answerer, asker;
    int answering, asking = MC_EKERNEL;

    /* With one CPU the peer cannot run while this side spins. With more, a side spins only while
     * its peer is on another CPU, so that is the wake-up to measure: left alone the scheduler
     * would bring the two threads together. */
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2)
        return 0;
    sigfillset(&all);               /* the threads must not run the host program's handlers */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    answering = pingpong_start(&allowed, &answerer, pingpong_answer, &pair);
    if (answering == MC_OK)
        asking = pingpong_start(&allowed, &asker, pingpong_ask, &pair);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (asking == MC_OK)
        pthread_join(asker, NULL);
    if (answering == MC_OK)
        pthread_join(answerer, NULL);
    if (asking != MC_OK)
        return 0;
    return pair.round_ns / 2 < MC_SPIN_MAX_NS ? pair.round_ns / 2 : MC_SPIN_MAX_NS;
}
