/* nbd_greeting.c: the negotiation with a client; fixed newstyle. See nbd.h. */
#include "nbd_private.h"

#define MAGIC 0x4e42444d41474943ull         /* "NBDMAGIC" */
#define OPTION_MAGIC 0x49484156454f5054ull  /* "IHAVEOPT" */
#define REPLY_MAGIC 0x3e889045565a9ull
#define OPTION_HEAD_BYTES 16
#define EXPORT_ZEROES 124                   /* behind the answer to EXPORT_NAME */

enum { FIXED_NEWSTYLE = 1, NO_ZEROES = 2 };     /* the same bits from server and client */
enum option { EXPORT_NAME = 1, ABORT = 2, LIST = 3, INFO = 6, GO = 7, STRUCTURED_REPLY = 8 };
enum reply {
    REPLY_ACK = 1, REPLY_SERVER = 2, REPLY_INFO = 3, REPLY_ERRORS = INT32_MIN,
    REPLY_UNSUPPORTED, REPLY_POLICY, REPLY_INVALID, REPLY_UNKNOWN = REPLY_ERRORS + 6
};
enum info { INFO_EXPORT = 0, INFO_BLOCK_SIZE = 3 };
enum transmission_flags {
    HAS_FLAGS = 1, SEND_FLUSH = 4, SEND_FUA = 8, SEND_TRIM = 32, SEND_WRITE_ZEROES = 64,
    CAN_MULTI_CONN = 256, SEND_CACHE = 1024
};

static const uint16_t FLAGS = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES |
                              CAN_MULTI_CONN | SEND_CACHE;

void mc_nbd_greet(struct mc_nbd_connection *connection)
{
    mc_nbd_put64(connection, MAGIC);
    mc_nbd_put64(connection, OPTION_MAGIC);
    mc_nbd_put16(connection, FIXED_NEWSTYLE | NO_ZEROES);
    mc_nbd_answer(connection, 0);
}

static uint64_t device_bytes(const struct mc_nbd *nbd)
{
    return mc_blocks_count(nbd->options.blocks) << MC_FRAME_SHIFT;
}

static void reply(struct mc_nbd_connection *connection, enum reply type, uint32_t bytes)
{
    mc_nbd_put64(connection, REPLY_MAGIC);
    mc_nbd_put32(connection, connection->option);
    mc_nbd_put32(connection, (uint32_t)type);
    mc_nbd_put32(connection, bytes);
}

static void reply_bare(struct mc_nbd_connection *connection, enum reply type)
{
    reply(connection, type, 0);
}

static int is_our_name(const struct mc_nbd *nbd, const uint8_t *name, uint32_t bytes)
{
    const char *own = nbd->options.name;
    return bytes == 0 || (bytes == strlen(own) && memcmp(name, own, bytes) == 0);
}

/* The connection gets a device: a staging, and all the time it wants. */
static int begin_requests(struct mc_nbd *nbd, struct mc_nbd_connection *connection)
{
    if (nbd->staging_count == 0)
        return 0;
    connection->staging = nbd->stagings[--nbd->staging_count];
    connection->phase = MC_NBD_REQUEST;
    connection->deadline_ns = 0;
    nbd->greeting--;
    return 1;
}

static enum mc_nbd_step take_export_name(struct mc_nbd *nbd, struct mc_nbd_connection *connection)
{
    static const uint8_t zeroes[EXPORT_ZEROES];
    if (!is_our_name(nbd, connection->in, connection->option_bytes) ||
        !begin_requests(nbd, connection))
        return mc_nbd_break_off(connection);    /* this option has no answer for a refusal */
    mc_nbd_put64(connection, device_bytes(nbd));
    mc_nbd_put16(connection, FLAGS);
    if (connection->has_zeroes)
        mc_nbd_put(connection, zeroes, sizeof zeroes);
    return MC_NBD_WENT_ON;
}

static void take_list(const struct mc_nbd *nbd, struct mc_nbd_connection *connection)
{
    uint32_t bytes = (uint32_t)strlen(nbd->options.name);
    if (connection->option_bytes != 0) {
        reply_bare(connection, REPLY_INVALID);
        return;
    }
    reply(connection, REPLY_SERVER, 4 + bytes);
    mc_nbd_put32(connection, bytes);
    mc_nbd_put(connection, nbd->options.name, bytes);
    reply_bare(connection, REPLY_ACK);
}

