/* backing.h: the kernel's memory calls.
 *
 * Owns:  creating and sealing memfds, aligned mappings, populating (having the kernel give pages),
 *        punching (having the kernel take pages back), and counting the pages that are there.
 * Rules: 2 MiB pages are asked for and never assumed. There are three ways to them, best first:
 *        shared memory that honours MADV_HUGEPAGE; MADV_COLLAPSE of a populated area (Linux 6.1,
 *        whatever shmem_enabled says); a file on a tmpfs mounted huge=always. The first two keep
 *        the seals of a memfd. A file on tmpfs cannot be sealed: a guest that holds the file can
 *        shrink it, and a process that then copies from the mapping dies of SIGBUS. Such ram is for
 *        trusted guests: the hypervisor touches it by madvise alone, which returns an error
 *        instead, and serves it no tmem.
 *        Small pages are given by writing zeroes to the file, others by MADV_POPULATE_WRITE
 *        through the hypervisor's mapping: fallocate would leave the zeroing of the pages to the
 *        first fault, which is the guest's.
 * Each function returns >= 0, or minus errno.
 */
#ifndef MC_BACKING_H
#define MC_BACKING_H

#include "layout.h"

/* cdef-begin */
/* A memfd of exactly `bytes`, sealed against shrinking, growing and further sealing. */
int mc_memfd(const char *name, uint64_t bytes);
/* A file without a name of exactly `bytes` in a directory, for a tmpfs mounted huge=always. */
int mc_tmpfile(const char *directory, uint64_t bytes);
/* Map the first `bytes` of the fd shared, aligned to 2 MiB, and ask for huge pages; the address. An
 * fd shorter than `bytes` is refused with -EINVAL: a touch beyond its end would be a SIGBUS. */
int64_t mc_map(int fd, uint64_t bytes);
/* As mc_map, at `address`, a multiple of 2 MiB. -EEXIST when something is mapped in that range. */
int64_t mc_map_at(int fd, uint64_t bytes, uint64_t address);
int mc_unmap(uint64_t address, uint64_t bytes);
/* Map private memory that has no pages yet, aligned to 2 MiB; the address. */
int64_t mc_map_anonymous(uint64_t bytes);
/* Give and zero the pages of [address, address + bytes). */
int mc_populate_write(uint64_t address, uint64_t bytes);
/* As mc_populate_write, through the file: pages of a memfd or file that reads as zeroes afterwards,
 * whatever was there. Half the time of faults, and no mapping gets the pages yet. The kernel takes
 * the lock of the file's inode, as for a punch. */
int mc_write_zeroes(int fd, uint64_t offset, uint64_t bytes);
/* As mc_populate_write, for whole aligned areas: make each one page of 2 MiB where it is not yet.
 * An area for which the kernel has no huge page keeps small ones, which is a success too. */
int mc_populate_huge(uint64_t address, uint64_t bytes);
/* MADV_HUGEPAGE for MC_BACKING_2M, MADV_NOHUGEPAGE for MC_BACKING_4K, nothing for any. */
int mc_advise_backing(uint64_t address, uint64_t bytes, int kind);
/* Prefer NUMA node `node` for the pages that a mapping has not got yet (mbind, MPOL_PREFERRED). */
int mc_bind_node(uint64_t address, uint64_t bytes, int node);
/* Bytes of [address, address + bytes) of shared memory that are mapped by pages of 2 MiB. */
int64_t mc_huge_bytes(uint64_t address, uint64_t bytes);
/* Map pages that exist already, without a fault each. */
int mc_populate_read(uint64_t address, uint64_t bytes);
/* Free the pages of [offset, offset + bytes) of a memfd in every mapping. */
int mc_punch(int fd, uint64_t offset, uint64_t bytes);
/* Free the pages of a range, anonymous or a memfd's. */
int mc_discard(uint64_t address, uint64_t bytes);
/* Bytes of memory behind a memfd (st_blocks * 512). */
int64_t mc_resident_bytes(int fd);
/* 1 when a memfd gets 2 MiB pages at the first touch on this machine, found by trying, else 0. */
int mc_shmem_thp(void);
/* cdef-end */

#endif
