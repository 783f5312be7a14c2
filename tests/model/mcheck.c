/* mcheck.c: see mcheck.h. Its coroutines are written for x86-64 and for aarch64. */
#include "mcheck.h"

#include <stdio.h>
#include <stdlib.h>

#define STACK_BYTES (256 * 1024)
#define STORES_MAX 16               /* a thread's stores that nobody sees yet */
#define CHOICES_MAX 20000           /* choices of one execution */
#define STEPS_MAX 4000              /* steps of one execution: more is a loop without an end */
#define GO_ON_ODDS 8                /* one choice in so many is any, when sampling */
#define SEED 0x9e3779b97f4a7c15
#define TOLD_MAX 24                 /* last steps of a failed execution that are printed */

enum mck_model mck_model = MCK_SC;
int mck_preemptions_max = 2, mck_more;
static const char *const models[] = {"sc", "tso", "weak"};

struct store {
    void *address;
    uint64_t value;
    int size, release;
    enum mck_op op;
};

struct thread {
    void *stack_pointer;
    char *stack;
    void (*run)(void *);
    void *argument;
    int done;
    uint32_t *futex;                /* asleep on it */
    int woken;
    int *flag;                      /* asleep until it is set */
    struct store stores[STORES_MAX];
    int store_count;
};

struct step {
    int thread;
    const char *what;
    void *address;
    uint64_t value;
};

static struct thread threads[MCK_THREADS_MAX];
static void *main_stack_pointer;
static int current, thread_count, exploring;
/* The choices of this execution, how many there were at each, and how many are given. */
static int taken[CHOICES_MAX], offered[CHOICES_MAX], depth, given;
static int sampling;                /* choices are made by chance, not in their order */
static uint64_t chance;
static const char *failure;
static char check_text[256];
static int step_count;
static struct step told[TOLD_MAX];

/* ---- coroutines: swapcontext would make a system call for each switch ---- */

void mck_switch(void **from, void *to);
#if defined(__x86_64__)
#define SAVED_WORDS 6               /* what a switch pops before it returns */
__asm__(".text\n.globl mck_switch\nmck_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");
#elif defined(__aarch64__)
#define SAVED_WORDS 21              /* d8 to d15, x19 to x29, a word to align; then x30 */
__asm__(".text\n.globl mck_switch\nmck_switch:\n"
        "sub sp, sp, #176\n"
        "stp d8, d9, [sp]\nstp d10, d11, [sp, #16]\n"
        "stp d12, d13, [sp, #32]\nstp d14, d15, [sp, #48]\n"
        "stp x19, x20, [sp, #64]\nstp x21, x22, [sp, #80]\nstp x23, x24, [sp, #96]\n"
        "stp x25, x26, [sp, #112]\nstp x27, x28, [sp, #128]\nstr x29, [sp, #144]\n"
        "str x30, [sp, #168]\n"
        "mov x2, sp\nstr x2, [x0]\nmov sp, x1\n"
        "ldp d8, d9, [sp]\nldp d10, d11, [sp, #16]\n"
        "ldp d12, d13, [sp, #32]\nldp d14, d15, [sp, #48]\n"
        "ldp x19, x20, [sp, #64]\nldp x21, x22, [sp, #80]\nldp x23, x24, [sp, #96]\n"
        "ldp x25, x26, [sp, #112]\nldp x27, x28, [sp, #128]\nldr x29, [sp, #144]\n"
        "ldr x30, [sp, #168]\nadd sp, sp, #176\nret\n");
#else
#error "the coroutines of the model checker are not written for this machine"
#endif

static void leave(void)
{
    mck_switch(&threads[current].stack_pointer, main_stack_pointer);
}

static void fail(const char *what)
{
    if (failure == NULL)
        failure = what;
}

/* A choice by chance: most often the first, which goes on with the same thread. */
static int sample(int count)
{
    chance ^= chance << 13, chance ^= chance >> 7, chance ^= chance << 17;
    return chance % GO_ON_ODDS ? 0 : (int)(chance / GO_ON_ODDS % (unsigned)count);
}

