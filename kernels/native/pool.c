/* Threads that share the tasks of one operation at a time, and are never waited for unless they are at a task.

   The caller takes tasks as well. A helper that has no processor just then, because somebody else computes there, takes none, and the
   caller does them all. OpenMP ends a loop when every thread has come to its end, also those that had no turn to begin it, and a
   forward pass has hundreds of loops. A helper that loses its processor in the middle of a task is waited for; when such waits come to
   more than half of what helpers save, the caller does without them for a while, longer each time it happens again. So beside busy
   neighbours, or under a quota, a pass takes about as long as on one thread, and not many times that; and where somebody has a processor
   only now and then, that costs no more than the wait.

   `turn` is odd while an operation is open. A helper enters (`inside`), looks whether it is still open, takes tasks, and leaves. The
   caller closes it, then waits until nobody is inside: either the helper saw it closed or the caller sees the helper (both orders are
   sequentially consistent), so an operation's description outlives whoever reads it. */
#define _GNU_SOURCE
#include "pool.h"

#include <pthread.h>
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

#define ON_ITS_OWN_LINE _Alignas(CACHE_LINE)

static struct {
    pthread_mutex_t caller, sleep;
    pthread_cond_t opened, left;
    Task task;
    const void *work;
    long num_tasks;
    int num_wanted, num_helpers;
    long credit_ns;              /* what late helpers may be waited for, because they have saved more */
    long pause_ns, pause_end_ns; /* how long helpers are left out, and until when */
    ON_ITS_OWN_LINE atomic_ulong turn;
    ON_ITS_OWN_LINE atomic_long next;
    ON_ITS_OWN_LINE atomic_long inside;
    ON_ITS_OWN_LINE atomic_long num_asleep;
    atomic_int caller_sleeps;
} pool = {.caller = PTHREAD_MUTEX_INITIALIZER,
          .sleep = PTHREAD_MUTEX_INITIALIZER,
          .opened = PTHREAD_COND_INITIALIZER,
          .left = PTHREAD_COND_INITIALIZER};

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

/* Return how many. */
static long take_tasks(void) {
    long num_taken = 0;
    for (long index; (index = atomic_fetch_add(&pool.next, 1)) < pool.num_tasks; num_taken++) pool.task(pool.work, index);
    return num_taken;
}

/* Whether an operation that this helper has not seen is open. */
static int is_news(unsigned long turn, unsigned long seen) { return turn != seen && turn % 2; }

/* Return the turn of the next operation. */
static unsigned long wait_for_turn(unsigned long seen) {
    const long end_ns = now_ns() + HELPER_LOOKS_NS;
    unsigned long turn;
    do
        for (int look = 0; look < LOOKS_A_GLANCE; look++) {
            turn = atomic_load(&pool.turn);
            if (is_news(turn, seen)) return turn;
            pause_a_moment();
        }
    while (now_ns() < end_ns);
    pthread_mutex_lock(&pool.sleep);
    atomic_fetch_add(&pool.num_asleep, 1);
    while (!is_news(turn = atomic_load(&pool.turn), seen)) pthread_cond_wait(&pool.opened, &pool.sleep);
    atomic_fetch_sub(&pool.num_asleep, 1);
    pthread_mutex_unlock(&pool.sleep);
    return turn;
}

static void *help(void *number) {
    for (unsigned long turn = 0;;) {
        turn = wait_for_turn(turn);
        atomic_fetch_add(&pool.inside, 1);
        if (atomic_load(&pool.turn) == turn && (long)number < pool.num_wanted) (void)take_tasks();
        if (atomic_fetch_sub(&pool.inside, 1) == 1 && atomic_load(&pool.caller_sleeps)) {
            pthread_mutex_lock(&pool.sleep);
            pthread_cond_signal(&pool.left);
            pthread_mutex_unlock(&pool.sleep);
        }
    }
    return 0;
}

