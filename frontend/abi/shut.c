/* shut.c: what becomes of a guest whose domain the hypervisor has closed. See guest.h. */
#include "guest_private.h"

#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SHUT_LOOKS 10           /* during MC_NOTICE_NS, whether the program closes the guest */

/* Only when that does not block: mc_guest_close waits for this thread. */
static void shut_tell(uint32_t domid)
{
    struct pollfd errors = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&errors, 1, 0) == 1 && errors.revents & POLLOUT)
        dprintf(STDERR_FILENO,
                "memcoord: domain %u was closed by the hypervisor; its memory is gone,"
                " and touching that memory ends the process\n", domid);
}

int mc_guest_shut(struct mc_guest *guest)
{
    struct mc_guest_private *own = guest->own;
    struct mc_control *control = guest->control;
    const struct timespec notice = {.tv_nsec = MC_NOTICE_NS / SHUT_LOOKS};
    if (atomic_load(&control->state) != MC_STATE_CLOSED ||
        atomic_load(&control->boots) != own->boots)
        return 0;
    for (int i = 0; i < SHUT_LOOKS && !mc_guest_is_stopping(guest); i++)
        nanosleep(&notice, NULL);
    pthread_mutex_lock(&own->claim_lock);
    /* A guest that is being closed has put other memory there, or unmaps it. */
    if (!own->kept_ram && !mc_guest_is_stopping(guest) && !own->shut) {
        own->shut = 1;
        shut_tell(guest->control->domid);
        mprotect(guest->ram, own->ram_bytes, PROT_NONE);
        atomic_store(&control->let_go, 1);
    }
    pthread_mutex_unlock(&own->claim_lock);
    return 1;
}
