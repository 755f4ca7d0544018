/* The threads that share an operation's tasks: see pool.c. */
#ifndef PLAIT_POOL_H
#define PLAIT_POOL_H

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
