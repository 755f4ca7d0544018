/* Threads that share the tasks of one operation at a time, and are never waited for unless they are at a task.

   The caller takes tasks as well. A helper that has no processor just then, because somebody else computes there, takes none, and the
   caller does them all. OpenMP ends a loop when every thread has come to its end, also those that had no turn to begin it, and a
   forward pass has hundreds of loops. A helper that loses its processor in the middle of a task is waited for; when such waits come to
   more than half of what helpers save, the caller does without them for a while, longer each time it happens again. So beside busy
   neighbours, or under a quota, a pass takes about as long as on one thread, and not many times that; and where somebody has a processor
   only now and then, that costs no more than the wait.

   `turn` is odd while an operation is open. A helper enters (`inside`), looks whether it is still open, takes tasks, and leaves. The
   caller closes it, then waits until nobody is inside: either the helper saw it closed or the caller sees the helper (both orders are
   sequentially consistent), so an operation's description outlives whoever reads it.

   There are two pools: one for the steps, and one for what a thread computes beside them (`compute_beside`), a long pass. Each says how
   many threads may be at its tasks (`share_processors`); who is one too many leaves after the task it is at, so that a step has its
   processors soon after it asked for them, and a pass need not be cut anywhere. With no thread left to it what is beside stands still, and
   goes on later where it was. */
#define _GNU_SOURCE
#include "pool.h"

#include "vector.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

enum {
    MAX_HELPERS = 255,
    LOOKS_A_GLANCE = 32,    /* looks at a value between two at the clock */
    HELPER_LOOKS_NS = 500000, /* about what lies between two steps of an engine at work, and longer than between two operations of a pass:
                                 waking up takes long on a virtual machine; then the helper sleeps, and costs nobody anything */
    CALLER_LOOKS_NS = 20000, /* then the last helper may need this very processor */
    LATE_NS = 1000000,      /* after two tasks' time and this a helper that is at one has lost its processor */
    SAVED_FOR_WAITED = 2,   /* so many times what they are waited for helpers must save */
    MOST_CREDIT_NS = 10000000, /* of what they have saved counts: two waits of a scheduler's slice */
    LEAST_PAUSE_NS = 10000000,
    MOST_PAUSE_NS = 160000000
};
#define NEVER LONG_MAX

#define ON_ITS_OWN_LINE _Alignas(CACHE_LINE)

typedef struct Pool Pool;

typedef struct {
    Pool *pool;
    long number;
} Helper;

struct Pool {
    pthread_mutex_t caller, sleep;
    pthread_cond_t opened, left, allowed;
    Task task;
    const void *work;
    long num_tasks;
    int num_wanted, num_helpers;
    int num_guests;              /* the first helpers are no threads of the pool: `help_beside` */
    long credit_ns;              /* what late helpers may be waited for, because they have saved more */
    long pause_ns, pause_end_ns; /* how long helpers are left out, and until when */
    ON_ITS_OWN_LINE atomic_ulong turn;
    ON_ITS_OWN_LINE atomic_long next;
    ON_ITS_OWN_LINE atomic_long inside;
    ON_ITS_OWN_LINE atomic_long num_asleep;
    atomic_int caller_sleeps;
    ON_ITS_OWN_LINE atomic_int num_allowed; /* threads that may be at its tasks, the caller first */
    Helper helpers[MAX_HELPERS];
};

#define NEW_POOL(guests) \
    {.num_guests = guests, \
     .caller = PTHREAD_MUTEX_INITIALIZER, \
     .sleep = PTHREAD_MUTEX_INITIALIZER, \
     .opened = PTHREAD_COND_INITIALIZER, \
     .left = PTHREAD_COND_INITIALIZER, \
     .allowed = PTHREAD_COND_INITIALIZER, \
     .num_allowed = MAX_HELPERS + 1}
static Pool for_steps = NEW_POOL(0), beside = NEW_POOL(1);
static _Thread_local Pool *pool_of_thread = &for_steps;

