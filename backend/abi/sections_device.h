/* sections_device.h: the device of `sections`, and what is to be done next with it.
 *
 * Owns:  what sections of a domain are (looked at, never counted apart from the ledger), and the
 *        plan: which section comes or goes next.
 * Rules: everything under the lock. The plan has no memory but `kept`: it is made anew from the
 *        ledger, the target and the banks each time the guest asks, so a newer target, a withdrawn
 *        bank or a guest that stops in the middle need no undoing.
 */
#ifndef MC_SECTIONS_DEVICE_H
#define MC_SECTIONS_DEVICE_H

#include "banks.h"
#include "mechanism.h"
#include "sections.h"

#define MC_NO_SECTION UINT32_MAX

struct mc_sections {
    uint32_t areas;             /* of a section */
    uint32_t count;
    uint32_t asked;             /* section the guest is to put offline; or MC_NO_SECTION */
    uint32_t why;               /* enum mc_why, when the last NEXT could not go on */
    uint64_t starved_frames;    /* it could not for want of a chunk so large; 0: not so */
    uint32_t starved_bank;      /* of this bank; MC_NO_BANK: of any */
    int waiting;                /* record is kept until memory on its way has come, or until_ns */
    uint64_t until_ns;
    struct mc_record record;
    uint8_t *kept;              /* per section: minus the status why it could not go offline since
                                 * the bell rang, or 0 */
};

struct mc_section {
    uint32_t installed;         /* areas of it in the guest's hands */
    uint32_t transit;           /* areas of it being punched */
    uint32_t pinned;            /* areas of it with pins */
    uint32_t bank;              /* of its installed areas */
    uint64_t free_frames;       /* a hint: by the guest's own words */
};

struct mc_section mc_section_look(const struct mc_domain *domain, uint32_t section);
/* 1 when the domain has sections on banks that are withdrawn. */
int mc_sections_must_move(const struct mc_host *host, const struct mc_domain *domain);
/* 1 when a chunk may be taken: of `bank`, or for MC_NO_BANK of any; *chosen says of which. */
int mc_section_chunk(const struct mc_host *host, const struct mc_domain *domain, uint64_t frames,
                     uint32_t bank, uint32_t *chosen);
/* Plug what is missing of a section. 0, MC_LATER when memory is on its way, MC_ENOMEM (starved and
 * why are set), MC_ESTATE when the guest spoilt a word. */
int64_t mc_section_plug(struct mc_host *host, struct mc_domain *domain, uint32_t section);
/* Answer SECTION_NEXT into the record. As mc_mechanism.request. */
int64_t mc_sections_next(struct mc_host *host, struct mc_domain *domain, struct mc_record *record);

#endif
