/* virtio_mem_device.h: the host's private state of a domain's virtio-mem devices.
 *
 * Owns:  struct mc_vmem; private to mech_virtio_mem.c, virtio_mem_requests.c, virtio_mem_watch.c.
 * Rules: all under mc_host.lock. A block is plugged when one of its areas is installed: with a
 *        guest that behaves, all or none are.
 */
#ifndef MC_VIRTIO_MEM_DEVICE_H
#define MC_VIRTIO_MEM_DEVICE_H

#include "mechanism.h"
#include "virtio_mem.h"

struct mc_vmem_region {         /* of one device; in blocks */
    uint32_t first;
    uint32_t blocks;
    uint32_t usable;            /* never smaller but by reset and UNPLUG_ALL */
    uint32_t requested;
    uint32_t plugged;
    uint32_t bank;              /* its memory is of this bank; MC_NO_BANK: of any */
    int short_of_bank;          /* the last plug failed because the bank has none, the host has */
};

struct mc_vmem {
    uint64_t *plugged;          /* one bit per block */
    uint32_t block_areas;
    uint32_t blocks;
    uint32_t region_count;
    struct mc_vmem_region regions[MC_VMEM_DEVICES_MAX];
    struct mc_record kept[MC_RING_SLOTS];   /* PLUG of areas that are being punched */
    uint32_t kept_count;
    uint32_t clean_first;       /* areas that are punched again: nobody may plug them */
    uint32_t clean_end;
    uint32_t watch_area;        /* where to look next */
    uint64_t violations;        /* areas found with pages while unplugged */
};

/* virtio_mem_requests.c. Blocks: by the bitmap; by the states of their areas; make the bitmap say
 * what the states do. */
int mc_vmem_is_plugged(const struct mc_vmem *device, uint32_t block);
uint32_t mc_vmem_count_plugged(const struct mc_vmem *device, uint32_t first, uint32_t count);
int mc_vmem_has_installed(const struct mc_domain *domain, uint32_t block);
void mc_vmem_note_blocks(const struct mc_domain *domain, struct mc_vmem_region *region,
                         uint32_t first, uint32_t count);
/* Plug what of the areas is not installed, out of a bank if it has that much; 0 or a status. */
int mc_vmem_plug_areas(struct mc_host *host, struct mc_domain *domain, uint32_t bank,
                       uint32_t first, uint32_t end);
int64_t mc_vmem_request(struct mc_host *host, struct mc_domain *domain, struct mc_record *record);
/* Worker: answer one PLUG that waited for a punch; 1 when there was one. */
int mc_vmem_serve_kept(struct mc_host *host, struct mc_domain *domain);

/* mech_virtio_mem.c. As QEMU sizes it: beyond the requested size, as much as Linux' next memory
 * blocks need; all of the plugged blocks are in it. */
void mc_vmem_size_usable(const struct mc_vmem *device, struct mc_vmem_region *region,
                         int may_shrink);

/* virtio_mem_watch.c. Worker: look at a part of the unplugged memory for pages that ought not be
 * there; punch and count them. Releases the lock. */
void mc_vmem_watch(struct mc_host *host, struct mc_domain *domain);

#endif
