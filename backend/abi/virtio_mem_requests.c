/* virtio_mem_requests.c: what a guest may ask of its virtio-mem devices. See virtio_mem.h.
 *
 *   PLUG        all blocks of the run or none, charged to the device's bank, without pages (as
 *               QEMU without prealloc). Never beyond the requested size. A long run, or one for
 *               which memory must be found or punched, is left to the keeper.
 *   UNPLUG      swaps the words of the areas, of a long run in several turns. The keeper punches,
 *               neighbours in one call.
 *
 * Every word of a request is compared with the bitmap and the ledger. ERROR counts as a bad
 * request.
 */
#include "virtio_mem_device.h"

#include <string.h>

/* QEMU lets Linux add memory in blocks of 128 MiB: two of them beyond what is requested. */
#define USABLE_EXTENT_AREAS 128
#define MC_VMEM_AT_ONCE_AREAS 64        /* plugged by the service thread itself */
#define MC_VMEM_LOOK_NS 20000000

/* ---- blocks ---- */

static struct mc_area_run vmem_areas_of(const struct mc_domain *domain,
                                        struct mc_vmem_blocks blocks)
{
    const struct mc_vmem *device = vmem_of(domain);
    MC_CHECK_IN(domain,
                blocks.first <= device->blocks && blocks.count <= device->blocks - blocks.first,
                "%u blocks from %u, of %u", blocks.count, blocks.first, device->blocks);
    return mc_area_run_of(domain, blocks.first * device->block_areas,
                          blocks.count * device->block_areas);
}

uint32_t mc_vmem_count_plugged(const struct mc_vmem *device, struct mc_vmem_blocks blocks)
{
    uint32_t plugged = 0;
    for (uint32_t i = 0; i < blocks.count; i++)
        plugged += (uint32_t)mc_vmem_is_plugged(device, blocks.first + i);
    return plugged;
}

int mc_vmem_has_installed(const struct mc_domain *domain, uint32_t block)
{
    struct mc_area_run areas = vmem_areas_of(domain, (struct mc_vmem_blocks){block, 1});
    for (uint32_t area = areas.first; area < areas.end; area++)
        if (domain->states[area] == MC_A_INSTALLED)
            return 1;
    return 0;
}

/* What holds of a region at any time but while it boots. */
static void vmem_check_region(const struct mc_vmem_region *region)
{
    MC_CHECK(region->usable <= region->all.count, "%u usable blocks of %u", region->usable,
             region->all.count);
    MC_CHECK(region->requested <= region->all.count, "%u requested blocks of %u", region->requested,
             region->all.count);
    MC_CHECK(region->plugged <= region->usable, "%u plugged blocks, %u usable", region->plugged,
             region->usable);
}

void mc_vmem_note_blocks(const struct mc_domain *domain, struct mc_vmem_region *region,
                         struct mc_vmem_blocks blocks)
{
    struct mc_vmem *device = vmem_of(domain);
    MC_CHECK_IN(domain, blocks.first >= region->all.first &&
                    blocks.first + blocks.count <= region->all.first + region->all.count,
                "%u blocks from %u, region of %u from %u", blocks.count, blocks.first,
                region->all.count, region->all.first);
    for (uint32_t block = blocks.first; block < blocks.first + blocks.count; block++) {
        int now = mc_vmem_has_installed(domain, block), was = mc_vmem_is_plugged(device, block);
        MC_CHECK_IN(domain, region->plugged >= (uint32_t)was, "block %u is plugged, %u are", block,
                    region->plugged);
        device->plugged[block / 64] ^= (uint64_t)(now ^ was) << block % 64;
        region->plugged += (uint32_t)(now - was);
    }
    vmem_check_region(region);
}