static void pause_a_moment(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

/* Whether one more than `num_before` threads may be at the pool's tasks. */
static int is_allowed(Pool *pool, long num_before) { return num_before < atomic_load(&pool->num_allowed); }

/* Do tasks until there are none, or there are others enough without this thread, or its time is up; return how many. */
static long take_tasks(Pool *pool, long num_before, long until_ns) {
    for (long num_taken = 0;; num_taken++) {
        if (!is_allowed(pool, num_before) || (until_ns != NEVER && now_ns() >= until_ns)) return num_taken;
        const long index = atomic_fetch_add(&pool->next, 1);
        if (index >= pool->num_tasks) return num_taken;
        pool->task(pool->work, index);
    }
}

/* Whether an operation is open that this helper has not seen to its end. */
static int is_news(unsigned long turn, unsigned long seen) { return turn != seen && turn % 2; }

/* Return the turn of the next operation that helper `number` may help with. */
static unsigned long wait_for_turn(Pool *pool, long number, unsigned long seen) {
    const long end_ns = now_ns() + HELPER_LOOKS_NS;
    unsigned long turn;
    while (is_allowed(pool, number + 1) && now_ns() < end_ns)
        for (int look = 0; look < LOOKS_A_GLANCE; look++) {
            turn = atomic_load(&pool->turn);
            if (is_news(turn, seen)) return turn;
            pause_a_moment();
        }
    pthread_mutex_lock(&pool->sleep);
    atomic_fetch_add(&pool->num_asleep, 1);
    while (!is_news(turn = atomic_load(&pool->turn), seen) || !is_allowed(pool, number + 1)) pthread_cond_wait(&pool->opened, &pool->sleep);
    atomic_fetch_sub(&pool->num_asleep, 1);
    pthread_mutex_unlock(&pool->sleep);
    return turn;
}

static void leave(Pool *pool) {
    if (atomic_fetch_sub(&pool->inside, 1) != 1 || !atomic_load(&pool->caller_sleeps)) return;
    pthread_mutex_lock(&pool->sleep);
    pthread_cond_signal(&pool->left);
    pthread_mutex_unlock(&pool->sleep);
}

static void *help(void *helper) {
    Pool *pool = ((Helper *)helper)->pool;
    const long number = ((Helper *)helper)->number;
    for (unsigned long seen = 0;;) {
        const unsigned long turn = wait_for_turn(pool, number, seen);
        atomic_fetch_add(&pool->inside, 1);
        if (atomic_load(&pool->turn) == turn && number < pool->num_wanted) (void)take_tasks(pool, number + 1, NEVER);
        leave(pool);
        /* Who had to leave in the middle may come back to the same operation. */
        if (is_allowed(pool, number + 1)) seen = turn;
    }
    return 0;
}

static void wait_until_left(Pool *pool, long now) {
    const long end_ns = now + CALLER_LOOKS_NS;
    do
        for (int look = 0; look < LOOKS_A_GLANCE; look++) {
            if (!atomic_load(&pool->inside)) return;
            pause_a_moment();
        }
    while (now_ns() < end_ns);
    pthread_mutex_lock(&pool->sleep);
    atomic_store(&pool->caller_sleeps, 1);
    while (atomic_load(&pool->inside)) pthread_cond_wait(&pool->left, &pool->sleep);
    atomic_store(&pool->caller_sleeps, 0);
    pthread_mutex_unlock(&pool->sleep);
}

static void wait_until_allowed(Pool *pool) {
    if (is_allowed(pool, 0)) return;
    pthread_mutex_lock(&pool->sleep);
    while (!is_allowed(pool, 0)) pthread_cond_wait(&pool->allowed, &pool->sleep);
    pthread_mutex_unlock(&pool->sleep);
}

/* A child has this thread alone: it begins anew. */
static void forget_helpers(void) {
    for_steps = (Pool)NEW_POOL(0);
    beside = (Pool)NEW_POOL(1);
}

static void watch_forks(void) { pthread_atfork(0, 0, forget_helpers); }

/* Have `num` helpers, or as many as the system gives. Signals are for the threads that were there before. */
static void have_helpers(Pool *pool, int num) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    sigset_t all, before;
    pthread_once(&once, watch_forks);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (pthread_t thread; pool->num_helpers < num && pool->num_helpers < MAX_HELPERS; pool->num_helpers++) {
        Helper *helper = &pool->helpers[pool->num_helpers];
        *helper = (Helper){pool, pool->num_guests + pool->num_helpers};
        if (pthread_create(&thread, 0, help, helper)) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, 0);
}

/* Leave helpers, who have done `num_helped` tasks, out for a while if they come late for more than they save, and forget about it when
   they have not for as long again. */
static void judge_helpers(Pool *pool, long task_ns, long num_helped, long waited_ns, long now) {
    pool->credit_ns += num_helped * task_ns / SAVED_FOR_WAITED;
    if (pool->credit_ns > MOST_CREDIT_NS) pool->credit_ns = MOST_CREDIT_NS;
    if (waited_ns > 2 * task_ns + LATE_NS) pool->credit_ns -= waited_ns;
    if (pool->credit_ns < 0) {
        pool->credit_ns = 0;
        pool->pause_ns *= 2;
        if (pool->pause_ns < LEAST_PAUSE_NS) pool->pause_ns = LEAST_PAUSE_NS;
        if (pool->pause_ns > MOST_PAUSE_NS) pool->pause_ns = MOST_PAUSE_NS;
        pool->pause_end_ns = now + pool->pause_ns;
    } else if (pool->pause_ns && now - pool->pause_end_ns > pool->pause_ns) pool->pause_ns = 0;
}

