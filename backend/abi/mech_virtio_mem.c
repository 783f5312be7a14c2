/* mech_virtio_mem.c: virtio-mem, the host half: targets, booting, options. See virtio_mem.h.
 *
 *   target      is shared evenly among the domain's devices as their requested sizes. A domain has
 *               one device per local bank when the host has more banks than one. The guest's driver
 *               does the rest by requests (virtio_mem_requests.c).
 *   reset       unplugs all, sizes the usable regions anew, plugs what the domain boots with.
 *   watch       the keeper's timer looks for pages in unplugged memory (virtio_mem_watch.c).
 *
 * What the domain boots with is plugged blocks as well: no memory of it stands outside of a device.
 */
#include "virtio_mem_device.h"

#include <string.h>


enum vmem_option { VMEM_BLOCK_AREAS = 0, VMEM_NODES = 1, VMEM_WATCH_MS = 2 };

/* ---- targets ---- */

/* The target, less what fills no block: that belongs to no device. */
static uint64_t vmem_wanted_frames(const struct mc_domain *domain)
{
    const struct mc_vmem *device = vmem_of(domain);
    uint64_t most = (uint64_t)device->blocks * device->block_areas * MC_AREA_FRAMES;
    MC_CHECK_IN(domain, device->block_areas && most <= mc_maxmem_frames(domain),
                "%u blocks of %u areas, %u areas", device->blocks, device->block_areas,
                domain->areas);
    return domain->target_frames < most ? domain->target_frames : most;
}

/* Share `blocks` evenly among the devices; what a small region cannot have, the later ones get. */
static void vmem_share_target(struct mc_vmem *device, uint32_t blocks)
{
    uint32_t left = blocks;
    MC_CHECK(device->region_count && device->region_count <= MC_VMEM_DEVICES_MAX, "%u devices",
             device->region_count);
    for (uint32_t i = 0; i < device->region_count; i++) {
        struct mc_vmem_region *region = &device->regions[i];
        uint32_t devices = device->region_count - i, part = (left + devices - 1) / devices;
        region->requested = part < region->all.count ? part : region->all.count;
        left -= region->requested;
    }
    MC_CHECK(!left, "%u of %u blocks fit into no device", left, blocks);
}

static void vmem_set_target(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_vmem *device = vmem_of(domain);
    uint64_t frames = vmem_wanted_frames(domain);
    (void)host;
    vmem_share_target(device, (uint32_t)(frames / MC_AREA_FRAMES / device->block_areas));
    for (uint32_t i = 0; i < device->region_count; i++) {
        mc_vmem_size_usable(device, &device->regions[i], 0);
        device->regions[i].short_of_bank = 0;
    }
    mc_config_ask(domain, frames);
}

static enum mc_reach vmem_reach(struct mc_host *host, const struct mc_domain *domain,
                                enum mc_why *why)
{
    const struct mc_vmem *device = vmem_of(domain);
    enum mc_reach reached;
    *why = MC_WHY_NONE;
    if (domain->installed_frames == vmem_wanted_frames(domain))
        return mc_in_transit(domain) ? MC_MOVING : MC_REACHED;
    reached = mc_reach_default(host, domain, why);
    for (uint32_t i = 0; i < device->region_count && *why == MC_WHY_NO_MEMORY; i++)
        if (device->regions[i].short_of_bank)
            *why = MC_WHY_BANK;
    return reached;
}

/* ---- the life of a domain ---- */

/* Divide the blocks among devices: one per local bank, at most as many as the options allow. */
static void vmem_divide_blocks(const struct mc_host *host, const struct mc_domain *domain,
                               struct mc_vmem *device)
{
    uint32_t banks[MC_BANKS_MAX], count = 0, most = (uint32_t)domain->options[VMEM_NODES];
    MC_CHECK(host->bank_count <= MC_BANKS_MAX && device->blocks, "%u banks, %u blocks",
             host->bank_count, device->blocks);
    most = most && most < MC_VMEM_DEVICES_MAX ? most : MC_VMEM_DEVICES_MAX;
    most = most < device->blocks ? most : device->blocks;
    for (uint32_t bank = 0; bank < host->bank_count && count < most; bank++)
        if (!host->banks[bank].remote)
            banks[count++] = bank;
    device->region_count = count ? count : 1;
    for (uint32_t i = 0; i < device->region_count; i++) {
        uint64_t blocks = device->blocks, n = device->region_count;
        struct mc_vmem_region *region = &device->regions[i];
        region->all.first = (uint32_t)(blocks * i / n);
        region->all.count = (uint32_t)(blocks * (i + 1) / n) - region->all.first;
        region->bank = n > 1 ? banks[i] : MC_NO_BANK;
    }
}

static int vmem_open(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_vmem *device = vmem_of(domain);
    uint32_t boot_blocks;
    MC_CHECK_IN(domain, domain->options[VMEM_BLOCK_AREAS] && domain->areas <= MC_MAX_AREAS,
                "blocks of %lu areas, of %u", domain->options[VMEM_BLOCK_AREAS], domain->areas);
    device->block_areas = (uint32_t)domain->options[VMEM_BLOCK_AREAS];
    if (device->block_areas > domain->areas)
        device->block_areas = domain->areas;
    device->blocks = domain->areas / device->block_areas;
    vmem_divide_blocks(host, domain, device);
    boot_blocks = (domain->boot_areas + device->block_areas - 1) / device->block_areas;
    boot_blocks = boot_blocks < device->blocks ? boot_blocks : device->blocks;
    domain->boot_areas = boot_blocks * device->block_areas;
    domain->granule_frames = device->block_areas * MC_AREA_FRAMES;
    return MC_OK;
}

