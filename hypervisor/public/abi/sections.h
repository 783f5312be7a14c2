/* sections.h: the protocol between the two halves of `sections`.
 *
 * A section is options[0] consecutive areas. The hypervisor decides which section comes or goes,
 * because it knows the banks; the guest brings it online or offline, because it knows which frames
 * are in use. The guest asks for the next step until the answer is MC_SECTION_NOTHING. This is
 * Linux' memory hotplug without ACPI: NEXT stands for the notification, OFFLINED for the ejection,
 * KEPT for _OST.
 *
 *   SECTION_NEXT      arg0 enum mc_section_ask   -> enum mc_section_todo, arg0 section, arg1 bank,
 *                                                   arg2 areas of the section. With STUCK, arg0
 *                                                   holds the negated status that explains why no
 *                                                   further section can be removed. ENOMEM: no bank
 *                                                   has a whole section free. ETARGET: the guest
 *                                                   asked for more and is at its target
 *   SECTION_OFFLINED  arg0 section, every area   -> 0: the section is the hypervisor's now. Else
 *                     of which is claimed           nothing was taken: ETARGET, the guest shall
 *                                                   keep the section after all; EPERM, it is pinned
 *                                                   for DMA; ESTATE, it is not claimed
 *   SECTION_KEPT      arg0 section, arg1 the     -> 0. The hypervisor asks for the section again
 *                     negated status                after the next bell, or an ASK_ANEW
 *
 * The answer to SECTION_NEXT may come late, after the punch of the memory that it waits for.
 * control.driver[] counts the sections that the guest put online, put offline, and kept because
 * they could not go offline.
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

enum mc_section_ask {           /* 0: the driver's thread asks for any step */
    MC_SECTION_ASK_MORE = 1,    /* an allocation asks for more memory only */
    MC_SECTION_ASK_ANEW = 2     /* as 0; the guest has made room, so sections that it kept because
                                 * they were in use may go now */
};

enum mc_section_todo {
    MC_SECTION_NOTHING = 0,
    MC_SECTION_ONLINED = 1,     /* a section came; the guest may allocate from it */
    MC_SECTION_OFFLINE = 2,     /* the guest shall empty the section and offer it */
    MC_SECTION_STUCK = 3        /* the target is not reached, and no step can bring it nearer */
};

enum mc_sections_option { MC_SECTIONS_AREAS = 0, MC_SECTIONS_REMOTE = 1 };
enum mc_sections_driver {
    MC_SECTIONS_ONLINED = 0,
    MC_SECTIONS_OFFLINED = 1,
    MC_SECTIONS_KEPT = 2
};

#endif
