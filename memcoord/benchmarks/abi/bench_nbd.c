/* bench_nbd.c: see bench_nbd.h. */
#include "bench_nbd.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#define REQUEST_MAGIC 0x25609513u
#define REPLY_MAGIC 0x67446698u
#define NS_PER_S 1000000000ull

enum { READ = 0, WRITE = 1 };

struct request {
    uint32_t magic;
    uint16_t flags, command;
    uint64_t handle, offset;
    uint32_t bytes;
} __attribute__((packed));

struct reply {
    uint32_t magic, error;
    uint64_t handle;
} __attribute__((packed));

/* Send or receive all of the parts, which are used up. */
static int transfer(int fd, struct iovec *parts, uint32_t count, int is_write)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    while (message.msg_iovlen > 0) {
        ssize_t done = is_write ? sendmsg(fd, &message, MSG_NOSIGNAL)
                                : recvmsg(fd, &message, MSG_WAITALL);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done == 0 ? MC_EGONE : MC_EKERNEL;
        while (message.msg_iovlen > 0 && (size_t)done >= message.msg_iov->iov_len) {
            done -= (ssize_t)message.msg_iov->iov_len;
            message.msg_iov++;
            message.msg_iovlen--;
        }
        if (message.msg_iovlen > 0) {
            message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + done;
            message.msg_iov->iov_len -= (size_t)done;
        }
    }
    return MC_OK;
}

static int ask(int fd, uint16_t command, uint64_t offset, void *data, uint32_t bytes)
{
    struct request request = {
        .magic = htobe32(REQUEST_MAGIC), .command = htobe16(command), .handle = offset,
        .offset = htobe64(offset), .bytes = htobe32(bytes)};
    struct reply reply;
    struct iovec out[] = {{.iov_base = &request, .iov_len = sizeof request},
                          {.iov_base = data, .iov_len = bytes}};
    struct iovec in[] = {{.iov_base = &reply, .iov_len = sizeof reply},
                         {.iov_base = data, .iov_len = bytes}};
    int status = transfer(fd, out, command == WRITE ? 2 : 1, 1);
    if (status == MC_OK)    /* an error brings no data: then this waits for the socket's timeout */
        status = transfer(fd, in, command == READ ? 2 : 1, 0);
    if (status != MC_OK)
        return status;
    return be32toh(reply.magic) == REPLY_MAGIC && reply.error == 0 && reply.handle == offset
        ? MC_OK : MC_EBROKEN;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

int mcb_nbd(int fd, int is_write, uint64_t *samples, uint32_t count, uint32_t bytes, uint64_t size,
            uint64_t seed, uint64_t rest_ns)
{
    static const uint16_t commands[] = {READ, WRITE};
    uint64_t data[MCB_NBD_BYTES_MAX / sizeof(uint64_t)];
    const struct timespec rest = {.tv_sec = (time_t)(rest_ns / NS_PER_S),
                                  .tv_nsec = (long)(rest_ns % NS_PER_S)};
    if (bytes == 0 || bytes > MCB_NBD_BYTES_MAX || size < bytes || seed == 0)
        return MC_EINDEX;
    memset(data, 1, sizeof data);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t offset = next_random(&seed) % (size / bytes) * bytes;
        for (uint32_t at = 0; is_write && at < bytes; at += MC_FRAME_BYTES)
            data[at / sizeof *data] = seed + at;    /* no two pages are the same */
        if (rest_ns)
            nanosleep(&rest, NULL);
        uint64_t start_ns = mc_clock_ns();
        int status = ask(fd, commands[is_write != 0], offset, data, bytes);
        samples[i] = mc_clock_ns() - start_ns;
        if (status != MC_OK)
            return status;
    }
    return MC_OK;
}

static void mark(uint64_t *page, uint64_t block, uint64_t version)
{
    for (uint64_t i = 0; i < MC_FRAME_BYTES / sizeof *page; i++)
        page[i] = (block + 1) * 0x9e3779b97f4a7c15ull ^ (version << 32 | i);
}

int mcb_nbd_fill(int fd, uint64_t size, uint64_t version)
{
    uint64_t page[MC_FRAME_BYTES / sizeof(uint64_t)];
    int status = MC_OK;
    for (uint64_t at = 0; at < size && status == MC_OK; at += MC_FRAME_BYTES) {
        mark(page, at >> MC_FRAME_SHIFT, version);
        status = ask(fd, WRITE, at, page, sizeof page);
    }
    return status;
}

int mcb_nbd_verify(int fd, uint64_t size, uint64_t version)
{
    uint64_t page[MC_FRAME_BYTES / sizeof(uint64_t)], wanted[MC_FRAME_BYTES / sizeof(uint64_t)];
    int status = MC_OK;
    for (uint64_t at = 0; at < size && status == MC_OK; at += MC_FRAME_BYTES) {
        mark(wanted, at >> MC_FRAME_SHIFT, version);
        status = ask(fd, READ, at, page, sizeof page);
        if (status == MC_OK && memcmp(page, wanted, sizeof page) != 0)
            status = MC_EBROKEN;
    }
    return status;
}
