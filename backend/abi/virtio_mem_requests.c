/* virtio_mem_requests.c: what a guest may ask of its virtio-mem devices. See virtio_mem.h.
 *
 *   PLUG        all blocks of the range or none, charged to the device's bank, without pages (as
 *               QEMU without prealloc). Never beyond the requested size. When areas of it are being
 *               punched, or memory for it is, the worker answers when they are done.
 *   UNPLUG      the words are swapped at once, the worker punches, neighbours in one call.
 *
 * Every word of a request is checked against the bitmap and the ledger; an ERROR is a bad request.
 */
#include "virtio_mem_device.h"

#include <string.h>

int mc_vmem_is_plugged(const struct mc_vmem *device, uint32_t block)
{
    return device->plugged[block / 64] >> block % 64 & 1;
}

/* What the states of its areas say. */
int mc_vmem_has_installed(const struct mc_domain *domain, uint32_t block)
{
    const struct mc_vmem *device = domain->device;
    uint32_t first = block * device->block_areas;

    for (uint32_t area = first; area < first + device->block_areas; area++)
        if (domain->states[area] == MC_A_INSTALLED)
            return 1;
    return 0;
}

void mc_vmem_note_blocks(const struct mc_domain *domain, struct mc_vmem_region *region,
                         uint32_t first, uint32_t count)
{
    struct mc_vmem *device = domain->device;

    for (uint32_t block = first; block < first + count; block++) {
        int now = mc_vmem_has_installed(domain, block), was = mc_vmem_is_plugged(device, block);

        device->plugged[block / 64] ^= (uint64_t)(now ^ was) << block % 64;
        region->plugged += (uint32_t)(now - was);
    }
}

/* The region whose usable part has all of the range, or NULL. */
static struct mc_vmem_region *region_of(struct mc_vmem *device, const struct mc_record *record)
{
    uint64_t first = record->arg[0], count = record->arg[1];

    for (uint32_t i = 0; i < device->region_count; i++) {
        struct mc_vmem_region *region = &device->regions[i];

        if (first >= region->first && first - region->first < region->usable)
            return count && count <= region->usable - (first - region->first) ? region : NULL;
    }
    return NULL;
}

uint32_t mc_vmem_count_plugged(const struct mc_vmem *device, uint32_t first, uint32_t count)
{
    uint32_t plugged = 0;

    for (uint32_t block = first; block < first + count; block++)
        plugged += (uint32_t)mc_vmem_is_plugged(device, block);
    return plugged;
}

static int64_t error(struct mc_domain *domain)
{
    mc_count_bad(domain);
    return MC_VMEM_ERROR;
}

static int64_t busy(struct mc_domain *domain, struct mc_record *record, int why)
{
    record->arg[2] = (uint64_t)-why;
    domain->counters.refused += why == MC_ENOMEM;
    return MC_VMEM_BUSY;
}

/* ---- plug ---- */

static int host_has(const struct mc_host *host, uint64_t frames, uint64_t coming_frames)
{
    return host->free_frames + coming_frames >=
           host->slack_frames + host->promised_frames + frames;
}

static int may_charge(const struct mc_host *host, struct mc_vmem_region *region, uint64_t frames)
{
    int has = host_has(host, frames, 0);

    region->short_of_bank = has && region->bank != MC_NO_BANK &&
                            host->banks[region->bank].free_frames < frames;
    return has && !region->short_of_bank;
}

/* Take what is missing, and not on its way, from whoever can spare it. */
static void gather(struct mc_host *host, const struct mc_domain *domain, uint32_t areas)
{
    uint64_t frames = (uint64_t)areas * MC_AREA_FRAMES;

    for (uint32_t i = 0; i < areas && !host_has(host, frames, host->transit_frames); i++)
        if (!mc_supply_tmem_give(host) && !mc_supply_take_from_donor(host, domain))
            break;
}

/* 1 when no area of the range has anything of an earlier holder in it. */
static int is_clean(const struct mc_domain *domain, uint32_t first, uint32_t end)
{
    for (uint32_t area = first; area < end; area++)
        if (domain->states[area] != MC_A_HARD)
            return 0;
    return 1;
}

int mc_vmem_plug_areas(struct mc_host *host, struct mc_domain *domain, uint32_t bank,
                       uint32_t first, uint32_t end)
{
    int status = MC_OK;

    for (uint32_t area = first; area < end && !status; area++) {
        if (domain->states[area] == MC_A_INSTALLED)
            continue;
        domain->banks[area] = bank == MC_NO_BANK ? domain->banks[area] : (uint8_t)bank;
        status = mc_plug_found(host, domain, area);    /* the caller has seen to it */
    }
    return status;
}

static int keep(struct mc_host *host, struct mc_vmem *device, const struct mc_record *record)
{
    if (device->kept_count == MC_RING_SLOTS)
        return 0;
    device->kept[device->kept_count++] = *record;
    mc_work(host);
    return 1;
}

