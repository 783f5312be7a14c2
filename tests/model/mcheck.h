/* mcheck.h: a model checker for C with atomics. It runs the product's own sources, unchanged.
 *
 * Owns:  the scheduler of the checked threads, what each thread has stored and not shown yet, and
 *        the enumeration of every choice.
 * How:   the build includes this header by force in front of each checked source, so that every
 *        atomic access, futex call and fence calls the checker. The checked threads are coroutines
 *        of one process. Every such call is a point at which another thread may go on. The checker
 *        runs one execution after the other, and takes another choice each time, depth first,
 *        until all were taken. When half of a bound of executions is spent before, the other half
 *        takes choices by chance, from a fixed seed: depth first alone would only ever change the
 *        ends of executions. Nothing depends on time, so a result can be had again.
 *
 * Three memory models, weakest last:
 *   MCK_SC    every store is seen by all at once.
 *   MCK_TSO   x86: a store waits in a queue of its thread, which shows stores in their order, at
 *             any later time. An atomic read-modify-write and a full fence show all of them first.
 *   MCK_WEAK  stores are shown in any order, but a release store only after those before it; an
 *             atomic addition that is not an acquire may wait in the queue as a store does.
 *
 * A switch away from a thread that could go on counts as a preemption, and an execution has at
 * most mck_preemptions_max of them. Other switches, and showing stores, are free.
 *
 * Not modelled: loads that are delayed past later loads, plain accesses (they are
 * immediate, and only memcpy is a point at which another thread may go on),
 * compare-and-swap that fails for no reason, timeouts, and the death of a thread.
 */
#ifndef MCHECK_H
#define MCHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum mck_model { MCK_SC, MCK_TSO, MCK_WEAK };
enum mck_op { MCK_ADD, MCK_SUB, MCK_AND, MCK_OR, MCK_SWAP };

/* ---- for a program that checks something ---- */

#define MCK_THREADS_MAX 4

extern enum mck_model mck_model;
extern int mck_preemptions_max;
extern int mck_more;               /* of the command line: preemptions to add */

/* A thread of the next execution; `setup` calls it, at most MCK_THREADS_MAX times. */
void mck_spawn(void (*run)(void *), void *argument);
/* A promise of the checked code; a broken one ends the exploration. */
void mck_assert(int holds, const char *what);
/* Sleep until *flag is set, and clear it: an edge-triggered epoll. mck_wake sets it. */
void mck_block(int *flag);
void mck_wake(int *flag);
/* Run `setup`, the threads, `final`, for every choice, at most executions_max times. Prints one
 * line of JSON, whose verdict is "complete", "bounded" or "failed"; returns 1 unless it failed. */
int mck_explore(void (*setup)(void), void (*final)(void), uint64_t executions_max,
                const char *name);
/* Read the command line "MODEL EXECUTIONS_MAX [MORE]" of a checking program: sc, tso or weak goes
 * to mck_model, the last to mck_more. Returns EXECUTIONS_MAX; exits with 2 when something is wrong.
 */
uint64_t mck_arguments(int argc, char **argv);

/* ---- what the atomic operations of the checked sources become ---- */

uint64_t mck_load(void *address, int size);
void mck_store(void *address, uint64_t value, int size, int order);
uint64_t mck_change(void *address, uint64_t value, int size, enum mck_op op, int order);
int mck_exchange(void *address, void *seen, uint64_t value, int size, int order);
void mck_fence(int order);
void *mck_copy(void *to, const void *from, size_t bytes);
long mck_futex(uint32_t *word, int op, uint32_t value);

#define MCK_TYPE(p) __typeof__(*(p) + 0)
#define MCK_AT(p) ((void *)(uintptr_t)(p))
#define MCK_LOAD(p) ((MCK_TYPE(p))mck_load(MCK_AT(p), sizeof *(p)))
#define MCK_STORE(p, v, o) mck_store(MCK_AT(p), (uint64_t)(v), sizeof *(p), o)
#define MCK_CHANGE(p, v, op, o) \
    ((MCK_TYPE(p))mck_change(MCK_AT(p), (uint64_t)(v), sizeof *(p), op, o))
#define MCK_CAS(p, s, v, o) mck_exchange(MCK_AT(p), s, (uint64_t)(v), sizeof *(p), o)

#undef atomic_load_explicit
#undef atomic_load
#undef atomic_store_explicit
#undef atomic_store
#undef atomic_fetch_add_explicit
#undef atomic_fetch_add
#undef atomic_fetch_sub
#undef atomic_compare_exchange_weak_explicit
#undef atomic_compare_exchange_strong
#undef atomic_thread_fence
#undef atomic_signal_fence
#define atomic_load_explicit(p, o) MCK_LOAD(p)
#define atomic_load(p) MCK_LOAD(p)
#define atomic_store_explicit(p, v, o) MCK_STORE(p, v, o)
#define atomic_store(p, v) MCK_STORE(p, v, __ATOMIC_SEQ_CST)
#define atomic_fetch_add_explicit(p, v, o) MCK_CHANGE(p, v, MCK_ADD, o)
#define atomic_fetch_add(p, v) MCK_CHANGE(p, v, MCK_ADD, __ATOMIC_SEQ_CST)
#define atomic_fetch_sub(p, v) MCK_CHANGE(p, v, MCK_SUB, __ATOMIC_SEQ_CST)
#define atomic_compare_exchange_weak_explicit(p, s, v, o, failed) MCK_CAS(p, s, v, o)
#define atomic_compare_exchange_strong(p, s, v) MCK_CAS(p, s, v, __ATOMIC_SEQ_CST)
#define atomic_thread_fence(o) mck_fence(o)
#define atomic_signal_fence(o) __asm__ volatile("" ::: "memory")
#define __atomic_load_n(p, o) MCK_LOAD(p)
#define __atomic_store_n(p, v, o) MCK_STORE(p, v, o)
#define __atomic_fetch_add(p, v, o) MCK_CHANGE(p, v, MCK_ADD, o)
#define __atomic_fetch_sub(p, v, o) MCK_CHANGE(p, v, MCK_SUB, o)
#define __atomic_fetch_and(p, v, o) MCK_CHANGE(p, v, MCK_AND, o)
#define __atomic_fetch_or(p, v, o) MCK_CHANGE(p, v, MCK_OR, o)
#define __atomic_exchange_n(p, v, o) MCK_CHANGE(p, v, MCK_SWAP, o)
#define __atomic_compare_exchange_n(p, s, v, weak, o, failed) MCK_CAS(p, s, v, o)
#define __atomic_thread_fence(o) mck_fence(o)
/* What memcpy copies may be a slot that the other side writes: another thread may go on before. */
#define memcpy(to, from, bytes) mck_copy(to, from, bytes)
#define syscall(number, word, op, value, ...) \
    mck_futex((uint32_t *)(word), (int)(op), (uint32_t)(value))

#endif
