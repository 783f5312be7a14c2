/* nbd_serve.c: the thread that serves all connections of a device. See nbd.h.
 *
 *   1. wait in epoll: for the next client, a request, room for an answer, the stop.
 *   2. give a connection that has something a turn: steps until it waits or has answered a request,
 *      MC_NBD_TURN_STEPS at most.
 *   3. close those whose negotiation took too long.
 *
 * The thread sleeps as soon as there is nothing to do. Looking for the next request without
 * sleeping would take a CPU from the client, which has to run before it can ask.
 */
#include "nbd_private.h"

#include "check.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS_MAX 16
#define ACCEPTS_MAX 16              /* in one go */
#define ACCEPT_AGAIN_NS 100000000   /* when there was no fd or memory for a connection */
#define NS_PER_MS 1000000
/* What epoll says an event is about: a connection's number, or one of these. */
#define ABOUT_LISTENER UINT32_MAX
#define ABOUT_STOP (UINT32_MAX - 1)

static int watch(const struct mc_nbd *nbd, int fd, uint32_t events, uint32_t about, int how)
{
    struct epoll_event event = {.events = events, .data.u32 = about};
    return epoll_ctl(nbd->epoll_fd, how, fd, &event);
}

static void connection_close(struct mc_nbd *nbd, struct mc_nbd_connection *connection)
{
    if (connection->fd < 0)
        return;
    close(connection->fd);      /* epoll forgets it with its last fd */
    if (connection->staging >= 0)
        nbd->stagings[nbd->staging_count++] = (uint32_t)connection->staging;
    MC_CHECK(nbd->staging_count <= nbd->options.connections, "%u stagings are free",
             nbd->staging_count);
    nbd->greeting -= connection->deadline_ns != 0;
    mc_nbd_count(&nbd->counted.broken_off, connection->is_faulty != 0);
    mc_nbd_count(&nbd->counted.connections, (uint64_t)-1);
    connection->fd = -1;
}

static enum mc_nbd_step connection_step(struct mc_nbd *nbd, struct mc_nbd_connection *connection)
{
    if (connection->parts_at < connection->parts_count)
        return mc_nbd_send(connection);
    if (connection->is_ending)
        return MC_NBD_ENDS;
    return connection->phase < MC_NBD_REQUEST ? mc_nbd_negotiate(nbd, connection)
                                              : mc_nbd_serve(nbd, connection);
}

/* What would let the connection go on. */
static uint32_t connection_events(const struct mc_nbd_connection *connection)
{
    int works = connection->phase == MC_NBD_READING || connection->phase == MC_NBD_CLEARING;
    return connection->parts_at < connection->parts_count || connection->is_ending || works
        ? EPOLLOUT : EPOLLIN;
}

static int connection_is_done(const struct mc_nbd_connection *connection)
{
    return connection->phase == MC_NBD_REQUEST && connection->have == 0 &&
           connection->parts_at == connection->parts_count && !connection->is_ending;
}

static void connection_turn(struct mc_nbd *nbd, uint32_t number)
{
    struct mc_nbd_connection *connection = &nbd->connections[number];
    enum mc_nbd_step step = MC_NBD_WENT_ON;
    for (int i = 0; i < MC_NBD_TURN_STEPS && step == MC_NBD_WENT_ON; i++) {
        step = connection_step(nbd, connection);
        if (connection_is_done(connection))
            break;      /* epoll will tell of another request, and of other connections */
    }
    if (step == MC_NBD_ENDS) {
        connection_close(nbd, connection);
        return;
    }
    uint32_t events = connection_events(connection);
    if (events != connection->events &&
        watch(nbd, connection->fd, events, number, EPOLL_CTL_MOD) < 0) {
        connection_close(nbd, connection);
        return;
    }
    connection->events = events;
}

static void connection_open(struct mc_nbd *nbd, int fd)
{
    uint32_t number = 0;
    while (number < nbd->slots && nbd->connections[number].fd >= 0)
        number++;
    if (number == nbd->slots || watch(nbd, fd, EPOLLOUT, number, EPOLL_CTL_ADD) < 0) {
        mc_nbd_count(&nbd->counted.turned_away, 1);
        close(fd);
        return;
    }
    struct mc_nbd_connection *connection = &nbd->connections[number];
    *connection = (struct mc_nbd_connection){
        .fd = fd, .events = EPOLLOUT, .staging = -1,
        .deadline_ns = mc_clock_ns() + nbd->options.greeting_ns};
    nbd->greeting++;
    mc_nbd_count(&nbd->counted.accepted, 1);
    mc_nbd_count(&nbd->counted.connections, 1);
    mc_nbd_greet(connection);
}

static void accept_some(struct mc_nbd *nbd)
{
    for (int i = 0; i < ACCEPTS_MAX; i++) {
        int fd = accept4(nbd->options.listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            connection_open(nbd, fd);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            watch(nbd, nbd->options.listen_fd, 0, ABOUT_LISTENER, EPOLL_CTL_MOD);
            nbd->accept_at_ns = mc_clock_ns() + ACCEPT_AGAIN_NS;
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return;
        }
    }
}

