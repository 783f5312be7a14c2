/* drv_virtio_mem.c: virtio-mem, the guest half. See virtio_mem.h.
 *
 * As Linux' drivers/virtio/virtio_mem.c in sub-block mode: the driver brings each device to its
 * requested size by itself, in runs of blocks that never cross a memory block of 128 MiB.
 *
 *   plug     from the bottom: first what is missing of memory blocks that are there already, then
 *            new ones. NACK: the configuration is read again. BUSY: half the run, down to a block.
 *   unplug   from the top: first blocks that are wholly free, then those whose frames can be moved
 *            elsewhere (movable.h). A run is offered in one request; should that be refused because
 *            one of its blocks is pinned, block by block.
 * When blocks are left, the step ends with a status (MC_ESTATE in use, MC_EPERM pinned, MC_ENOMEM),
 * and the driver tries again after a delay that doubles from RETRY_MIN_NS to RETRY_MAX_NS (Linux:
 * from 50 to 300 s). After an ERROR, a mistake of this driver, it asks for nothing more, as Linux'.
 */
#include "virtio_mem.h"

#include "driver.h"
#include "movable.h"

#include <stdlib.h>

#define MEMORY_BLOCK_AREAS 64
#define RETRY_MIN_NS 50000000u
#define RETRY_MAX_NS 3000000000u
#define CONFIG_TRIES_MAX 16     /* NACKs in a row */

struct vmem {
    pthread_mutex_t plug_lock;  /* the driver's thread and allocations that found nothing */
    uint64_t gained;            /* atomic: areas plugged so far */
    uint64_t retry_ns;
    uint32_t block_areas;
    uint32_t devices;
    int broken;                 /* atomic */
};

/* A device's configuration, in blocks. */
struct vmem_part {
    uint32_t first, usable, requested, plugged;
};

static struct vmem *vmem_of(struct mc_guest *guest)
{
    return guest->own->device;
}

/* Ask for blocks to be plugged or unplugged: MC_STEP_DONE; MC_STEP_MORE when the configuration must
 * be read again; or the status that says why it was refused. */
static int blocks_ask(struct mc_guest *guest, int op, uint32_t first, uint32_t count)
{
    struct mc_record record = {.op = (uint16_t)op, .arg = {first, count}};
    int64_t answer = mc_ask(guest, &record);
    switch (answer) {
    case MC_VMEM_ACK:
        return MC_STEP_DONE;
    case MC_VMEM_NACK:
        return MC_STEP_MORE;
    case MC_VMEM_BUSY:
        return record.arg[2] == -MC_EPERM ? MC_EPERM : MC_ENOMEM;
    case MC_VMEM_ERROR:
        __atomic_store_n(&vmem_of(guest)->broken, 1, __ATOMIC_RELAXED);
        return MC_EBROKEN;
    default:
        return (int)answer;
    }
}

static int vmem_read_part(struct mc_guest *guest, uint32_t device, struct vmem_part *part)
{
    struct mc_record record = {.op = MC_OP_VMEM_CONFIG, .arg = {device}};
    const struct vmem *vmem = vmem_of(guest);
    int64_t answer = mc_ask(guest, &record);
    uint32_t blocks = guest->frames.area_count / vmem->block_areas;
    if (answer != MC_VMEM_ACK)
        return answer < 0 ? (int)answer : MC_EBROKEN;
    *part = (struct vmem_part){(uint32_t)record.arg[0], (uint32_t)record.arg[1],
                               (uint32_t)record.arg[2], (uint32_t)record.arg[3]};
    return part->first <= blocks && part->usable <= blocks - part->first ? MC_OK : MC_EBROKEN;
}

static int area_is_reclaimed(const struct mc_guest *guest, uint32_t area)
{
    return mc_word(&guest->frames, area).reclaimed;
}

/* A block is plugged when any area of it is the guest's. */
static int block_is_plugged(struct mc_guest *guest, uint32_t block)
{
    uint32_t first = block * vmem_of(guest)->block_areas;
    for (uint32_t area = first; area < first + vmem_of(guest)->block_areas; area++)
        if (!area_is_reclaimed(guest, area))
            return 1;
    return 0;
}

