/* mech_virtio_mem.c: virtio-mem, the host half. See virtio_mem.h.
 *
 *   target      is the requested size: shared evenly among the devices, one per local bank when the
 *               host has more banks than one. All else the guest's driver does by requests
 *               (virtio_mem_requests.c).
 *   reset       unplugs all, sizes the usable regions anew, plugs what the domain boots with.
 *   watch       the worker's timer looks for pages in unplugged memory (virtio_mem_watch.c).
 *
 * What the domain boots with is plugged blocks as well: no memory of it stands outside of a device.
 */
#include "virtio_mem_device.h"

#include <stdlib.h>
#include <string.h>

#define NS_PER_MS 1000000u
/* QEMU lets Linux add memory in blocks of 128 MiB: two of them beyond what is requested. */
#define USABLE_EXTENT_AREAS 128

enum option { BLOCK_AREAS = 0, NODES = 1, WATCH_MS = 2 };

/* ---- targets ---- */

void mc_vmem_size_usable(const struct mc_vmem *device, struct mc_vmem_region *region,
                         int may_shrink)
{
    uint32_t extent = (USABLE_EXTENT_AREAS + device->block_areas - 1) / device->block_areas;
    uint32_t usable = region->requested ? region->requested + extent : 0;

    usable = usable < region->blocks ? usable : region->blocks;
    for (uint32_t block = region->blocks; block > usable; block--)
        if (mc_vmem_is_plugged(device, region->first + block - 1))
            usable = block;
    if (usable > region->usable || may_shrink)
        region->usable = usable;
}

/* What fills no block belongs to no device. */
static uint64_t wanted_frames(const struct mc_domain *domain)
{
    const struct mc_vmem *device = domain->device;
    uint64_t most = (uint64_t)device->blocks * device->block_areas * MC_AREA_FRAMES;

    return domain->target_frames < most ? domain->target_frames : most;
}

/* Evenly; what a small region cannot have the later ones get. */
static void share(struct mc_vmem *device, uint32_t blocks)
{
    for (uint32_t i = 0, left = blocks; i < device->region_count; i++) {
        struct mc_vmem_region *region = &device->regions[i];
        uint32_t devices = device->region_count - i, part = (left + devices - 1) / devices;

        region->requested = part < region->blocks ? part : region->blocks;
        left -= region->requested;
    }
}

static void target(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_vmem *device = domain->device;

    (void)host;
    share(device, (uint32_t)(wanted_frames(domain) / MC_AREA_FRAMES / device->block_areas));
    for (uint32_t i = 0; i < device->region_count; i++) {
        mc_vmem_size_usable(device, &device->regions[i], 0);
        device->regions[i].short_of_bank = 0;
    }
    mc_config_ask(domain, wanted_frames(domain));
}

static int reach(struct mc_host *host, const struct mc_domain *domain, uint32_t *why)
{
    const struct mc_vmem *device = domain->device;
    int reached;

    *why = MC_WHY_NONE;
    if (domain->installed_frames == wanted_frames(domain))
        return mc_in_transit(domain) ? MC_MOVING : MC_REACHED;
    reached = mc_reach_default(host, domain, why);
    for (uint32_t i = 0; i < device->region_count && *why == MC_WHY_NO_MEMORY; i++)
        if (device->regions[i].short_of_bank)
            *why = MC_WHY_BANK;
    return reached;
}

/* ---- the life of a domain ---- */

static void divide(const struct mc_host *host, const struct mc_domain *domain,
                   struct mc_vmem *device)
{
    uint32_t banks[MC_BANKS_MAX], count = 0, most = (uint32_t)domain->options[NODES];

    most = most && most < MC_VMEM_DEVICES_MAX ? most : MC_VMEM_DEVICES_MAX;
    most = most < device->blocks ? most : device->blocks;
    for (uint32_t bank = 0; bank < host->bank_count && count < most; bank++)
        if (!host->banks[bank].remote)
            banks[count++] = bank;
    device->region_count = count ? count : 1;
    for (uint32_t i = 0; i < device->region_count; i++) {
        uint64_t blocks = device->blocks, n = device->region_count;

        device->regions[i].first = (uint32_t)(blocks * i / n);
        device->regions[i].blocks = (uint32_t)(blocks * (i + 1) / n) - device->regions[i].first;
        device->regions[i].bank = n > 1 ? banks[i] : MC_NO_BANK;
    }
}