void mc_vmem_size_usable(const struct mc_vmem *device, struct mc_vmem_region *region,
                         int may_shrink)
{
    uint32_t extent = (USABLE_EXTENT_AREAS + device->block_areas - 1) / device->block_areas;
    uint32_t usable = region->requested ? region->requested + extent : 0;
    MC_CHECK(region->all.count <= device->blocks, "device of %u blocks, of %u", region->all.count,
             device->blocks);
    usable = usable < region->all.count ? usable : region->all.count;
    for (uint32_t block = region->all.count; block > usable; block--)
        if (mc_vmem_is_plugged(device, region->all.first + block - 1))
            usable = block;
    if (usable > region->usable || may_shrink)
        region->usable = usable;
    vmem_check_region(region);
}

/* The region whose usable part has the whole run that a record names, or NULL. */
static struct mc_vmem_region *vmem_region_of(struct mc_vmem *device, const struct mc_record *record)
{
    uint64_t first = record->arg[0], count = record->arg[1];
    MC_CHECK(device->region_count && device->region_count <= MC_VMEM_DEVICES_MAX, "%u devices",
             device->region_count);
    for (uint32_t i = 0; i < device->region_count; i++) {
        struct mc_vmem_region *region = &device->regions[i];
        vmem_check_region(region);
        if (first >= region->all.first && first - region->all.first < region->usable)
            return count && count <= region->usable - (first - region->all.first) ? region : NULL;
    }
    return NULL;
}

/* The run that a record names, once vmem_region_of has found its region. */
static struct mc_vmem_blocks vmem_blocks_of(const struct mc_record *record)
{
    return (struct mc_vmem_blocks){(uint32_t)record->arg[0], (uint32_t)record->arg[1]};
}

static enum mc_vmem_response vmem_answer_error(struct mc_domain *domain)
{
    mc_count_bad(domain);
    return MC_VMEM_ERROR;
}

static enum mc_vmem_response vmem_answer_busy(struct mc_domain *domain, struct mc_record *record,
                                              enum mc_status why)
{
    MC_CHECK_IN(domain, why == MC_ENOMEM || why == MC_EPERM || why == MC_ESTATE, "busy for %d",
                why);
    record->arg[2] = (uint64_t)-why;
    domain->counters.refused += why == MC_ENOMEM;
    return MC_VMEM_BUSY;
}

/* ---- plug ---- */

/* 1 when the areas may be charged to the region's bank. */
static int vmem_may_charge(const struct mc_host *host, struct mc_vmem_region *region,
                           struct mc_area_run areas)
{
    uint64_t frames = mc_area_run_frames(areas);
    int has = host->free_frames >= host->slack_frames + host->promised_frames + frames;
    MC_CHECK(region->bank == MC_NO_BANK || region->bank < host->bank_count,
             "device of bank %u, of %u banks", region->bank, host->bank_count);
    region->short_of_bank = has && region->bank != MC_NO_BANK &&
                            host->banks[region->bank].free_frames < frames;
    return has && !region->short_of_bank;
}

/* 1 when all of the areas are punched; or, `again`, plugged by the process before. */
static int vmem_is_punched(const struct mc_domain *domain, struct mc_area_run areas, int again)
{
    for (uint32_t area = areas.first; area < areas.end; area++)
        if (domain->states[area] != MC_A_HARD &&
            !(again && domain->states[area] == MC_A_INSTALLED))
            return 0;
    return 1;
}

int mc_vmem_plug_areas(struct mc_host *host, struct mc_domain *domain,
                       const struct mc_vmem_region *region, struct mc_area_run areas)
{
    int status = MC_OK;
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, areas.first < areas.end && areas.end <= domain->areas,
                "areas %u to %u of %u", areas.first, areas.end, domain->areas);
    for (uint32_t area = areas.first; area < areas.end && !status; area++) {
        if (domain->states[area] == MC_A_INSTALLED)
            continue;
        if (region->bank != MC_NO_BANK)
            domain->banks[area] = (uint8_t)region->bank;
        status = mc_plug_found(host, domain, area);
    }
    return status;
}

/* MC_VMEM_ACK, and the region, when the blocks of a PLUG may be plugged as far as their states say;
 * else the answer. */
