/* The threads that share an operation's tasks: see pool.c. */
#ifndef PLAIT_POOL_H
#define PLAIT_POOL_H

enum { CACHE_LINE = 64 };

/* An operation of less work than this is not worth the other threads' while. */
enum {
    PARALLEL_VALUES = 1 << 15,        /* read by a row-wise operation: about 15 us */
    PARALLEL_PRODUCTS = 1 << 20,      /* of a matrix or a convolution: 20 us */
    PARALLEL_SCORE_PRODUCTS = 1 << 18 /* of queries and keys: each brings a product with a value, and every head's brings a softmax */
};

/* Do task `index` of an operation that `work` describes. */
typedef void (*Task)(const void *work, long index);

/* Do tasks 0 .. num_tasks - 1, each once, in any order, on up to num_threads threads, this one among them; return when all are done. */
void run_tasks(Task task, const void *work, long num_tasks, int num_threads);

/* Rows first .. end - 1. */
typedef struct {
    long first, end;
} Range;

/* The part `index` of `num` near-equal ones. */
static inline Range part_of(Range whole, long index, long num) {
    const long rows = whole.end - whole.first;
    return (Range){whole.first + rows * index / num, whole.first + rows * (index + 1) / num};
}

#endif
