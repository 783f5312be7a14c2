/* bell.h: doorbells that sleep, and how long to spin before using them.
 *
 * To the hypervisor: an eventfd per domain. The hypervisor waits on all of them by one epoll,
 * edge-triggered, and never reads or writes them. So a guest cannot block the hypervisor or silence
 * another domain by anything it does to its own fd.
 * To the guest: a futex word in its control page (guest_bell, credit_bell). FUTEX_WAKE cannot
 * block, whatever the guest wrote there. A write to an eventfd could: the guest shares the flags of
 * the eventfd and could clear O_NONBLOCK.
 *
 * Waiting on a word:
 *   1. seen = the word. 2. look for work; if there is some, done.
 *   3. spin and look again for at most spin_ns (zero when both ends run on one CPU).
 *   4. waiters + 1, full fence, look once more, FUTEX_WAIT(word, seen), waiters - 1.
 * Ringing: word + 1 (release), full fence, FUTEX_WAKE only if waiters is not zero. A waiter that is
 * killed in its sleep leaves waiters too high. Then each later ring costs a system call, no more.
 */
#ifndef MC_BELL_H
#define MC_BELL_H

#include "layout.h"

/* cdef-begin */
#define MC_SPIN_MAX_NS 20000

uint64_t mc_clock_ns(void);
void mc_cpu_relax(void);
uint32_t mc_cpu_now(void);
/* The time, in ns, that one wake-up of another CPU takes here, measured now between two threads in
 * at most 5 ms. Never above MC_SPIN_MAX_NS, and 0 when this process may use one CPU only. */
uint64_t mc_spin_calibrate_ns(void);

void mc_bell_ring(uint32_t *word, uint32_t *waiters);
/* As mc_bell_ring, but the word becomes `value`, which the caller counts in private memory, because
 * the peer can write the word. */
void mc_bell_set(uint32_t *word, uint32_t *waiters, uint32_t value);
/* Sleep until the word differs from `seen`, or timeout_ns passes. 0; MC_ETIMEOUT; MC_EKERNEL when
 * the kernel refuses the word, which is misaligned. A signal neither ends nor prolongs the
 * sleep. */
int mc_bell_wait(uint32_t *word, uint32_t *waiters, uint32_t seen, uint64_t timeout_ns);

/* A new eventfd, closed on exec, or MC_EKERNEL. */
int mc_eventfd(int nonblocking);
/* 0, also when the counter is full (the bell is rung already); or MC_EKERNEL. */
int mc_eventfd_ring(int fd);
/* cdef-end */

#endif