static enum mc_vmem_response vmem_check_plug(struct mc_domain *domain, struct mc_record *record,
                                             struct mc_vmem_region **region)
{
    struct mc_vmem *device = vmem_of(domain);
    struct mc_vmem_blocks blocks = vmem_blocks_of(record);
    struct mc_area_run areas;
    uint32_t plugged;
    *region = vmem_region_of(device, record);
    if (!*region)
        return vmem_answer_error(domain);
    plugged = mc_vmem_count_plugged(device, blocks);
    if (mc_is_memory_again(domain, record) && plugged) {    /* plugged for this very record */
        if (plugged == blocks.count)
            return MC_VMEM_ACK;
    } else if ((*region)->plugged + blocks.count > (*region)->requested) {
        return MC_VMEM_NACK;
    } else if (plugged) {
        return vmem_answer_error(domain);
    }
    areas = vmem_areas_of(domain, blocks);
    if (areas.first < device->cleaned.end && device->cleaned.first < areas.end)
        return vmem_answer_busy(domain, record, MC_ENOMEM);
    return MC_VMEM_ACK;
}

/* Plug what vmem_check_plug has let pass. */
static enum mc_vmem_response vmem_plug(struct mc_host *host, struct mc_domain *domain,
                                       struct mc_record *record, struct mc_vmem_region *region)
{
    struct mc_vmem_blocks blocks = vmem_blocks_of(record);
    struct mc_area_run areas = vmem_areas_of(domain, blocks);
    int status, again = mc_is_memory_again(domain, record);
    MC_CHECK_IN(domain, again || region->plugged + blocks.count <= region->requested,
                "%u blocks, %u are plugged, %u requested", blocks.count, region->plugged,
                region->requested);
    if (!vmem_is_punched(domain, areas, again) || !(again || vmem_may_charge(host, region, areas)))
        return vmem_answer_busy(domain, record, MC_ENOMEM);
    status = mc_vmem_plug_areas(host, domain, region, areas);
    mc_vmem_note_blocks(domain, region, blocks);
    if (status == MC_ENOMEM)
        return vmem_answer_busy(domain, record, MC_ENOMEM);
    return status ? vmem_answer_error(domain) : MC_VMEM_ACK;
}

/* A small PLUG whose memory is there is done at once. Plugging many areas takes as long as turns
 * of many neighbours, and so does finding memory: the keeper does both. */
static enum mc_served vmem_request_plug(struct mc_host *host, struct mc_domain *domain,
                                        struct mc_record *record)
{
    struct mc_vmem_region *region;
    enum mc_vmem_response checked = vmem_check_plug(domain, record, &region);
    struct mc_area_run areas;
    if (checked != MC_VMEM_ACK)
        return mc_answered(record, checked);
    areas = vmem_areas_of(domain, vmem_blocks_of(record));
    if (areas.end - areas.first <= MC_VMEM_AT_ONCE_AREAS && !mc_kept_count(domain) &&
        vmem_is_punched(domain, areas, mc_is_memory_again(domain, record)) &&
        vmem_may_charge(host, region, areas))
        return mc_answered(record, vmem_plug(host, domain, record, region));
    mc_keep(host, domain, record);
    return MC_KEPT;
}

/* Until the areas are punched and there is memory for them, or neither comes. Releases the lock. */
static void vmem_wait_for_memory(struct mc_host *host, struct mc_domain *domain,
                                 struct mc_vmem_region *region, struct mc_area_run areas, int again)
{
    uint64_t until_ns = mc_clock_ns() + MC_SUPPLY_NS_MAX;
    mc_supply_gather(host, domain, mc_area_run_frames(areas), 1);
    while (!(vmem_is_punched(domain, areas, again) && vmem_may_charge(host, region, areas)) &&
           host->transit_frames && mc_phase_of(domain) == MC_ACTIVE && mc_clock_ns() < until_ns)
        if (!mc_punch_own(host, domain))
            mc_wait_done(host, MC_VMEM_LOOK_NS);
}