/* INFO and GO: the name's length, the name, how many kinds of information, which. */
static void take_go(struct mc_nbd *nbd, struct mc_nbd_connection *connection)
{
    const uint8_t *in = connection->in;
    uint32_t bytes = connection->option_bytes, name_bytes = bytes < 6 ? 0 : mc_nbd_get32(in);
    if (bytes < 6 || name_bytes > bytes - 6 ||
        2u * (uint32_t)(in[4 + name_bytes] << 8 | in[5 + name_bytes]) != bytes - 6 - name_bytes) {
        reply_bare(connection, REPLY_INVALID);
        return;
    }
    if (!is_our_name(nbd, in + 4, name_bytes)) {
        reply_bare(connection, REPLY_UNKNOWN);
        return;
    }
    if (connection->option == GO && !begin_requests(nbd, connection)) {
        reply_bare(connection, REPLY_POLICY);
        return;
    }
    reply(connection, REPLY_INFO, 12);
    mc_nbd_put16(connection, INFO_EXPORT);
    mc_nbd_put64(connection, device_bytes(nbd));
    mc_nbd_put16(connection, FLAGS);
    reply(connection, REPLY_INFO, 14);
    mc_nbd_put16(connection, INFO_BLOCK_SIZE);
    mc_nbd_put32(connection, MC_FRAME_BYTES);   /* smaller ones cost a read and a write */
    mc_nbd_put32(connection, MC_FRAME_BYTES);
    mc_nbd_put32(connection, MC_NBD_BYTES);
    reply_bare(connection, REPLY_ACK);
}

static enum mc_nbd_step take_option(struct mc_nbd *nbd, struct mc_nbd_connection *connection)
{
    enum mc_nbd_step step = MC_NBD_WENT_ON;
    connection->phase = MC_NBD_OPTION;
    connection->have = 0;
    switch (connection->option) {
    case EXPORT_NAME:
        step = take_export_name(nbd, connection);
        break;
    case ABORT:
        reply_bare(connection, REPLY_ACK);
        connection->is_ending = 1;
        break;
    case LIST:
        take_list(nbd, connection);
        break;
    case INFO:
    case GO:
        take_go(nbd, connection);
        break;
    case STRUCTURED_REPLY:
        connection->is_structured |= connection->option_bytes == 0;
        reply_bare(connection, connection->option_bytes == 0 ? REPLY_ACK : REPLY_INVALID);
        break;
    default:
        reply_bare(connection, REPLY_UNSUPPORTED);
    }
    mc_nbd_answer(connection, 0);
    return step;
}

static enum mc_nbd_step take_option_head(struct mc_nbd_connection *connection)
{
    connection->option = mc_nbd_get32(connection->in + 8);
    connection->option_bytes = mc_nbd_get32(connection->in + 12);
    if (mc_nbd_get64(connection->in) != OPTION_MAGIC ||
        connection->option_bytes > MC_NBD_OPTION_BYTES || ++connection->options > MC_NBD_OPTIONS)
        return mc_nbd_break_off(connection);
    connection->have = 0;
    connection->phase = MC_NBD_OPTION_DATA;
    return MC_NBD_WENT_ON;
}

enum mc_nbd_step mc_nbd_negotiate(struct mc_nbd *nbd, struct mc_nbd_connection *connection)
{
    const uint32_t wanted = connection->phase == MC_NBD_CLIENT_FLAGS ? 4
        : connection->phase == MC_NBD_OPTION ? OPTION_HEAD_BYTES : connection->option_bytes;
    enum mc_nbd_step step = mc_nbd_fill(connection, wanted);
    if (step != MC_NBD_WENT_ON || connection->have < wanted)
        return step;
    if (connection->phase == MC_NBD_OPTION)
        return take_option_head(connection);
    if (connection->phase == MC_NBD_OPTION_DATA)
        return take_option(nbd, connection);
    uint32_t flags = mc_nbd_get32(connection->in);
    if (!(flags & FIXED_NEWSTYLE) || flags & ~(uint32_t)(FIXED_NEWSTYLE | NO_ZEROES))
        return mc_nbd_break_off(connection);
    connection->has_zeroes = !(flags & NO_ZEROES);
    connection->have = 0;
    connection->phase = MC_NBD_OPTION;
    return MC_NBD_WENT_ON;
}