/* Do what is due; how many milliseconds until the next thing is, or -1. */
static int look_at_clock(struct mc_nbd *nbd)
{
    uint64_t now_ns, next_ns = UINT64_MAX;
    if (nbd->greeting == 0 && nbd->accept_at_ns == 0)
        return -1;
    now_ns = mc_clock_ns();
    if (nbd->accept_at_ns && nbd->accept_at_ns <= now_ns) {
        nbd->accept_at_ns = 0;
        watch(nbd, nbd->options.listen_fd, EPOLLIN, ABOUT_LISTENER, EPOLL_CTL_MOD);
    }
    if (nbd->accept_at_ns)
        next_ns = nbd->accept_at_ns;
    for (uint32_t i = 0; i < nbd->slots; i++) {
        struct mc_nbd_connection *connection = &nbd->connections[i];
        if (connection->fd < 0 || connection->deadline_ns == 0)
            continue;
        if (connection->deadline_ns <= now_ns)
            connection_close(nbd, connection);
        else if (connection->deadline_ns < next_ns)
            next_ns = connection->deadline_ns;
    }
    return next_ns == UINT64_MAX ? -1 : (int)((next_ns - now_ns) / NS_PER_MS) + 1;
}

static void *nbd_main(void *context)
{
    struct mc_nbd *nbd = context;
    struct epoll_event events[EVENTS_MAX];
    for (;;) {
        int count = epoll_wait(nbd->epoll_fd, events, EVENTS_MAX, look_at_clock(nbd));
        for (int i = 0; i < count; i++) {
            uint32_t about = events[i].data.u32;
            if (about == ABOUT_STOP)
                return NULL;
            if (about == ABOUT_LISTENER)
                accept_some(nbd);
            else if (nbd->connections[about].fd >= 0)
                connection_turn(nbd, about);
        }
    }
}

static int nbd_open(struct mc_nbd *nbd)
{
    nbd->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    nbd->stop_fd = mc_eventfd(1);
    if (nbd->epoll_fd < 0 || nbd->stop_fd < 0 ||
        watch(nbd, nbd->stop_fd, EPOLLIN, ABOUT_STOP, EPOLL_CTL_ADD) < 0 ||
        watch(nbd, nbd->options.listen_fd, EPOLLIN, ABOUT_LISTENER, EPOLL_CTL_ADD) < 0)
        return MC_EKERNEL;
    sigset_t all, before;
    sigfillset(&all);           /* signals are for the program's own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&nbd->thread, NULL, nbd_main, nbd);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error ? MC_EKERNEL : MC_OK;
}

static void nbd_free(struct mc_nbd *nbd)
{
    if (nbd->epoll_fd >= 0)
        close(nbd->epoll_fd);
    if (nbd->stop_fd >= 0)
        close(nbd->stop_fd);
    free(nbd->connections);
    free(nbd);
}

int mc_nbd_start(struct mc_nbd **out, const struct mc_nbd_options *options)
{
    struct mc_nbd *nbd = calloc(1, sizeof *nbd);
    *out = NULL;
    if (nbd == NULL)
        return MC_ENOMEM;
    MC_CHECK(options->connections >= 1 && options->connections <= MC_NBD_CONNECTIONS_MAX,
             "%u connections", options->connections);
    nbd->options = *options;
    nbd->options.stagings = NULL;
    nbd->epoll_fd = nbd->stop_fd = -1;
    nbd->staging_count = options->connections;
    memcpy(nbd->stagings, options->stagings, sizeof *nbd->stagings * (options->connections + 1));
    nbd->slots = options->connections + MC_NBD_GREETING;
    nbd->connections = calloc(nbd->slots, sizeof *nbd->connections);
    int status = nbd->connections == NULL ? MC_ENOMEM : MC_OK;
    for (uint32_t i = 0; status == MC_OK && i < nbd->slots; i++)
        nbd->connections[i].fd = -1;
    if (status == MC_OK)
        status = nbd_open(nbd);
    if (status == MC_OK)
        *out = nbd;
    else
        nbd_free(nbd);
    return status;
}

void mc_nbd_stop(struct mc_nbd *nbd, struct mc_nbd_statistics *last)
{
    if (nbd == NULL)
        return;
    mc_eventfd_ring(nbd->stop_fd);
    pthread_join(nbd->thread, NULL);
    for (uint32_t i = 0; i < nbd->slots; i++)
        connection_close(nbd, &nbd->connections[i]);
    mc_nbd_statistics(nbd, last);
    nbd_free(nbd);
}

void mc_nbd_statistics(const struct mc_nbd *nbd, struct mc_nbd_statistics *out)
{
    const uint64_t *from = (const uint64_t *)&nbd->counted;
    uint64_t *to = (uint64_t *)out;
    for (uint64_t i = 0; i < sizeof *out / sizeof *to; i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}