static int64_t plug(struct mc_host *host, struct mc_domain *domain, struct mc_record *record,
                    int may_wait)
{
    struct mc_vmem *device = domain->device;
    struct mc_vmem_region *region = region_of(device, record);
    uint32_t block = (uint32_t)record->arg[0], count = (uint32_t)record->arg[1], first, end;
    int status;

    if (!region)
        return error(domain);
    if (region->plugged + count > region->requested)
        return MC_VMEM_NACK;
    if (mc_vmem_count_plugged(device, block, count))
        return error(domain);
    first = block * device->block_areas;
    end = first + count * device->block_areas;
    if (first < device->clean_end && device->clean_first < end)
        return busy(domain, record, MC_ENOMEM);
    if (may_wait)
        gather(host, domain, end - first);
    if (!is_clean(domain, first, end) || !may_charge(host, region, (uint64_t)(end - first) *
                                                                       MC_AREA_FRAMES)) {
        if (may_wait && host->transit_frames && keep(host, device, record))
            return MC_LATER;
        return busy(domain, record, MC_ENOMEM);
    }
    status = mc_vmem_plug_areas(host, domain, region->bank, first, end);
    mc_vmem_note_blocks(domain, region, block, count);
    return !status ? MC_VMEM_ACK
                   : status == MC_ENOMEM ? busy(domain, record, status) : error(domain);
}

/* Worker: everything that was due has been punched. */
int mc_vmem_serve_kept(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_vmem *device = domain->device;
    struct mc_record record;

    if (!device->kept_count)
        return 0;
    record = device->kept[0];
    memmove(device->kept, device->kept + 1, --device->kept_count * sizeof *device->kept);
    record.status = plug(host, domain, &record, 0);
    mc_answer(host, domain, &record);
    return 1;
}

/* ---- unplug ---- */

static int is_claimed(const struct mc_domain *domain, uint32_t area)
{
    const uint32_t flags = MC_AREA_FREE_MASK | MC_AREA_HUGE | MC_AREA_RECLAIMED;

    return (mc_area_word(&domain->frames, area) & flags) == MC_AREA_HUGE;
}

static int64_t unplug(struct mc_host *host, struct mc_domain *domain, struct mc_record *record)
{
    struct mc_vmem *device = domain->device;
    struct mc_vmem_region *region = region_of(device, record);
    uint32_t block = (uint32_t)record->arg[0], count = (uint32_t)record->arg[1], first, end;
    int failed = 0;

    if (!region || mc_vmem_count_plugged(device, block, count) != count)
        return error(domain);
    first = block * device->block_areas;
    end = first + count * device->block_areas;
    for (uint32_t area = first; area < end; area++) {
        if (domain->pin_counts[area]) {
            domain->counters.refused_dma++;
            return busy(domain, record, MC_EPERM);
        }
        if (domain->states[area] == MC_A_INSTALLED && !is_claimed(domain, area))
            return error(domain);
    }
    for (uint32_t area = first; area < end; area++)
        if (domain->states[area] == MC_A_INSTALLED)
            failed |= mc_pull(host, domain, area, MC_PULL_CLAIMED);
    mc_vmem_note_blocks(domain, region, block, count);
    return failed ? error(domain) : MC_VMEM_ACK;    /* it changed a word meanwhile */
}

static int64_t unplug_all(struct mc_host *host, struct mc_domain *domain,
                          struct mc_record *record)
{
    struct mc_vmem *device = domain->device;
    int left = 0, pinned = 0;

    for (uint32_t area = 0; area < device->blocks * device->block_areas; area++) {
        int status;

        if (domain->states[area] != MC_A_INSTALLED)
            continue;
        status = mc_pull(host, domain, area, is_claimed(domain, area) ? MC_PULL_CLAIMED
                                                                      : MC_PULL_HARD);
        left |= status != MC_OK;
        pinned |= status == MC_EPERM;
    }
    for (uint32_t i = 0; i < device->region_count; i++) {
        mc_vmem_note_blocks(domain, &device->regions[i], device->regions[i].first,
                            device->regions[i].blocks);
            mc_vmem_size_usable(device, &device->regions[i], 1);
    }
    return left ? busy(domain, record, pinned ? MC_EPERM : MC_ESTATE) : MC_VMEM_ACK;
}

/* ---- the other requests ---- */

static int64_t state(struct mc_domain *domain, struct mc_record *record)
{
    struct mc_vmem *device = domain->device;
    uint32_t count = (uint32_t)record->arg[1], plugged;

    if (!region_of(device, record))
        return error(domain);
    plugged = mc_vmem_count_plugged(device, (uint32_t)record->arg[0], count);
    record->arg[0] = plugged == count ? MC_VMEM_PLUGGED
                                      : plugged ? MC_VMEM_MIXED : MC_VMEM_UNPLUGGED;
    return MC_VMEM_ACK;
}

static int64_t config(struct mc_domain *domain, struct mc_record *record)
{
    const struct mc_vmem *device = domain->device;
    const struct mc_vmem_region *region;

    if (record->arg[0] >= device->region_count)
        return error(domain);
    region = &device->regions[record->arg[0]];
    record->arg[0] = region->first;
    record->arg[1] = region->usable;
    record->arg[2] = region->requested;
    record->arg[3] = region->plugged;
    record->arg[4] = region->blocks;
    return MC_VMEM_ACK;
}

int64_t mc_vmem_request(struct mc_host *host, struct mc_domain *domain, struct mc_record *record)
{
    switch (record->op) {
    case MC_OP_VMEM_PLUG:
        return plug(host, domain, record, 1);
    case MC_OP_VMEM_UNPLUG:
        return unplug(host, domain, record);
    case MC_OP_VMEM_UNPLUG_ALL:
        return unplug_all(host, domain, record);
    case MC_OP_VMEM_STATE:
        return state(domain, record);
    case MC_OP_VMEM_CONFIG:
        return config(domain, record);
    default:
        return MC_EOP;
    }
}
