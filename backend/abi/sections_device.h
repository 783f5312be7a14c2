/* sections_device.h: the host's private state of a domain of `sections`, and its plan.
 *
 * A section is `areas` neighbouring areas. A chunk is the memory of one section: it is all of one
 * bank. The plan (sections_plan.c) says which section comes or goes next.
 *
 * Owns:  struct mc_sections; private to mech_sections.c and sections_plan.c. How much of a section
 *        is plugged is never kept here: mc_section_look reads it from the ledger.
 * Rules: everything under mc_host.lock. The plan remembers nothing but `stays`: it is made anew
 *        from the ledger, the target and the banks each time the guest asks. So a newer target, a
 *        withdrawn bank or a guest that stops half-way need no undoing.
 */
#ifndef MC_SECTIONS_DEVICE_H
#define MC_SECTIONS_DEVICE_H

#include "area_run.h"
#include "banks.h"
#include "mechanism.h"
#include "sections.h"

#define MC_NO_SECTION UINT32_MAX

/* Whether a section may be asked of the guest, since the bell rang last. */
enum mc_section_stays {
    MC_SECTION_MAY_GO = 0,
    MC_SECTION_IN_USE = 1,      /* the guest could not empty it */
    MC_SECTION_PINNED = 2       /* it has frames pinned for DMA */
};

/* What became of a search for a chunk, or of plugging a section. */
enum mc_sections_result {
    MC_SECTIONS_DONE = 0,
    MC_SECTIONS_WAITS,          /* enough memory is being punched: try again after that */
    MC_SECTIONS_NO_MEMORY,      /* `starved_frames`, `starved_bank` and `why` say what is missing */
    MC_SECTIONS_SPOILT          /* the guest spoilt the word of an area */
};

struct mc_sections {            /* domain->device */
    uint32_t areas;             /* of a section */
    uint32_t count;             /* sections of the domain */
    uint32_t asked;             /* section that the guest is to put offline; or MC_NO_SECTION */
    uint32_t plugging;          /* section that the last SECTION_NEXT plugs; or MC_NO_SECTION */
    enum mc_why why;            /* the last SECTION_NEXT could not go on */
    uint64_t starved_frames;    /* size of the chunk that no bank had; 0: none was missing */
    uint32_t starved_bank;      /* the bank it had to be of; MC_NO_BANK: any */
    int next_waits;             /* `next` is answered when memory on its way has come */
    uint64_t until_ns;          /* or at this time */
    struct mc_record next;      /* a SECTION_NEXT */
    uint8_t stays[MC_MAX_AREAS];    /* enum mc_section_stays, per section */
};

struct mc_section {             /* what mc_section_look sees */
    uint32_t installed;         /* areas of it in the guest's hands */
    uint32_t transit;           /* areas of it being punched */
    uint32_t pinned;            /* areas of it with pins */
    uint32_t bank;              /* of its installed areas; MC_NO_BANK: there are none */
    uint64_t free_frames;       /* a hint: by the guest's own words */
};

static inline struct mc_sections *sections_of(const struct mc_domain *domain)
{
    MC_CHECK_IN(domain, domain->mechanism->id == MC_SECTIONS && domain->device,
                "no device of sections");
    return domain->device;
}

static inline struct mc_area_run mc_section_areas(const struct mc_domain *domain, uint32_t section)
{
    const struct mc_sections *device = sections_of(domain);
    MC_CHECK_IN(domain, section < device->count, "section %u of %u", section, device->count);
    return mc_area_run_of(domain, section * device->areas, device->areas);
}

struct mc_section mc_section_look(const struct mc_domain *domain, uint32_t section);
/* 1 when the domain has sections on banks that are withdrawn. */
int mc_sections_must_move(const struct mc_host *host, const struct mc_domain *domain);
/* 1 when a chunk of `frames` may be taken of `bank`, for MC_NO_BANK of any; *chosen gets which. */
int mc_section_has_chunk(const struct mc_host *host, const struct mc_domain *domain,
                         uint64_t frames, uint32_t bank, uint32_t *chosen);
/* Plug the areas of a section that are missing. */
enum mc_sections_result mc_section_plug(struct mc_host *host, struct mc_domain *domain,
                                        uint32_t section);
/* Serve a SECTION_NEXT. MC_KEPT: the answer has to wait for memory that is being punched; the
 * record is as it was, and the caller keeps it. */
enum mc_served mc_sections_serve_next(struct mc_host *host, struct mc_domain *domain,
                                      struct mc_record *record);

#endif
