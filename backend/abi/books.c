/* books.c: see books.h. */
#include "books.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(MC_BOOKS_HOST_OFFSET + sizeof(struct mc_host) <= MC_BOOKS_SLAB_OFFSET,
               "struct mc_host ends before the slab areas");
_Static_assert(MC_BOOKS_SLAB_OFFSET + MC_BOOKS_SLAB_AREAS_MAX <= MC_BOOKS_SLOTS_OFFSET,
               "slab areas end before the slots");
_Static_assert(MC_BOOKS_SLOTS_OFFSET + (uint64_t)MC_MAX_DOMAINS * MC_BOOKS_SLOT_BYTES ==
                   MC_BOOKS_BYTES, "the slots fill the books");
_Static_assert(2ull * MC_META_OFFSET == MC_DOMAIN_STRIDE &&
                   (uint64_t)MC_MAX_AREAS * MC_AREA_BYTES <= MC_META_OFFSET,
               "ram of any size ends before meta");

/* FNV-1a over the words. */
uint64_t mc_books_layout(void)
{
    const uint64_t words[] = {
        MC_BOOKS_VERSION, MC_ABI_VERSION, MC_BOOKS_BYTES, MC_MAX_AREAS, MC_MAX_DOMAINS,
        sizeof(struct mc_host), sizeof(struct mc_domain), sizeof(struct mc_record),
        offsetof(struct mc_host, domains), offsetof(struct mc_domain, states),
        offsetof(struct mc_domain, counters),
    };
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        hash = (hash ^ words[i]) * 0x100000001b3u;
    return hash;
}

int64_t mc_books_map(int books_fd)
{
    return mc_map_at(books_fd, MC_BOOKS_BYTES, MC_BOOKS_ADDRESS);
}

int64_t mc_books_map_file(const struct mc_host *host, int fd, uint64_t bytes, uint64_t place)
{
    MC_CHECK(place >= MC_DOMAINS_ADDRESS && bytes <= MC_META_OFFSET,
             "%lu bytes of fd %d at %lx are not between those of other domains", bytes, fd, place);
    return mc_has_books(host) ? mc_map_at(fd, bytes, place) : mc_map(fd, bytes);
}

static uint64_t slot_offset(const struct mc_domain *domain)
{
    return MC_BOOKS_SLOTS_OFFSET + (uint64_t)domain->domid * MC_BOOKS_SLOT_BYTES;
}

int mc_slot_open(struct mc_host *host, struct mc_domain *domain, uint64_t bytes)
{
    MC_CHECK_IN(domain, !domain->slot && bytes <= MC_BOOKS_SLOT_BYTES,
                "slot of %lu bytes, or it has one", bytes);
    if (!mc_has_books(host)) {
        domain->slot = calloc(1, bytes);
    } else if (mc_punch(host->own->books_fd, slot_offset(domain), MC_BOOKS_SLOT_BYTES) == 0) {
        domain->slot = (char *)MC_BOOKS_ADDRESS + slot_offset(domain);
    }
    domain->slot_bytes = domain->slot ? bytes : 0;
    domain->slot_used = 0;
    return domain->slot ? MC_OK : MC_ENOMEM;
}

void *mc_slot_take(struct mc_domain *domain, uint64_t bytes)
{
    void *taken = domain->slot + domain->slot_used;
    MC_CHECK_IN(domain, mc_slot_room(bytes) <= domain->slot_bytes - domain->slot_used,
                "%lu bytes of a slot of %lu, %lu are used", bytes, domain->slot_bytes,
                domain->slot_used);
    domain->slot_used += mc_slot_room(bytes);
    return taken;
}

/* A slot that cannot be punched now is punched when it is opened next. */
void mc_slot_close(struct mc_host *host, struct mc_domain *domain)
{
    MC_CHECK_IN(domain, domain->slot_used <= domain->slot_bytes, "%lu bytes of a slot of %lu",
                domain->slot_used, domain->slot_bytes);
    if (mc_has_books(host) && domain->slot)
        (void)mc_punch(host->own->books_fd, slot_offset(domain), MC_BOOKS_SLOT_BYTES);
    else
        free(domain->slot);
    domain->slot = NULL;
    domain->slot_bytes = domain->slot_used = 0;
}
