/* virtio_mem_device.h: the host's private state of a domain's virtio-mem devices.
 *
 * Owns:  struct mc_vmem; private to mech_virtio_mem.c, virtio_mem_requests.c, virtio_mem_watch.c.
 * Rules: all under mc_host.lock. A block is plugged when one of its areas is installed. A guest
 *        that behaves has all of a block's areas installed, or none. Blocks and areas are numbered
 *        apart: a run of blocks is no run of areas (area_run.h).
 */
#ifndef MC_VIRTIO_MEM_DEVICE_H
#define MC_VIRTIO_MEM_DEVICE_H

#include "area_run.h"
#include "mechanism.h"
#include "virtio_mem.h"

struct mc_vmem_blocks {         /* blocks first .. first + count - 1 */
    uint32_t first;
    uint32_t count;
};

struct mc_vmem_region {         /* of one device */
    struct mc_vmem_blocks all;
    uint32_t usable;            /* blocks; only a reset and UNPLUG_ALL make it smaller */
    uint32_t requested;         /* blocks */
    uint32_t plugged;           /* blocks */
    uint32_t bank;              /* its memory is of this bank; MC_NO_BANK: of any */
    int short_of_bank;          /* the last plug failed because the bank has none, the host has */
};

struct mc_vmem {                /* domain->device */
    uint64_t plugged[MC_MAX_AREAS / 64];    /* one bit per block */
    uint32_t block_areas;
    uint32_t blocks;
    uint32_t region_count;
    struct mc_vmem_region regions[MC_VMEM_DEVICES_MAX];
    struct mc_area_run cleaned; /* the keeper punches them again: nobody may plug them */
    uint32_t watch_area;        /* where the next look begins */
    uint64_t violations;        /* areas found with pages while unplugged */
};

static inline struct mc_vmem *vmem_of(const struct mc_domain *domain)
{
    MC_CHECK_IN(domain, domain->mechanism->id == MC_VIRTIO_MEM && domain->device,
                "no virtio-mem device");
    return domain->device;
}

static inline int mc_vmem_is_plugged(const struct mc_vmem *device, uint32_t block)
{
    MC_CHECK(block < device->blocks, "block %u of %u", block, device->blocks);
    return device->plugged[block / 64] >> block % 64 & 1;
}

/* virtio_mem_requests.c */

/* Plugged blocks of the run. */
uint32_t mc_vmem_count_plugged(const struct mc_vmem *device, struct mc_vmem_blocks blocks);
/* 1 when an area of the block is installed. */
int mc_vmem_has_installed(const struct mc_domain *domain, uint32_t block);
/* Make the bitmap and the region's count of plugged blocks say what the states of areas say. */
void mc_vmem_note_blocks(const struct mc_domain *domain, struct mc_vmem_region *region,
                         struct mc_vmem_blocks blocks);
/* Size the usable region as QEMU does: beyond the requested size, as much as Linux' next memory
 * blocks need; all plugged blocks are in it. */
void mc_vmem_size_usable(const struct mc_vmem *device, struct mc_vmem_region *region,
                         int may_shrink);
/* Plug those of the areas that are not installed, out of the region's bank; MC_OK, MC_ENOMEM, or
 * MC_ESTATE when the guest spoilt a word. The caller has asked mc_supply_find. */
int mc_vmem_plug_areas(struct mc_host *host, struct mc_domain *domain,
                       const struct mc_vmem_region *region, struct mc_area_run areas);
/* Service thread, as mc_mechanism.request. */
enum mc_served mc_vmem_request(struct mc_host *host, struct mc_domain *domain,
                               struct mc_record *record);
/* As mc_mechanism.recover. */
int64_t mc_vmem_recover(struct mc_host *host, struct mc_domain *domain);
/* Keeper, as mc_mechanism.later: a PLUG. */
enum mc_served mc_vmem_later(struct mc_host *host, struct mc_domain *domain,
                             struct mc_record *record);

/* virtio_mem_watch.c. Keeper: look at a part of the unplugged memory for pages that ought not be
 * there; punch and count them. Releases the lock. */
void mc_vmem_watch(struct mc_host *host, struct mc_domain *domain);

#endif
