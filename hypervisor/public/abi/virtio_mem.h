/* virtio_mem.h: the protocol between the two halves of `virtio-mem`.
 *
 * Source: virtio-mem (Hildenbrand and Schulz, VEE 2021); the device of VIRTIO 1.2, section 5.15.
 * The domain's memory is divided into blocks, numbered from its start. Each device has a region of
 * neighbouring blocks, the first `usable` of which may be plugged. The guest chooses the blocks.
 *
 * control.config[]   [0] areas of a block   [1] devices
 *                    [2] areas that the hypervisor found in use while they were unplugged
 *
 * Requests, on the memory ring. Ranges lie within one device's usable region:
 *   PLUG        arg0 first block, arg1 blocks
 *   UNPLUG      as PLUG; the guest has claimed every area of the blocks (movable.h), else ERROR
 *   UNPLUG_ALL  -          every area that is free or claimed; the usable regions may shrink
 *   STATE       as PLUG    -> arg0 enum mc_vmem_state
 *   CONFIG      arg0 device -> arg0 first block, arg1 usable, arg2 requested, arg3 plugged blocks,
 *                              arg4 blocks of its region
 * The status of an answer is an enum mc_vmem_response. With BUSY, arg2 holds the negated mc_status
 * that says why.
 */
#ifndef MC_VIRTIO_MEM_H
#define MC_VIRTIO_MEM_H

#include "ops.h"

#define MC_VMEM_DEVICES_MAX 16

enum mc_vmem_op {
    MC_OP_VMEM_PLUG = MC_OP_VIRTIO_MEM,
    MC_OP_VMEM_UNPLUG,
    MC_OP_VMEM_UNPLUG_ALL,
    MC_OP_VMEM_STATE,
    MC_OP_VMEM_CONFIG
};

enum mc_vmem_response {
    MC_VMEM_ACK = 0,
    MC_VMEM_NACK = 1,           /* beyond the size requested: read the configuration again */
    MC_VMEM_BUSY = 2,           /* not now: the host has no memory, or (UNPLUG) it is pinned */
    MC_VMEM_ERROR = 3           /* a block out of range, or not in the state the request needs */
};

enum mc_vmem_state { MC_VMEM_PLUGGED = 0, MC_VMEM_UNPLUGGED = 1, MC_VMEM_MIXED = 2 };

enum mc_vmem_config { MC_VMEM_BLOCK_AREAS = 0, MC_VMEM_DEVICES = 1, MC_VMEM_VIOLATIONS = 2 };

#endif