static int choose(int count)
{
    if (count <= 1)
        return 0;
    if (depth >= CHOICES_MAX) {
        fail("more choices than the checker keeps");
        return 0;
    }
    if (depth >= given)
        taken[depth] = sampling ? sample(count) : 0;
    offered[depth] = count;
    return taken[depth++];
}

/* ---- memory ---- */

static uint64_t raw_load(void *address, int size)
{
    switch (size) {
    case 1: return *(volatile uint8_t *)address;
    case 2: return *(volatile uint16_t *)address;
    case 4: return *(volatile uint32_t *)address;
    default: return *(volatile uint64_t *)address;
    }
}

static void raw_store(void *address, uint64_t value, int size)
{
    switch (size) {
    case 1: *(volatile uint8_t *)address = (uint8_t)value; break;
    case 2: *(volatile uint16_t *)address = (uint16_t)value; break;
    case 4: *(volatile uint32_t *)address = (uint32_t)value; break;
    default: *(volatile uint64_t *)address = value;
    }
}

static uint64_t changed(uint64_t old, uint64_t value, enum mck_op op)
{
    switch (op) {
    case MCK_ADD: return old + value;
    case MCK_SUB: return old - value;
    case MCK_AND: return old & value;
    case MCK_OR: return old | value;
    default: return value;
    }
}

/* Show store `index` of a thread to all. */
static void show(struct thread *thread, int index)
{
    struct store *store = &thread->stores[index];
    uint64_t old = raw_load(store->address, store->size);
    raw_store(store->address, changed(old, store->value, store->op), store->size);
    thread->store_count--;
    memmove(store, store + 1, (size_t)(thread->store_count - index) * sizeof *store);
}

static void show_all(struct thread *thread)
{
    while (thread->store_count > 0)
        show(thread, 0);
}

/* Whether the model lets store `index` be seen before those in front of it. */
static int may_show(const struct thread *thread, int index)
{
    const struct store *store = &thread->stores[index];
    if (index > 0 && (mck_model == MCK_TSO || store->release))
        return 0;
    for (int i = 0; i < index; i++)
        if (thread->stores[i].address == store->address)
            return 0;
    return 1;
}

static void keep(struct thread *thread, struct store store)
{
    if (thread->store_count == STORES_MAX)
        show(thread, 0);
    thread->stores[thread->store_count++] = store;
}

/* What the thread itself sees: memory, and its own stores on top. */
static uint64_t seen_by(const struct thread *thread, void *address, int size)
{
    uint64_t value = raw_load(address, size);
    for (int i = 0; i < thread->store_count; i++)
        if (thread->stores[i].address == address)
            value = changed(value, thread->stores[i].value, thread->stores[i].op);
    return value;
}

