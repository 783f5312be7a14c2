/* ledger.h: host memory to the frame: which domain has it, of which bank it is, how it moves.
 *
 * Owns:  the states of areas, the holes in them, pins, and every counter that adds up to the host.
 * Rules: all under the lock (checked). A mechanism moves memory by these functions alone, so the
 *        sums stay right whatever the mechanism does. "Releases the lock" means that anything may
 *        have changed when the function returns.
 *
 * free + installed + ready + transit + tmem == total, in frames, after every change:
 *
 *   state of an area         its 512 frames,   meaning
 *                            less its holes
 *   HARD, SOFT               free              no backing; SOFT: the guest may take it by asking
 *   POPULATING               transit           the kernel is being asked for its pages
 *   READY                    ready             populated, the guest does not know yet
 *   INSTALLED                installed         the guest's. Its pages may still be missing: they
 *                                              come as the guest touches them, and are charged
 *   PUNCH_HARD, PUNCH_SOFT   transit           taken from the guest, to be punched by the keeper
 *   PUNCHING_HARD, _SOFT     transit           the punch is running
 *
 * A hole is a frame of an installed area that the guest gave back by itself (a balloon's): it is
 * free host memory like any other. It is in flight (transit) while it is punched.
 *
 * The free frames of all banks sum up to the host's. An area is of one bank, chosen when the area
 * is charged: the one in domain->banks if that has room, else a local one before a remote one.
 * Memory in use was bound to the NUMA node of its bank when that bank has one.
 *
 * Pinned memory is never taken from a guest that lives: mc_pull and mc_holes_make refuse it and
 * count refused_dma.
 */
#ifndef MC_LEDGER_H
#define MC_LEDGER_H

#include "host.h"

#define MC_NO_BANK UINT32_MAX

/* cdef-begin */
/* The only way an area changes state: counts, sums and banks follow. The change must be one that
 * ledger.c's table allows. */
void mc_area_set(struct mc_host *host, struct mc_domain *domain, uint32_t area,
                 enum mc_area_state state);

/* Areas a domain has or is about to have. */
uint32_t mc_domain_held(const struct mc_domain *domain);
/* Frames the domain's file may have: the guest's, and all on their way to or from the guest. */
uint64_t mc_backed_frames(const struct mc_domain *domain);
/* 1 when memory of this domain is on its way. */
int mc_in_transit(const struct mc_domain *domain);
/* The bank `frames` free frames may come from, `wanted` if that has them; or MC_NO_BANK. */
uint32_t mc_bank_pick(const struct mc_host *host, uint64_t frames, uint32_t wanted);
/* The bank with most free of those that have `frames` free: a local one before a remote one, or the
 * other way round; or MC_NO_BANK. */
uint32_t mc_bank_choose(const struct mc_host *host, uint64_t frames, int remote_first);
/* 1 when that many may be given away: more is free than the slack and the promised frames. */
int mc_has_free(const struct mc_host *host, uint64_t frames);
/* A hint, from the guest's own words: installed, wholly free, not pinned. */
int mc_is_spare(const struct mc_domain *domain, uint32_t area);
/* How many areas are spare; counting stops at `enough`. */
uint32_t mc_spare_areas(const struct mc_domain *domain, uint32_t enough);
/* First area in a state, or -1. */
int64_t mc_find_state(const struct mc_domain *domain, enum mc_area_state state);

/* Take an area from its guest. The keeper punches it; the guest's word decides every race.
 *   MC_PULL_HARD   wholly free -> the host's. A SOFT area: bookkeeping only.
 *   MC_PULL_SOFT   wholly free, installed -> SOFT
 *   MC_PULL_CLAIMED  the guest claimed it and offers it -> the host's
 * 0; MC_ESTATE when state or word do not allow it; MC_EPERM when it is pinned. */
enum mc_pull { MC_PULL_HARD, MC_PULL_SOFT, MC_PULL_CLAIMED };
int mc_pull(struct mc_host *host, struct mc_domain *domain, uint32_t area, enum mc_pull how);
/* mc_pull up to `most` areas from the top, in one pass; returns how many. SOFT areas are taken on
 * the way and count only when `soft_counts`: they free no memory, but they make the guest
 * smaller. */
