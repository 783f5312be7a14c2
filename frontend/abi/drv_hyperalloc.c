/* drv_hyperalloc.c: the guest half of `hyperalloc` (hyperalloc.h): drops page cache when asked.
 *
 * mc_prepare (mapping.c) installs: an allocation that got an evicted area asks INSTALL before it
 * returns. The hypervisor does all else by itself; this domain need not even run.
 */
#include "driver.h"

#include "hyperalloc.h"

static int hyperalloc_step(struct mc_guest *guest, uint64_t now_ns, uint64_t *next_ns)
{
    uint64_t wanted = __atomic_load_n(&guest->control->config[MC_HYPERALLOC_DROP],
                                      __ATOMIC_ACQUIRE);
    struct mc_record record = {.op = MC_OP_CACHE_DROPPED};
    int64_t status;

    (void)now_ns, (void)next_ns;
    if (wanted == guest->own->dropped)
        return MC_STEP_DONE;
    record.arg[0] = wanted;
    record.arg[1] = mc_guest_drop_cache(guest, wanted - guest->own->dropped);
    guest->own->dropped = wanted;
    mc_guest_drain(guest);      /* frames that a slot holds keep their area from being whole */
    status = mc_ask(guest, &record);
    return status < 0 ? (int)status : MC_STEP_DONE;
}

const struct mc_driver mc_drv_hyperalloc = {
    .name = "hyperalloc",
    .id = MC_HYPERALLOC,
    .populated = 1,
    .step = hyperalloc_step,
    .release = mc_ask_release,
};