static int open_device(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_vmem *device = calloc(1, sizeof *device);
    uint32_t boot_blocks;

    domain->device = device;
    if (!device)
        return MC_ENOMEM;
    device->block_areas = (uint32_t)domain->options[BLOCK_AREAS];
    if (device->block_areas > domain->areas)
        device->block_areas = domain->areas;
    device->blocks = domain->areas / device->block_areas;
    device->plugged = calloc((device->blocks + 63) / 64, sizeof *device->plugged);
    if (!device->plugged)
        return MC_ENOMEM;
    divide(host, domain, device);
    boot_blocks = (domain->boot_areas + device->block_areas - 1) / device->block_areas;
    boot_blocks = boot_blocks < device->blocks ? boot_blocks : device->blocks;
    domain->boot_areas = boot_blocks * device->block_areas;
    domain->granule_frames = device->block_areas * MC_AREA_FRAMES;
    return MC_OK;
}

static void close_device(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_vmem *device = domain->device;

    (void)host;
    if (device)
        free(device->plugged);
    free(device);
    domain->device = NULL;
}

static int boot_block(struct mc_host *host, struct mc_domain *domain,
                      struct mc_vmem_region *region, uint32_t block)
{
    struct mc_vmem *device = domain->device;
    uint32_t first = block * device->block_areas, end = first + device->block_areas;
    int path, status = MC_OK;

    for (uint32_t area = first; area < end && !status; area++) {
        mc_redeem(host, domain, 1);
        status = mc_supply_find(host, domain, &path);
        if (!status)
            status = mc_vmem_plug_areas(host, domain, region->bank, area, area + 1);
    }
    mc_vmem_note_blocks(domain, region, block, 1);
    return status;
}

/* As firmware plugs what the kernel starts with. Blocks with pinned areas were never taken: they
 * are part of it, made whole again. */
static int boot_region(struct mc_host *host, struct mc_domain *domain,
                       struct mc_vmem_region *region)
{
    struct mc_vmem *device = domain->device;
    uint32_t end = region->first + region->blocks;
    int status = MC_OK;

    region->plugged = 0;
    region->usable = region->blocks;
    for (uint32_t block = region->first; block < end && !status; block++)
        if (mc_vmem_has_installed(domain, block))
            status = boot_block(host, domain, region, block);
    for (uint32_t block = region->first;
         block < end && region->plugged < region->requested && !status; block++)
        if (!mc_vmem_is_plugged(device, block))
            status = boot_block(host, domain, region, block);
    return status;
}

static int boot(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_vmem *device = domain->device;
    struct mc_control *control = domain->control;
    int status = MC_OK;

    device->kept_count = 0;
    device->watch_area = 0;
    memset(device->plugged, 0, (device->blocks + 63) / 64 * sizeof *device->plugged);
    share(device, domain->boot_areas / device->block_areas);
    for (uint32_t i = 0; i < device->region_count && !status; i++)
        status = boot_region(host, domain, &device->regions[i]);
    control->config[MC_VMEM_BLOCK_AREAS] = device->block_areas;
    control->config[MC_VMEM_DEVICES] = device->region_count;
    control->config[MC_VMEM_VIOLATIONS] = device->violations;
    return status;
}

static void arm(struct mc_domain *domain)
{
    uint64_t period_ns = domain->options[WATCH_MS] * NS_PER_MS;

    domain->timer_ns = period_ns ? mc_clock_ns() + period_ns : 0;
}

static void offer(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_vmem *device = domain->device;

    target(host, domain);
    for (uint32_t i = 0; i < device->region_count; i++)
        mc_vmem_size_usable(device, &device->regions[i], 1);
    arm(domain);
}

static void timer(struct mc_host *host, struct mc_domain *domain, uint64_t now_ns)
{
    (void)now_ns;
    mc_vmem_watch(host, domain);
    arm(domain);
}

static int validate(struct mc_host *host, const struct mc_domain *domain)
{
    const struct mc_vmem *device = domain->device;

    (void)host;
    for (uint32_t i = 0; i < device->region_count; i++) {
        const struct mc_vmem_region *region = &device->regions[i];

        if (mc_vmem_count_plugged(device, region->first, region->blocks) != region->plugged)
            return MC_EBROKEN;
    }
    for (uint32_t block = 0; block < device->blocks; block++)
        if (mc_vmem_is_plugged(device, block) != mc_vmem_has_installed(domain, block))
            return MC_EBROKEN;
    return MC_OK;
}

const struct mc_mechanism mc_virtio_mem = {
    .name = "virtio-mem",
    .id = MC_VIRTIO_MEM,
    .granule_frames = 2 * MC_AREA_FRAMES,
    .dma_safe = 1,
    .options = {{"block_areas", 2, 1, 64}, {"nodes", 0, 0, MC_VMEM_DEVICES_MAX},
                {"watch_ms", 100, 0, 60000}},
    .open = open_device,
    .boot = boot,
    .target = target,
    .offer = offer,
    .close = close_device,
    .request = mc_vmem_request,
    .jobs = {mc_vmem_serve_kept},
    .timer = timer,
    .reach = reach,
    .validate = validate,
};