static void do_alone(Pool *pool, Task task, const void *work, long num_tasks) {
    for (long index = 0; index < num_tasks; index++) {
        wait_until_allowed(pool);
        task(work, index);
    }
}

/* With the helpers, who are this caller's until it returns. */
static void share_tasks(Pool *pool, Task task, const void *work, long num_tasks, int num_threads, long start_ns) {
    const int num_own = num_threads - 1 - pool->num_guests;
    if (pool->num_helpers < num_own) have_helpers(pool, num_own);
    pool->task = task;
    pool->work = work;
    pool->num_tasks = num_tasks;
    pool->num_wanted = num_threads - 1;
    atomic_store(&pool->next, 0);
    atomic_fetch_add(&pool->turn, 1);
    if (atomic_load(&pool->num_asleep) && is_allowed(pool, 1)) {
        pthread_mutex_lock(&pool->sleep);
        pthread_cond_broadcast(&pool->opened);
        pthread_mutex_unlock(&pool->sleep);
    }
    long num_taken = take_tasks(pool, 0, NEVER);
    while (atomic_load(&pool->next) < num_tasks) {
        wait_until_allowed(pool);
        num_taken += take_tasks(pool, 0, NEVER);
    }
    const long end_ns = now_ns();
    atomic_fetch_add(&pool->turn, 1);
    wait_until_left(pool, end_ns);
    const long now = now_ns();
    judge_helpers(pool, (end_ns - start_ns) / (num_taken ? num_taken : 1), num_tasks - num_taken, now - end_ns, now);
}

void run_tasks(Task task, const void *work, long num_tasks, int num_threads) {
    Pool *pool = pool_of_thread;
    const int num_left = atomic_load(&for_steps.num_allowed);
    if (pool == &for_steps && num_threads > num_left) num_threads = num_left;
    /* Helpers that another thread's operation has are not waited for either. */
    if (num_tasks <= 1 || num_threads <= 1 || pthread_mutex_trylock(&pool->caller)) {
        do_alone(pool, task, work, num_tasks);
        return;
    }
    const long start_ns = now_ns();
    if (start_ns < pool->pause_end_ns) do_alone(pool, task, work, num_tasks);
    else share_tasks(pool, task, work, num_tasks, num_threads, start_ns);
    pthread_mutex_unlock(&pool->caller);
}

/* From now on what this thread computes is beside the steps. Where the system knows threads that take no processor from another when they
   wake up, it is one: a step would lose a slice of its scheduler's, as long as the step itself. */
EXPORT void compute_beside(void) {
    pool_of_thread = &beside;
#ifdef SCHED_BATCH
    const struct sched_param any = {0};
    (void)pthread_setschedparam(pthread_self(), SCHED_BATCH, &any);
#endif
}

/* Be the first helper of what is computed beside, until then or until that is done. The thread that makes the steps does this while it has
   none to make: nobody has to be woken, or moved from one processor to another, when it has. */
EXPORT void help_beside(long until_ns, const int *is_done) {
    Pool *pool = &beside;
    unsigned long seen = 0;
    while (!__atomic_load_n(is_done, __ATOMIC_SEQ_CST) && now_ns() < until_ns)
        for (int look = 0; look < LOOKS_A_GLANCE; look++) {
            const unsigned long turn = atomic_load(&pool->turn);
            if (!is_news(turn, seen)) {
                pause_a_moment();
                continue;
            }
            atomic_fetch_add(&pool->inside, 1);
            if (atomic_load(&pool->turn) == turn && pool->num_wanted > 0) (void)take_tasks(pool, 1, until_ns);
            leave(pool);
            seen = turn;
        }
}

static void allow(Pool *pool, int num_threads) {
    if (atomic_exchange(&pool->num_allowed, num_threads) >= num_threads) return;
    pthread_mutex_lock(&pool->sleep);
    pthread_cond_broadcast(&pool->opened);
    pthread_cond_broadcast(&pool->allowed);
    pthread_mutex_unlock(&pool->sleep);
}

/* So many threads are for the steps, one at least, and so many for what is beside them. */
EXPORT void share_processors(int num_for_steps, int num_beside) {
    allow(&for_steps, num_for_steps < 1 ? 1 : num_for_steps);
    allow(&beside, num_beside);
}