/* A block that is plugged, and of which no frame is used. */
static int block_is_free(struct mc_guest *guest, uint32_t block)
{
    uint32_t areas = vmem_of(guest)->block_areas;
    return mc_all_free(guest, block * areas, areas);
}

static int vmem_bell_rang(struct mc_guest *guest, uint32_t seen)
{
    return atomic_load(&guest->control->config_bell) != seen;
}

/* ---- plug ---- */

/* Plug up to `count` blocks from `first` on. Returns how many came, or a status when none did. */
static int64_t blocks_plug(struct mc_guest *guest, uint32_t first, uint32_t count)
{
    struct vmem *vmem = vmem_of(guest);
    int status = MC_STEP_MORE;
    pthread_mutex_lock(&vmem->plug_lock);
    for (uint32_t block = first; block < first + count; block++)
        if (block_is_plugged(guest, block))       /* by another thread meanwhile */
            count = block - first;
    for (; count; count /= 2) {
        status = blocks_ask(guest, MC_OP_VMEM_PLUG, first, count);
        if (status != MC_ENOMEM)
            break;
    }
    pthread_mutex_unlock(&vmem->plug_lock);
    if (status != MC_STEP_DONE)
        return status == MC_STEP_MORE ? 0 : status;
    __atomic_fetch_add(&vmem->gained, (uint64_t)count * vmem->block_areas, __ATOMIC_RELAXED);
    return count;
}

/* How many blocks from `first` on are all plugged, or all not. */
static uint32_t blocks_alike(struct mc_guest *guest, uint32_t first, uint32_t end, int plugged)
{
    uint32_t block = first;
    while (block < end && block_is_plugged(guest, block) == plugged)
        block++;
    return block - first;
}

/* Plug in one memory block; *missing falls by the blocks that were plugged. */
static int memory_block_plug(struct mc_guest *guest, uint32_t first, uint32_t end,
                             uint32_t *missing)
{
    for (uint32_t block = first, run; block < end && *missing; block += run) {
        run = blocks_alike(guest, block, end, 0);
        run = run < *missing ? run : *missing;
        if (!run) {
            run = blocks_alike(guest, block, end, 1);
            continue;
        }
        int64_t plugged = blocks_plug(guest, block, run);
        if (plugged <= 0)
            return plugged ? (int)plugged : MC_STEP_MORE;
        run = (uint32_t)plugged;
        *missing -= run;
    }
    return MC_STEP_DONE;
}

static int vmem_plug(struct mc_guest *guest, const struct vmem_part *part, uint32_t missing,
                     uint32_t seen)
{
    uint32_t blocks = MEMORY_BLOCK_AREAS / vmem_of(guest)->block_areas;
    uint32_t end = part->first + part->usable;
    int status = MC_STEP_DONE;
    for (int fresh = 0; fresh <= 1; fresh++)
        for (uint32_t first = part->first, next; first < end; first = next) {
            next = (first / blocks + 1) * blocks;
            next = next < end ? next : end;
            if (!fresh && blocks_alike(guest, first, next, 0) == next - first)
                continue;
            status = memory_block_plug(guest, first, next, &missing);
            if (status != MC_STEP_DONE || !missing)
                return status;
            if (vmem_bell_rang(guest, seen))
                return MC_STEP_MORE;
        }
    return MC_ENOMEM;
}

/* ---- unplug ---- */

struct vmem_unplugging {
    struct mc_guest *guest;
    uint32_t surplus;           /* blocks still to go */
    uint32_t first;             /* the run that was claimed and not offered yet */
    uint32_t count;
    int status;                 /* why blocks stayed */
};

static void blocks_online(struct mc_guest *guest, uint32_t first_area, uint32_t end_area)
{
    for (uint32_t area = first_area; area < end_area; area++)
        mc_online(guest, area);
}

