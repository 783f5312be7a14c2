/* bell.h: doorbells that sleep, and how long to spin before using them.
 *
 * To the hypervisor: an eventfd per domain. The hypervisor waits on all of them by one epoll,
 * edge-triggered, and never reads or writes them, so nothing a guest does to its own fd can block
 * the hypervisor or silence another domain.
 * To the guest: a futex word in its control page (guest_bell, credit_bell). FUTEX_WAKE cannot block
 * whatever the guest wrote there. (An eventfd would: its flags are shared with the guest, which
 * could make a write by the hypervisor block.)
 *
 * Waiting on a word:
 *   1. seen = the word. 2. look for work; if there is some, done.
 *   3. spin at most spin_ns, looking again (zero when both ends run on one CPU).
 *   4. waiters + 1, full fence, look once more, FUTEX_WAIT(word, seen), waiters - 1.
 * Ringing: word + 1 (release), full fence, FUTEX_WAKE only if waiters is not zero. A waiter that is
 * killed in its sleep leaves waiters too high: later rings cost a system call each, no more.
 */
#ifndef MC_BELL_H
#define MC_BELL_H

#include "layout.h"

/* cdef-begin */
#define MC_SPIN_MAX_NS 20000

uint64_t mc_clock_ns(void);
void mc_cpu_relax(void);
uint32_t mc_cpu_now(void);
/* How long one wake-up of another CPU costs here, measured now between two threads in at most 5 ms;
 * never above MC_SPIN_MAX_NS, and 0 when this process may use one CPU only. */
uint64_t mc_spin_calibrate_ns(void);

void mc_bell_ring(uint32_t *word, uint32_t *waiters);
/* As mc_bell_ring, for a word whose value the ringer keeps elsewhere: the peer may spoil it. */
void mc_bell_set(uint32_t *word, uint32_t *waiters, uint32_t value);
/* Sleep until the word differs from seen, or timeout_ns passes. 0, or MC_ETIMEOUT; MC_EKERNEL when
 * the kernel refuses the word (misaligned). Signals neither end nor prolong the sleep. */
int mc_bell_wait(uint32_t *word, uint32_t *waiters, uint32_t seen, uint64_t timeout_ns);

/* eventfd, close-on-exec, blocking as given. Each returns >= 0 or MC_EKERNEL. A ring of a full
 * counter is a success. wait: 1 when rung since the last wait, 0 when not (nonblocking only). */
int mc_eventfd(int nonblocking);
int mc_eventfd_ring(int fd);
int mc_eventfd_wait(int fd);
/* cdef-end */

#endif