static int is_release(int order)
{
    return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

/* ---- what the checked sources call; each is a point where another thread may go on ---- */

static void point(const char *what, void *address, uint64_t value)
{
    if (!exploring)
        return;
    leave();
    told[step_count++ % TOLD_MAX] = (struct step){current, what, address, value};
    if (step_count >= STEPS_MAX) {
        fail("a loop without an end");
        leave();
    }
}

uint64_t mck_load(void *address, int size)
{
    if (!exploring)
        return raw_load(address, size);
    point("load", address, 0);
    return seen_by(&threads[current], address, size);
}

void mck_store(void *address, uint64_t value, int size, int order)
{
    struct store store = {address, value, size, is_release(order), MCK_SWAP};
    point("store", address, value);
    if (!exploring || mck_model == MCK_SC) {
        raw_store(address, value, size);
        return;
    }
    keep(&threads[current], store);
    if (order == __ATOMIC_SEQ_CST)
        show_all(&threads[current]);
}

uint64_t mck_change(void *address, uint64_t value, int size, enum mck_op op, int order)
{
    static const char *const names[] = {"add", "subtract", "and", "or", "swap"};
    struct thread *thread = &threads[current];
    point(names[op], address, value);
    if (exploring && mck_model == MCK_WEAK && op <= MCK_SUB &&
        (order == __ATOMIC_RELAXED || order == __ATOMIC_RELEASE)) {
        uint64_t before = seen_by(thread, address, size);
        keep(thread, (struct store){address, value, size, is_release(order), op});
        return before;
    }
    if (exploring)
        show_all(thread);
    uint64_t old = raw_load(address, size);
    raw_store(address, changed(old, value, op), size);
    return old;
}

int mck_exchange(void *address, void *seen, uint64_t value, int size, int order)
{
    (void)order;
    point("exchange", address, value);
    if (exploring)
        show_all(&threads[current]);
    uint64_t old = raw_load(address, size), wanted = raw_load(seen, size);
    if (old == wanted)
        raw_store(address, value, size);
    else
        raw_store(seen, old, size);
    return old == wanted;
}

void mck_fence(int order)
{
    if (order != __ATOMIC_SEQ_CST)
        return;
    point("fence", NULL, 0);
    if (exploring)
        show_all(&threads[current]);
}

void *mck_copy(void *to, const void *from, size_t bytes)
{
    point("copy", to, bytes);
    return memmove(to, from, bytes);
}

/* The kernel looks at the word under a lock, which is a full fence. */
long mck_futex(uint32_t *word, int op, uint32_t value)
{
    struct thread *thread = &threads[current];
    point(op == FUTEX_WAKE ? "futex wake" : "futex wait", word, value);
    show_all(thread);
    if (op == FUTEX_WAKE) {
        for (int i = 0; i < thread_count; i++)
            if (threads[i].futex == word)
                threads[i].woken = 1;
        return 0;
    }
    if (*(volatile uint32_t *)word != value) {
        errno = EAGAIN;
        return -1;
    }
    thread->futex = word, thread->woken = 0;
    leave();
    thread->futex = NULL;
    return 0;
}

void mck_block(int *flag)
{
    struct thread *thread = &threads[current];
    point("sleep", flag, 0);
    show_all(thread);
    if (!*flag) {
        thread->flag = flag;
        leave();
        thread->flag = NULL;
    }
    *flag = 0;
}

void mck_wake(int *flag)
{
    point("wake", flag, 0);
    show_all(&threads[current]);
    *flag = 1;
}

void mck_assert(int holds, const char *what)
{
    if (!holds)
        fail(what);
}

/* MC_CHECK of the checked sources: a check that fires is a failure found. */
void mc_check_failed(const char *file, int line, const char *function, const char *condition,
                     const char *format, ...)
{
    (void)file, (void)format;
    snprintf(check_text, sizeof check_text, "MC_CHECK in %s, line %d: %s", function, line,
             condition);
    fail(check_text);
    if (!exploring) {
        fprintf(stderr, "%s\n", check_text);
        abort();
    }
    for (;;)
        leave();
}

/* ---- executions ---- */

static void entry(void)
{
    struct thread *thread = &threads[current];
    thread->run(thread->argument);
    show_all(thread);
    thread->done = 1;
    leave();
}

void mck_spawn(void (*run)(void *), void *argument)
{
    struct thread *thread = &threads[thread_count++];
    char *stack = thread->stack ? thread->stack : malloc(STACK_BYTES);
    *thread = (struct thread){.stack = stack, .run = run, .argument = argument};
    void **top = (void **)(((uintptr_t)stack + STACK_BYTES - 64) & ~(uintptr_t)15);
    *--top = NULL;                  /* where entry would return to; it aligns the stack, too */
    *--top = (void *)entry;
    for (int i = 0; i < SAVED_WORDS; i++)
        *--top = NULL;              /* the registers that mck_switch takes */
    thread->stack_pointer = top;
}

static int can_run(const struct thread *thread)
{
    if (thread->done)
        return 0;
    if (thread->futex)
        return thread->woken;
    return thread->flag ? *thread->flag : 1;
}

/* Run the threads to their end, or to a failure. */
static void execute(void)
{
    int last = -1, preemptions = 0;
    while (failure == NULL) {
        struct { int thread, store; } options[MCK_THREADS_MAX * (STORES_MAX + 1)];
        int count = 0, alive = 0, goes_on = last >= 0 && can_run(&threads[last]);
        if (goes_on)
            options[count].thread = last, options[count++].store = -1;
        for (int i = 0; i < thread_count; i++) {
            alive += !threads[i].done;
            if (i != last && can_run(&threads[i]) &&
                (!goes_on || preemptions < mck_preemptions_max))
                options[count].thread = i, options[count++].store = -1;
        }
        if (!alive)
            return;
        for (int i = 0; i < thread_count; i++)
            for (int k = 0; k < threads[i].store_count; k++)
                if (may_show(&threads[i], k))
                    options[count].thread = i, options[count++].store = k;
        if (count == 0) {
            fail("all threads sleep: a wake-up was lost");
            return;
        }
        int pick = choose(count);
        current = options[pick].thread;
        if (options[pick].store >= 0) {
            show(&threads[current], options[pick].store);
            continue;
        }
        preemptions += goes_on && current != last;
        last = current;
        mck_switch(&main_stack_pointer, threads[current].stack_pointer);
    }
}

static void report(const char *name, const char *verdict, uint64_t executions)
{
    printf("{\"name\": \"%s\", \"model\": \"%s\", \"preemptions\": %d, \"executions\": %lu, "
           "\"verdict\": \"%s\", \"why\": \"%s\", \"steps\": [", name, models[mck_model],
           mck_preemptions_max, (unsigned long)executions, verdict, failure ? failure : "");
    int first = failure ? (step_count > TOLD_MAX ? step_count - TOLD_MAX : 0) : step_count;
    for (int i = first; i < step_count; i++) {
        const struct step *step = &told[i % TOLD_MAX];
        printf("%s\"thread %d: %s %p %#lx\"", i > first ? ", " : "", step->thread, step->what,
               step->address, (unsigned long)step->value);
    }
    printf("]}\n");
    fflush(stdout);
}

/* One execution; 1 unless it failed. */
static int run_once(void (*setup)(void), void (*final)(void))
{
    thread_count = depth = step_count = 0;
    failure = NULL;
    setup();
    exploring = 1;
    execute();
    exploring = 0;
    if (failure == NULL)
        final();
    return failure == NULL;
}

/* The next choices in their order; 0 when all were taken. */
static int next_choices(void)
{
    while (depth > 0 && taken[depth - 1] + 1 >= offered[depth - 1])
        depth--;
    if (depth == 0)
        return 0;
    taken[depth - 1]++;
    given = depth;
    return 1;
}

int mck_explore(void (*setup)(void), void (*final)(void), uint64_t executions_max,
                const char *name)
{
    uint64_t executions = 0;
    int holds = 1, complete = 0;
    given = sampling = 0;
    chance = SEED;
    while (holds && !complete && executions < executions_max) {
        holds = run_once(setup, final);
        executions++;
        sampling = executions >= executions_max / 2;
        if (sampling)
            given = 0;
        else
            complete = !next_choices();
    }
    report(name, !holds ? "failed" : complete ? "complete" : "bounded", executions);
    return holds;
}

uint64_t mck_arguments(int argc, char **argv)
{
    for (int i = 0; i < 3 && (argc == 3 || argc == 4); i++)
        if (strcmp(argv[1], models[i]) == 0) {
            mck_model = (enum mck_model)i;
            mck_more = argc == 4 ? atoi(argv[3]) : 0;
            return strtoull(argv[2], NULL, 10);
        }
    fprintf(stderr, "usage: %s sc|tso|weak EXECUTIONS_MAX [MORE]\n", argv[0]);
    exit(2);
}