static void wait_until_left(long now) {
    const long end_ns = now + CALLER_LOOKS_NS;
    do
        for (int look = 0; look < LOOKS_A_GLANCE; look++) {
            if (!atomic_load(&pool.inside)) return;
            pause_a_moment();
        }
    while (now_ns() < end_ns);
    pthread_mutex_lock(&pool.sleep);
    atomic_store(&pool.caller_sleeps, 1);
    while (atomic_load(&pool.inside)) pthread_cond_wait(&pool.left, &pool.sleep);
    atomic_store(&pool.caller_sleeps, 0);
    pthread_mutex_unlock(&pool.sleep);
}

/* A child has this thread alone: it begins anew. */
static void forget_helpers(void) {
    pool.num_helpers = 0;
    atomic_store(&pool.turn, 0);
    atomic_store(&pool.inside, 0);
    atomic_store(&pool.num_asleep, 0);
    pthread_mutex_init(&pool.caller, 0);
    pthread_mutex_init(&pool.sleep, 0);
    pthread_cond_init(&pool.opened, 0);
    pthread_cond_init(&pool.left, 0);
}

static void watch_forks(void) { pthread_atfork(0, 0, forget_helpers); }

/* Have `num` helpers, or as many as the system gives. Signals are for the threads that were there before. */
static void have_helpers(int num) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    sigset_t all, before;
    pthread_once(&once, watch_forks);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (pthread_t thread; pool.num_helpers < num && pool.num_helpers < MAX_HELPERS; pool.num_helpers++) {
        if (pthread_create(&thread, 0, help, (void *)(long)pool.num_helpers)) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, 0);
}

/* Leave helpers, who have done `num_helped` tasks, out for a while if they come late for more than they save, and forget about it when
   they have not for as long again. */
static void judge_helpers(long task_ns, long num_helped, long waited_ns, long now) {
    pool.credit_ns += num_helped * task_ns / SAVED_FOR_WAITED;
    if (pool.credit_ns > MOST_CREDIT_NS) pool.credit_ns = MOST_CREDIT_NS;
    if (waited_ns > 2 * task_ns + LATE_NS) pool.credit_ns -= waited_ns;
    if (pool.credit_ns < 0) {
        pool.credit_ns = 0;
        pool.pause_ns *= 2;
        if (pool.pause_ns < LEAST_PAUSE_NS) pool.pause_ns = LEAST_PAUSE_NS;
        if (pool.pause_ns > MOST_PAUSE_NS) pool.pause_ns = MOST_PAUSE_NS;
        pool.pause_end_ns = now + pool.pause_ns;
    } else if (pool.pause_ns && now - pool.pause_end_ns > pool.pause_ns) pool.pause_ns = 0;
}

static void do_alone(Task task, const void *work, long num_tasks) {
    for (long index = 0; index < num_tasks; index++) task(work, index);
}

/* With the helpers, who are this caller's until it returns. */
static void share_tasks(Task task, const void *work, long num_tasks, int num_threads, long start_ns) {
    if (pool.num_helpers < num_threads - 1) have_helpers(num_threads - 1);
    pool.task = task;
    pool.work = work;
    pool.num_tasks = num_tasks;
    pool.num_wanted = num_threads - 1;
    atomic_store(&pool.next, 0);
    atomic_fetch_add(&pool.turn, 1);
    if (atomic_load(&pool.num_asleep)) {
        pthread_mutex_lock(&pool.sleep);
        pthread_cond_broadcast(&pool.opened);
        pthread_mutex_unlock(&pool.sleep);
    }
    const long num_taken = take_tasks(), end_ns = now_ns();
    atomic_fetch_add(&pool.turn, 1);
    wait_until_left(end_ns);
    const long now = now_ns();
    judge_helpers((end_ns - start_ns) / (num_taken ? num_taken : 1), num_tasks - num_taken, now - end_ns, now);
}

void run_tasks(Task task, const void *work, long num_tasks, int num_threads) {
    /* Helpers that another thread's operation has are not waited for either. */
    if (num_tasks <= 1 || num_threads <= 1 || pthread_mutex_trylock(&pool.caller)) {
        do_alone(task, work, num_tasks);
        return;
    }
    const long start_ns = now_ns();
    if (start_ns < pool.pause_end_ns) do_alone(task, work, num_tasks);
    else share_tasks(task, work, num_tasks, num_threads, start_ns);
    pthread_mutex_unlock(&pool.caller);
}
