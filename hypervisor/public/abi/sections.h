/* sections.h: the words both halves of `sections` exchange.
 *
 * A section is options[0] consecutive areas. The hypervisor decides which section comes or goes,
 * because it knows the banks; the guest does it, because it knows what is in use. The guest asks
 * until there is nothing to be done. As Linux' memory hotplug without ACPI: NEXT stands for the
 * notification, OFFLINED for the ejection, KEPT for _OST.
 *
 *   SECTION_NEXT      arg0 enum mc_section_ask   -> enum mc_section_todo, arg0 section, arg1 bank,
 *                                                   arg2 areas of it; STUCK: arg0 minus the status
 *                                                   why what is left cannot go. ENOMEM: no chunk to
 *                                                   be had. ETARGET: for one that asks for more
 *   SECTION_OFFLINED  arg0 section               -> 0: it is the hypervisor's. ETARGET: keep it
 *                     every area of it claimed      after all; EPERM: pinned for DMA; ESTATE. Then
 *                                                   nothing was taken
 *   SECTION_KEPT      arg0 section,              -> 0. It is not asked for again until the bell
 *                     arg1 minus the status         rings anew, or somebody asks anew
 *
 * SECTION_NEXT may be answered late: what it waits for is being punched.
 * control.driver[]: sections put online, offline, and kept because they could not be, by the
 * guest's count.
 */
#ifndef MC_SECTIONS_H
#define MC_SECTIONS_H

#include "ops.h"

#define MC_SECTION_AREAS_MAX 1024           /* 2 GiB, the largest memory block of Linux on x86 */
#define MC_SECTION_AREAS_LINUX 64           /* 128 MiB, SECTION_SIZE_BITS 27 */

enum mc_sections_op {
    MC_OP_SECTION_NEXT = MC_OP_SECTIONS,
    MC_OP_SECTION_OFFLINED = MC_OP_SECTIONS + 1,
    MC_OP_SECTION_KEPT = MC_OP_SECTIONS + 2
};

enum mc_section_ask {           /* 0: the driver's thread, for whatever is to be done */
    MC_SECTION_ASK_MORE = 1,    /* an allocation: only for more memory */
    MC_SECTION_ASK_ANEW = 2     /* the guest has made room: also for what was kept, being in use */
};

enum mc_section_todo {
    MC_SECTION_NOTHING = 0,
    MC_SECTION_ONLINED = 1,     /* plugged, and the allocator has it: use it */
    MC_SECTION_OFFLINE = 2,     /* empty it, and offer it */
    MC_SECTION_STUCK = 3        /* the target is not reached, and nothing can be done for it */
};

enum mc_sections_option { MC_SECTIONS_AREAS = 0, MC_SECTIONS_REMOTE = 1 };
enum mc_sections_driver {
    MC_SECTIONS_ONLINED = 0,
    MC_SECTIONS_OFFLINED = 1,
    MC_SECTIONS_KEPT = 2
};

#endif