uint32_t mc_pull_areas(struct mc_host *host, struct mc_domain *domain, uint32_t most,
                       enum mc_pull how, int soft_counts);

/* Give an area (HARD or SOFT) pages: ends in `state` (READY, or INSTALLED for a SOFT one), or in
 * the state it had and MC_ENOMEM. Releases the lock. The caller has made sure that it may be
 * charged. */
int mc_populate(struct mc_host *host, struct mc_domain *domain, uint32_t area,
                enum mc_area_state state);
/* READY -> INSTALLED: the guest's, with its pages. MC_ESTATE when it is not READY, or when the
 * guest spoilt the word: then the area is lost to the guest. */
int mc_grant(struct mc_host *host, struct mc_domain *domain, uint32_t area);
/* HARD -> INSTALLED without pages; MC_ENOMEM when it may not be charged, MC_ESTATE.
 * mc_plug_found straight after mc_supply_find said that one area may be charged, which may mean out
 * of the slack; mc_plug otherwise. */
int mc_plug_found(struct mc_host *host, struct mc_domain *domain, uint32_t area);
int mc_plug(struct mc_host *host, struct mc_domain *domain, uint32_t area);
/* HARD -> INSTALLED, every frame a hole: the guest has it in its balloon, its word says evicted.
 * Charges nothing, but needs a bank that its frames can be charged to later: MC_ENOMEM.
 * MC_ESTATE. */
int mc_plug_hollow(struct mc_host *host, struct mc_domain *domain, uint32_t area);
/* HARD -> SOFT, up to `most` areas from the bottom, in one pass: the guest may take them when it
 * asks. Charges nothing; returns how many. */
uint32_t mc_return_areas(struct mc_host *host, struct mc_domain *domain, uint32_t most);

/* Charge or discharge an area of tmem's slab. */
void mc_tmem_charge(struct mc_host *host, uint32_t slab_area);
void mc_tmem_discharge(struct mc_host *host, uint32_t slab_area);

/* Everything of the domain is to be the host's: for close and reboot, when no other thread uses it.
 * What had backing is due to be punched. Pinned areas stay installed when `keep_pinned`. */
void mc_condemn_all(struct mc_host *host, struct mc_domain *domain, int keep_pinned);
/* Of a domain whose file nobody else has: its areas are the host's, for the file goes with it. */
void mc_forget_all(struct mc_host *host, struct mc_domain *domain);

/* Of the promised frames, these areas are for the domain that boots now, unless it only reboots. To
 * be called just before they are taken, in the same hold of the lock, or tmem would take them. */
void mc_redeem(struct mc_host *host, const struct mc_domain *domain, uint32_t areas);

/* holes.c. Keeper or main thread where a punch is made. 1 when the host has this frame back. */
int mc_is_hole(const struct mc_domain *domain, uint64_t frame);
/* Punch frames, neighbours in ascending order in one call. Releases the lock. */
void mc_holes_punch(struct mc_host *host, struct mc_domain *domain, const uint32_t *frames,
                    uint32_t count);
/* Single frames, as the guest named them: the guest has taken them out of use (make), or wants them
 * again (fill). A frame out of range, not installed, named twice or pinned is skipped and counted
 * in *bad (a pinned one in refused_dma too). make punches, neighbours in ascending order in one
 * call, and releases the lock; at most MC_AREA_FRAMES frames; what the kernel refuses to punch stays
 * the guest's. fill charges, and stops when no more
 * may be charged (`slack_too`: even out of the slack). Both return how many were done. */
uint32_t mc_holes_make(struct mc_host *host, struct mc_domain *domain, const uint32_t *frames,
                       uint32_t count, uint32_t *bad);
uint32_t mc_holes_fill(struct mc_host *host, struct mc_domain *domain, const uint32_t *frames,
                       uint32_t count, int slack_too, uint32_t *bad);
/* cdef-end */

#endif