static int vmem_boot_block(struct mc_host *host, struct mc_domain *domain,
                           struct mc_vmem_region *region, uint32_t block)
{
    uint32_t areas = vmem_of(domain)->block_areas;
    int path, status = MC_OK;
    MC_CHECK_IN(domain, block >= region->all.first && block - region->all.first < region->all.count,
                "boots with block %u, region of %u from %u", block, region->all.count,
                region->all.first);
    for (uint32_t area = block * areas; area < (block + 1) * areas && !status; area++) {
        mc_redeem(host, domain, 1);
        status = mc_supply_find(host, domain, &path);
        if (!status)
            status = mc_vmem_plug_areas(host, domain, region, (struct mc_area_run){area, area + 1});
    }
    mc_vmem_note_blocks(domain, region, (struct mc_vmem_blocks){block, 1});
    return status;
}

/* As firmware plugs what the kernel starts with. Blocks with pinned areas were never taken: they
 * are part of it, made whole again. */
static int vmem_boot_region(struct mc_host *host, struct mc_domain *domain,
                            struct mc_vmem_region *region)
{
    struct mc_vmem *device = vmem_of(domain);
    uint32_t first = region->all.first, end = first + region->all.count;
    int status = MC_OK;
    MC_CHECK_IN(domain, region->requested <= region->all.count, "boots with %u blocks of %u",
                region->requested, region->all.count);
    for (uint32_t block = first; block < end && !status; block++)
        if (mc_vmem_has_installed(domain, block))
            status = vmem_boot_block(host, domain, region, block);
    for (uint32_t block = first; block < end && region->plugged < region->requested && !status;
         block++)
        if (!mc_vmem_is_plugged(device, block))
            status = vmem_boot_block(host, domain, region, block);
    return status;
}

static int vmem_boot(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_vmem *device = vmem_of(domain);
    int status = MC_OK;
    MC_CHECK_IN(domain, domain->boot_areas <= device->blocks * device->block_areas,
                "boots with %u areas, %u blocks of %u", domain->boot_areas, device->blocks,
                device->block_areas);
    device->watch_area = 0;
    memset(device->plugged, 0, sizeof device->plugged);
    vmem_share_target(device, domain->boot_areas / device->block_areas);
    for (uint32_t i = 0; i < device->region_count; i++) {
        device->regions[i].plugged = 0;
        device->regions[i].usable = device->regions[i].all.count;
    }
    for (uint32_t i = 0; i < device->region_count && !status; i++)
        status = vmem_boot_region(host, domain, &device->regions[i]);
    mc_config_write(domain, MC_VMEM_BLOCK_AREAS, device->block_areas);
    mc_config_write(domain, MC_VMEM_DEVICES, device->region_count);
    mc_config_write(domain, MC_VMEM_VIOLATIONS, device->violations);
    return status;
}

static void vmem_offer_target(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_vmem *device = vmem_of(domain);
    vmem_set_target(host, domain);
    for (uint32_t i = 0; i < device->region_count; i++)
        mc_vmem_size_usable(device, &device->regions[i], 1);
    mc_timer_set(domain, VMEM_WATCH_MS, mc_clock_ns());
}

static void vmem_timer(struct mc_host *host, struct mc_domain *domain, uint64_t now_ns)
{
    (void)now_ns;
    mc_vmem_watch(host, domain);
    mc_timer_set(domain, VMEM_WATCH_MS, mc_clock_ns());
}

static int vmem_validate(struct mc_host *host, const struct mc_domain *domain)
{
    const struct mc_vmem *device = vmem_of(domain);
    (void)host;
    for (uint32_t i = 0; i < device->region_count; i++)
        if (mc_vmem_count_plugged(device, device->regions[i].all) != device->regions[i].plugged)
            return MC_EBROKEN;
    for (uint32_t block = 0; block < device->blocks; block++)
        if (mc_vmem_is_plugged(device, block) != mc_vmem_has_installed(domain, block))
            return MC_EBROKEN;
    return MC_OK;
}

const struct mc_mechanism mc_virtio_mem = {
    .name = "virtio-mem",
    .says = "virtio-mem: the guest's driver plugs and unplugs blocks until its size is the target",
    .id = MC_VIRTIO_MEM, .granule_frames = 2 * MC_AREA_FRAMES, .dma_safe = 1,
    .options = {[VMEM_BLOCK_AREAS] = {"block_areas", 2, 1, 64, "areas in a block"},
                [VMEM_NODES] = {"nodes", 0, 0, MC_VMEM_DEVICES_MAX,
                                "devices at most; 0: one for each local bank of the host"},
                [VMEM_WATCH_MS] = {"watch_ms", 100, 0, 60000,
                                   "use of unplugged memory is looked for so often; 0: never"}},
    .device_bytes = sizeof(struct mc_vmem), .open = vmem_open, .boot = vmem_boot,
    .target = vmem_set_target, .offer = vmem_offer_target, .request = mc_vmem_request,
    .later = mc_vmem_later, .timer = vmem_timer, .reach = vmem_reach,
    .validate = vmem_validate, .recover = mc_vmem_recover,
};
