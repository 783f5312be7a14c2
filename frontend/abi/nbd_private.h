/* nbd_private.h: a connection, shared by the files nbd_*.c only. */
#ifndef MC_NBD_PRIVATE_H
#define MC_NBD_PRIVATE_H

#include "nbd.h"

#include <endian.h>
#include <pthread.h>
#include <string.h>
#include <sys/uio.h>

#define MC_NBD_HEAD_BYTES 512   /* the longest answer in the negotiation, its name included */
#define MC_NBD_REQUEST_BYTES 28

/* What a connection waits for, or does. */
enum mc_nbd_phase {
    MC_NBD_CLIENT_FLAGS, MC_NBD_OPTION, MC_NBD_OPTION_DATA, /* negotiation */
    MC_NBD_REQUEST,     /* the next request */
    MC_NBD_PAYLOAD,     /* the bytes of a write, a window at a time */
    MC_NBD_READING, MC_NBD_CLEARING
};

/* What a step did. */
enum mc_nbd_step { MC_NBD_WAITS, MC_NBD_WENT_ON, MC_NBD_ENDS };

struct mc_nbd_request {
    uint16_t command, flags;
    uint64_t handle;            /* as it came */
    uint64_t at, end;           /* bytes of the device that are still to be done */
    uint32_t error;             /* the first, for the reply */
    int is_begun;               /* a part of the answer has been sent */
    int is_refused;
};

struct mc_nbd_connection {
    int fd;                     /* -1: free */
    uint32_t events;            /* that epoll watches */
    enum mc_nbd_phase phase;
    uint64_t deadline_ns;       /* of the negotiation; 0 after it */
    int64_t staging;            /* the first of its frames, or -1 */
    int is_structured, has_zeroes, is_ending, is_faulty;
    uint32_t options;
    uint32_t option, option_bytes;
    uint32_t have;              /* bytes of `in`, or of the window of a write */
    struct mc_nbd_request request;
    uint32_t head_bytes;
    uint32_t parts_at, parts_count;
    struct iovec parts[MC_BLOCKS_WINDOW + 1];
    uint8_t head[MC_NBD_HEAD_BYTES];
    uint8_t in[MC_NBD_OPTION_BYTES];
};

struct mc_nbd {
    struct mc_nbd_options options;
    pthread_t thread;
    int epoll_fd, stop_fd;
    uint64_t accept_at_ns;      /* 0: it accepts; else it does again then */
    uint32_t slots;
    uint32_t greeting;          /* connections that negotiate */
    struct mc_nbd_connection *connections;
    uint32_t staging_count;     /* that no connection has */
    uint32_t stagings[MC_NBD_CONNECTIONS_MAX + 1];
    struct mc_nbd_statistics counted;
};

static inline void mc_nbd_count(uint64_t *counter, uint64_t by)
{
    __atomic_store_n(counter, *counter + by, __ATOMIC_RELAXED);
}

static inline uint32_t mc_nbd_get32(const uint8_t *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return be32toh(value);
}

static inline uint64_t mc_nbd_get64(const uint8_t *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof value);
    return be64toh(value);
}

/* Numbers and bytes at the end of what is to be sent before the parts. */
void mc_nbd_put(struct mc_nbd_connection *connection, const void *bytes, uint32_t count);
void mc_nbd_put16(struct mc_nbd_connection *connection, uint16_t value);
void mc_nbd_put32(struct mc_nbd_connection *connection, uint32_t value);
void mc_nbd_put64(struct mc_nbd_connection *connection, uint64_t value);
/* Have the head sent, and parts 1 to `parts` behind it. */
void mc_nbd_answer(struct mc_nbd_connection *connection, uint32_t parts);
/* Receive until `in` has `wanted` bytes: WENT_ON when it has. */
enum mc_nbd_step mc_nbd_fill(struct mc_nbd_connection *connection, uint32_t wanted);
/* Receive at most `most` bytes at `to`; how many, 0 when it waits, -1 at the end or an error. */
int64_t mc_nbd_receive(struct mc_nbd_connection *connection, void *to, uint64_t most);
/* The client broke the protocol. */
enum mc_nbd_step mc_nbd_break_off(struct mc_nbd_connection *connection);
/* Send more of what is to be sent. */
enum mc_nbd_step mc_nbd_send(struct mc_nbd_connection *connection);

/* nbd_greeting.c: the negotiation: greet once, then a step at a time while it lasts. */
void mc_nbd_greet(struct mc_nbd_connection *connection);
enum mc_nbd_step mc_nbd_negotiate(struct mc_nbd *nbd, struct mc_nbd_connection *connection);
/* nbd_request.c: the same for requests. */
enum mc_nbd_step mc_nbd_serve(struct mc_nbd *nbd, struct mc_nbd_connection *connection);

#endif