/* Take a block out of use: isolate, empty and claim it; 1, or 0 and the block is as it was. */
static int block_take(struct mc_guest *guest, uint32_t block)
{
    uint32_t first = block * vmem_of(guest)->block_areas, area;
    uint32_t end = first + vmem_of(guest)->block_areas;
    int status = MC_OK;
    for (area = first; area < end && !status; area++)
        if (!area_is_reclaimed(guest, area))
            status = mc_isolate(guest, area);
    if (status) {               /* another thread holds the last one */
        blocks_online(guest, first, area - 1);
        return 0;
    }
    for (area = first; area < end && !status; area++)
        if (!area_is_reclaimed(guest, area))
            status = mc_migrate(guest, area);
    for (area = first; area < end && !status; area++)
        if (!area_is_reclaimed(guest, area))
            status = mc_claim_area(guest, area);
    if (status)
        blocks_online(guest, first, end);
    return !status;
}

static void blocks_offer(struct vmem_unplugging *work, uint32_t first, uint32_t count)
{
    uint32_t areas = vmem_of(work->guest)->block_areas;
    int status = blocks_ask(work->guest, MC_OP_VMEM_UNPLUG, first, count);
    if (status == MC_STEP_DONE) {
        work->surplus -= count;
    } else if (status == MC_EPERM && count > 1) {
        for (uint32_t block = first; block < first + count; block++)
            blocks_offer(work, block, 1);
    } else {
        work->status = status;
        blocks_online(work->guest, first * areas, (first + count) * areas);
    }
}

static void blocks_flush(struct vmem_unplugging *work)
{
    if (work->count)
        blocks_offer(work, work->first, work->count);
    work->count = 0;
}

/* Unplug blocks of a device from the top: any, or those only that are free. */
static int vmem_sweep(struct vmem_unplugging *work, const struct vmem_part *part, int any,
                      uint32_t seen)
{
    struct mc_guest *guest = work->guest;
    uint32_t most = MEMORY_BLOCK_AREAS / vmem_of(guest)->block_areas;
    for (uint32_t block = part->first + part->usable; block-- > part->first;) {
        if ((any ? block_is_plugged(guest, block) : block_is_free(guest, block)) &&
            block_take(guest, block)) {
            work->first = block;
            work->count++;
        } else {
            blocks_flush(work);
        }
        if (block % most == 0 || work->count == work->surplus)
            blocks_flush(work);
        if (!work->surplus || (work->status != MC_ESTATE && work->status != MC_EPERM))
            break;
        if (vmem_bell_rang(guest, seen)) {
            blocks_flush(work);
            return MC_STEP_MORE;
        }
    }
    blocks_flush(work);
    return work->surplus ? work->status : MC_STEP_DONE;
}

static int vmem_unplug(struct mc_guest *guest, const struct vmem_part *part, uint32_t surplus,
                       uint32_t seen)
{
    struct vmem_unplugging work = {.guest = guest, .surplus = surplus, .status = MC_ESTATE};
    int status = vmem_sweep(&work, part, 0, seen);
    return status == MC_ESTATE || status == MC_EPERM ? vmem_sweep(&work, part, 1, seen) : status;
}

/* ---- the driver ---- */

static int vmem_converge(struct mc_guest *guest, uint32_t device, uint32_t seen)
{
    struct vmem_part part;
    int status = MC_STEP_MORE;
    for (int i = 0; i < CONFIG_TRIES_MAX && status == MC_STEP_MORE; i++) {
        if (vmem_bell_rang(guest, seen))
            return MC_STEP_MORE;
        status = vmem_read_part(guest, device, &part);
        if (status != MC_OK)
            return status;
        if (part.plugged < part.requested)
            status = vmem_plug(guest, &part, part.requested - part.plugged, seen);
        else if (part.plugged > part.requested)
            status = vmem_unplug(guest, &part, part.plugged - part.requested, seen);
    }
    return status;
}