/* The keeper has waited for all that is due to be punched. */
enum mc_served mc_vmem_later(struct mc_host *host, struct mc_domain *domain,
                             struct mc_record *record)
{
    struct mc_vmem_region *region;
    enum mc_vmem_response checked;
    MC_CHECK_LOCKED(host);
    if (!MC_CHECK_DOMAIN(host, domain, record->op == MC_OP_VMEM_PLUG, "op %u was kept", record->op))
        return mc_answered(record, MC_EBROKEN);
    checked = vmem_check_plug(domain, record, &region);
    if (checked != MC_VMEM_ACK)
        return mc_answered(record, checked);
    vmem_wait_for_memory(host, domain, region, vmem_areas_of(domain, vmem_blocks_of(record)),
                         mc_is_memory_again(domain, record));
    checked = vmem_check_plug(domain, record, &region);
    if (checked == MC_VMEM_ACK)
        checked = vmem_plug(host, domain, record, region);
    return mc_answered(record, checked);
}

/* The states of areas are the truth. */
int64_t mc_vmem_recover(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_vmem *device = vmem_of(domain);
    (void)host;
    device->cleaned = (struct mc_area_run){0, 0};
    memset(device->plugged, 0, sizeof device->plugged);
    for (uint32_t i = 0; i < device->region_count; i++) {
        struct mc_vmem_region *region = &device->regions[i];
        region->plugged = 0;
        mc_vmem_note_blocks(domain, region, region->all);
    }
    return 0;
}

/* ---- unplug ---- */

/* Pull the installed areas of a run, claimed ones alone unless `free_too`, from where the turn
 * before stopped: record->status areas into the run. 1 at its end, 0 when this turn is over. */
static int vmem_pull_run(struct mc_host *host, struct mc_domain *domain, struct mc_record *record,
                         struct mc_area_run areas, int free_too)
{
    uint64_t start_ns = mc_clock_ns();
    for (uint32_t area = areas.first + (uint32_t)record->status; area < areas.end;) {
        if (domain->states[area] == MC_A_INSTALLED)
            mc_pull(host, domain, area, free_too && !mc_area_is_claimed(domain, area)
                                            ? MC_PULL_HARD : MC_PULL_CLAIMED);
        if (++area % MC_VMEM_AT_ONCE_AREAS == 0 && area < areas.end &&
            mc_clock_ns() - start_ns > MC_VISIT_NS_MAX) {
            record->status = area - areas.first;
            return 0;
        }
    }
    return 1;
}

/* MC_OK when none of a run is installed; MC_EPERM when what is left is pinned, else MC_ESTATE. */
static enum mc_status vmem_what_is_left(const struct mc_domain *domain, struct mc_area_run areas)
{
    enum mc_status status = MC_OK;
    for (uint32_t area = areas.first; area < areas.end && status != MC_EPERM; area++)
        if (domain->states[area] == MC_A_INSTALLED)
            status = domain->pin_counts[area] ? MC_EPERM : MC_ESTATE;
    return status;
}

/* MC_VMEM_ACK when the guest may unplug the run. */
static enum mc_vmem_response vmem_check_unplug(struct mc_domain *domain, struct mc_record *record,
                                               struct mc_area_run areas)
{
    for (uint32_t area = areas.first; area < areas.end; area++) {
        if (domain->pin_counts[area]) {
            domain->counters.refused_dma++;
            return vmem_answer_busy(domain, record, MC_EPERM);
        }
        if (domain->states[area] == MC_A_INSTALLED && !mc_area_is_claimed(domain, area))
            return vmem_answer_error(domain);
    }
    return MC_VMEM_ACK;
}

