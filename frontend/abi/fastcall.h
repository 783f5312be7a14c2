/* fastcall.h: the guest's allocation as Python calls it, at 20 ns and not at cffi's 90.
 *
 * Owns:  the METH_FASTCALL functions of a domain, and the rule by which Python threads share
 *        guest->slot: a thread uses the slot while it holds the GIL, or without the GIL once it has
 *        set `busy` under the GIL. A thread that finds the slot busy waits without the GIL.
 * Rules: every function bound here stays callable after mc_python_unbind, and then raises
 *        ValueError. Needs Python.h, so guest.c and call.c know nothing of it.
 *
 *   alloc(order=0) -> frame          a free frame of the slot's own row: no lock, GIL kept
 *   free(frame, order=0)             never waits for anything but a busy slot
 *   slot_call(op, a, b, c) -> int    the rest, without the GIL; negative: enum mc_status
 *
 * alloc and free raise by calling on_error(status, frame, order), which must raise.
 */
#ifndef MC_FASTCALL_H
#define MC_FASTCALL_H

#include "guest.h"

/* cdef-begin */
struct mc_binding;

enum mc_slot_op {
    MC_SLOT_ALLOC_MANY = 0,     /* a uint32_t *out, b count; frames given */
    MC_SLOT_FREE_MANY = 1,      /* a const uint32_t *in, b count, c int *status; frames freed */
    MC_SLOT_ALLOC_AREAS = 2,    /* a count; first frame */
    MC_SLOT_FREE_AREAS = 3,     /* a first frame, b count */
    MC_SLOT_RELEASE = 4,        /* a frames; frames given back */
    MC_SLOT_DRAIN = 5,
    MC_SLOT_ALLOC_MOVABLE = 6,  /* handle */
    MC_SLOT_FREE_MOVABLE = 7    /* a handle */
};

/* Append alloc, free and slot_call to the Python list at address `functions` (id(list)); `on_error`
 * is the address of a callable. NULL when out of memory. */
struct mc_binding *mc_python_bind(struct mc_guest *guest, uintptr_t functions, uintptr_t on_error);
/* Wait until no thread is inside, then cut the functions off the guest; 0 or MC_ETIMEOUT. */
int mc_python_unbind(struct mc_binding *binding);
/* cdef-end */

#endif