static int vmem_step(struct mc_guest *guest, uint64_t now_ns, uint64_t *next_ns)
{
    struct vmem *vmem = vmem_of(guest);
    uint32_t seen = atomic_load(&guest->control->config_bell);
    int result = MC_STEP_DONE;
    for (uint32_t device = 0; device < vmem->devices; device++) {
        if (__atomic_load_n(&vmem->broken, __ATOMIC_RELAXED))
            return MC_EBROKEN;
        int status = vmem_converge(guest, device, seen);
        if (status == MC_STEP_MORE) {
            *next_ns = now_ns;
            return MC_STEP_MORE;
        }
        result = status < 0 ? status : result;
    }
    if (result == MC_STEP_DONE) {
        vmem->retry_ns = RETRY_MIN_NS;
        return result;
    }
    *next_ns = mc_clock_ns() + vmem->retry_ns;
    vmem->retry_ns = 2 * vmem->retry_ns < RETRY_MAX_NS ? 2 * vmem->retry_ns : RETRY_MAX_NS;
    return result;
}

/* Plug up to `wanted` of the blocks that one device is requested to have and has not. */
static int vmem_more_of(struct mc_guest *guest, uint32_t device, uint32_t wanted)
{
    int status = MC_STEP_MORE;
    for (int i = 0; i < CONFIG_TRIES_MAX && status == MC_STEP_MORE; i++) {
        uint32_t seen = atomic_load(&guest->control->config_bell), missing;
        struct vmem_part part;
        status = vmem_read_part(guest, device, &part);
        if (status != MC_OK)
            return status;
        if (part.plugged >= part.requested)
            return MC_ETARGET;
        missing = part.requested - part.plugged;
        status = vmem_plug(guest, &part, missing < wanted ? missing : wanted, seen);
    }
    return status;
}

/* An allocation plugs by itself. Blocks that the driver's thread plugs meanwhile count too. */
static int64_t vmem_more(struct mc_guest *guest, uint32_t areas, int *path)
{
    struct vmem *vmem = vmem_of(guest);
    uint64_t before = __atomic_load_n(&vmem->gained, __ATOMIC_RELAXED), gained;
    uint32_t wanted = (areas + vmem->block_areas - 1) / vmem->block_areas;
    int status = MC_ETARGET;
    *path = MC_PATH_RING;
    for (uint32_t device = 0; device < vmem->devices && status != MC_STEP_DONE; device++)
        status = vmem_more_of(guest, device, wanted);
    gained = __atomic_load_n(&vmem->gained, __ATOMIC_RELAXED) - before;
    return gained ? (int64_t)gained : status < 0 ? status : MC_ENOMEM;
}

/* The guest has made room: the driver's thread need not wait for the end of its delay. */
static int64_t vmem_release(struct mc_guest *guest, uint32_t areas)
{
    uint32_t blocks = guest->frames.area_count / vmem_of(guest)->block_areas, block = 0;
    (void)areas;
    while (block < blocks && !block_is_free(guest, block))
        block++;
    if (block < blocks)
        mc_driver_kick(guest);
    return 0;                   /* the driver's thread gives it */
}

static int vmem_open(struct mc_guest *guest)
{
    struct vmem *vmem = calloc(1, sizeof *vmem);
    uint64_t areas = __atomic_load_n(&guest->control->config[MC_VMEM_BLOCK_AREAS],
                                     __ATOMIC_RELAXED);
    uint64_t devices = __atomic_load_n(&guest->control->config[MC_VMEM_DEVICES], __ATOMIC_RELAXED);
    guest->own->device = vmem;
    if (vmem == NULL)
        return MC_ENOMEM;
    pthread_mutex_init(&vmem->plug_lock, NULL);
    if (!areas || areas > MEMORY_BLOCK_AREAS || areas > guest->frames.area_count ||
        devices > MC_VMEM_DEVICES_MAX)
        return MC_ELAYOUT;
    vmem->block_areas = (uint32_t)areas;
    vmem->devices = (uint32_t)devices;
    vmem->retry_ns = RETRY_MIN_NS;
    return MC_OK;
}

static void vmem_close(struct mc_guest *guest)
{
    if (vmem_of(guest) == NULL)
        return;
    pthread_mutex_destroy(&vmem_of(guest)->plug_lock);
    free(vmem_of(guest));
    guest->own->device = NULL;
}

const struct mc_driver mc_drv_virtio_mem = {
    .name = "virtio-mem", .id = MC_VIRTIO_MEM, .open = vmem_open, .close = vmem_close,
    .step = vmem_step, .more = vmem_more, .release = vmem_release,
};