static enum mc_served vmem_request_unplug(struct mc_host *host, struct mc_domain *domain,
                                          struct mc_record *record)
{
    struct mc_vmem *device = vmem_of(domain);
    struct mc_vmem_region *region = vmem_region_of(device, record);
    struct mc_vmem_blocks blocks = vmem_blocks_of(record);
    enum mc_vmem_response checked = MC_VMEM_ACK;
    struct mc_area_run areas;
    int is_over;
    if (!region || (!record->status && !mc_is_memory_again(domain, record) &&
                    mc_vmem_count_plugged(device, blocks) != blocks.count))
        return mc_answered(record, vmem_answer_error(domain));
    areas = vmem_areas_of(domain, blocks);
    if (!record->status)        /* in the first turn */
        checked = vmem_check_unplug(domain, record, areas);
    if (checked != MC_VMEM_ACK)
        return mc_answered(record, checked);
    is_over = vmem_pull_run(host, domain, record, areas, 0);
    mc_vmem_note_blocks(domain, region, blocks);
    if (!is_over)
        return MC_UNFINISHED;
    if (vmem_what_is_left(domain, areas))       /* the guest changed a word */
        checked = vmem_answer_error(domain);
    return mc_answered(record, checked);
}

static enum mc_served vmem_request_unplug_all(struct mc_host *host, struct mc_domain *domain,
                                              struct mc_record *record)
{
    struct mc_vmem *device = vmem_of(domain);
    struct mc_area_run areas = vmem_areas_of(domain, (struct mc_vmem_blocks){0, device->blocks});
    int is_over = vmem_pull_run(host, domain, record, areas, 1);
    enum mc_status left;
    for (uint32_t i = 0; i < device->region_count; i++) {
        mc_vmem_note_blocks(domain, &device->regions[i], device->regions[i].all);
        mc_vmem_size_usable(device, &device->regions[i], 1);
    }
    if (!is_over)
        return MC_UNFINISHED;
    left = vmem_what_is_left(domain, areas);
    return mc_answered(record, left ? vmem_answer_busy(domain, record, left) : MC_VMEM_ACK);
}

/* ---- the other requests ---- */

static enum mc_vmem_response vmem_request_state(struct mc_domain *domain, struct mc_record *record)
{
    struct mc_vmem *device = vmem_of(domain);
    struct mc_vmem_blocks blocks = vmem_blocks_of(record);
    uint32_t plugged;
    if (!vmem_region_of(device, record))
        return vmem_answer_error(domain);
    plugged = mc_vmem_count_plugged(device, blocks);
    record->arg[0] = plugged == blocks.count ? MC_VMEM_PLUGGED
                                             : plugged ? MC_VMEM_MIXED : MC_VMEM_UNPLUGGED;
    return MC_VMEM_ACK;
}

static enum mc_vmem_response vmem_request_config(struct mc_domain *domain, struct mc_record *record)
{
    const struct mc_vmem *device = vmem_of(domain);
    const struct mc_vmem_region *region;
    if (record->arg[0] >= device->region_count)
        return vmem_answer_error(domain);
    region = &device->regions[record->arg[0]];
    vmem_check_region(region);
    record->arg[0] = region->all.first;
    record->arg[1] = region->usable;
    record->arg[2] = region->requested;
    record->arg[3] = region->plugged;
    record->arg[4] = region->all.count;
    return MC_VMEM_ACK;
}

enum mc_served mc_vmem_request(struct mc_host *host, struct mc_domain *domain,
                               struct mc_record *record)
{
    MC_CHECK_LOCKED(host);
    switch (record->op) {
    case MC_OP_VMEM_PLUG:
        return vmem_request_plug(host, domain, record);
    case MC_OP_VMEM_UNPLUG:
        return vmem_request_unplug(host, domain, record);
    case MC_OP_VMEM_UNPLUG_ALL:
        return vmem_request_unplug_all(host, domain, record);
    case MC_OP_VMEM_STATE:
        return mc_answered(record, vmem_request_state(domain, record));
    case MC_OP_VMEM_CONFIG:
        return mc_answered(record, vmem_request_config(domain, record));
    default:
        return mc_answered(record, MC_EOP);
    }
}
