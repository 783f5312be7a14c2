/* bench_kernel.h: what the kernel alone needs, without a hypervisor: the limit of every mechanism.
 *
 * Owns:  compiled loops around the kernel's own giving and taking of a file's pages.
 * Rules: in the process of the bench, on the CPU of the backend. Times are nanoseconds.
 */
#ifndef MC_BENCH_KERNEL_H
#define MC_BENCH_KERNEL_H

#include "guest.h"

/* cdef-begin */
/* One file of `bytes`, in pages of `kind` (enum mc_backing_kind), mapped twice as a domain's is:
 * touched through one mapping, mapped through the other, punched in one call. `directory`: of a
 * tmpfs mounted huge=always, or "". 0 or a negative enum mc_status. */
int mcb_kernel_pages(const char *directory, int kind, uint64_t bytes, uint64_t *touch_ns,
                     uint64_t *punch_ns);
/* Take 2 MiB of private memory, touch it, give it back, again and again: zeroing and nothing else.
 * How often. */
int64_t mcb_kernel_zeroes(int kind, uint64_t run_ns);
/* cdef-end */

#endif
