/* y[M, N] = x[M, K] W[N, K]^T + bias: every output the same bits whatever M is and whoever else is in the batch.

   Each output is summed in one order that K alone decides: stretches of K of at most MAX_STRETCH; in a stretch, lane l of a vector sums
   the products k = l, l + LANES, ..., with zeros before what is less than a vector at the end; the lanes are then added in a fixed tree,
   and the stretch to the output so far. Tiles, blocks and threads only choose which outputs are worked on at a time.

   Four rows of W meet up to X_ROWS rows of x at a time, all sums in registers. */
#include <stdlib.h>

#include "ops.h"
#include "pool.h"

#if LANES == 16
enum { X_ROWS = 6 }; /* 24 sums, six vectors of x and one of W: 31 of 32 registers */
#else
enum { X_ROWS = 3 }; /* 12 sums, three vectors of x and one of W: all 16 registers */
#endif

enum {
    W_ROWS = 4,
    MAX_STRETCH = 1024, /* X_ROWS rows of x of that depth are half a first-level cache */
    W_BLOCK = 64,       /* rows of W of one task: of that depth they are a part of a second-level cache */
    X_BLOCK = 48,       /* rows of x of one task */
    FEW_ROWS = 24,      /* up to here the time is that of reading W */
    READING_ROWS = 4,   /* reading a row of W takes as long as multiplying so many rows by it */
    PASSING_BYTES = 1 << 20 /* a model with matrices of that size is more than a cache holds: none of it is there when it is read again,
                               and what a picture left there meanwhile would be gone */
};

/* What a tile asks memory for meanwhile: nothing, lines to keep in the caches, or lines that pass by all but the first. */
enum { NOTHING, TO_KEEP, TO_PASS };

typedef struct {
    const void *weight, *bias;
    const float *x;
    void *y;
    long num_rows, num_outputs, depth, x_stride;
} Product;

/* The part of K that is summed: from `start`, `length` values. */
typedef struct {
    long start, length;
} Stretch;

INLINE vec load_weight(const void *w, long i, const int half) {
    return half ? load_bfloat16((const uint16_t *)w + i) : load((const float *)w + i);
}

INLINE float weight_at(const void *w, long i, const int half) {
    return half ? float_of_bfloat16(((const uint16_t *)w)[i]) : ((const float *)w)[i];
}

/* The last `num` values, less than a vector, of a row that ends at `end`: in the upper lanes, zeros in the others. */
INLINE vec load_last(const void *row, long end, long num, const int half) {
    const ivec lane = LANE_NUMBERS;
    vec padded = splat(0.0f);
    if (end >= LANES) return (vec)((ivec)load_weight(row, end - LANES, half) & (lane >= LANES - (int32_t)num));
    for (long i = 0; i < num; i++) padded[LANES - num + i] = weight_at(row, end - num + i, half);
    return padded;
}

INLINE const void *weight_row(const Product *p, long n, const int half) {
    return (const char *)p->weight + n * p->depth * (half ? 2 : 4);
}

/* Add a stretch's sum to what the earlier stretches, or else the bias, put in its place. */
INLINE void put_sum(const Product *p, long n, long m, float sum, const int is_first, const int half) {
    const long place = m * p->num_outputs + n;
    if (!is_first) sum += ((float *)p->y)[place];
    else if (p->bias) sum += weight_at(p->bias, n, half);
    if (half) ((uint16_t *)p->y)[place] = bfloat16_of_float(sum);
    else ((float *)p->y)[place] = sum;
}

/* The same for outputs n .. n + 3 of a row. */
INLINE void put_sums(const Product *p, long n, long m, quad sums, const int is_first, const int half) {
    quad *y = (quad *)((float *)p->y + m * p->num_outputs + n);
    if (half)
        for (int i = 0; i < W_ROWS; i++) put_sum(p, n + i, m, sums[i], is_first, half);
    else {
        if (!is_first) sums += *y;
        else if (p->bias) sums += *(const quad *)((const float *)p->bias + n);
        *y = sums;
    }
}

/* What a tile asks memory for meanwhile: its share of the next four rows of W, which lie together; where it starts, and bytes a step. */
typedef struct {
    const char *start;
    long step;
} Ahead;

/* One stretch of outputs n .. n + 3, or as many as there are, of rows m .. m + nx - 1. */
INLINE void multiply_tile(const Product *p, Stretch stretch, long n, long m, Ahead ahead, const int nx, const int half, const int asks) {
    const long lanes_end = stretch.length / LANES * LANES, num_left = p->num_outputs - n;
    const void *w_rows[W_ROWS];
    const float *x_rows[X_ROWS];
    vec sums[W_ROWS][X_ROWS];
    UNROLL
    for (int i = 0; i < W_ROWS; i++) w_rows[i] = weight_row(p, n + (i < num_left ? i : 0), half);
    UNROLL
    for (int j = 0; j < nx; j++) x_rows[j] = p->x + (m + j) * p->x_stride;
    UNROLL
    for (int i = 0; i < W_ROWS; i++)
        UNROLL
        for (int j = 0; j < nx; j++) sums[i][j] = splat(0.0f);
    for (long k = stretch.start; k < stretch.start + lanes_end; k += LANES) {
        vec columns[X_ROWS];
        UNROLL
        for (int j = 0; j < nx; j++) {
            columns[j] = load(x_rows[j] + k);
            KEEP_IN_REGISTER(columns[j]);
        }
        UNROLL
        for (int i = 0; i < W_ROWS; i++) {
            vec row = load_weight(w_rows[i], k, half);
            KEEP_IN_REGISTER(row);
            UNROLL
            for (int j = 0; j < nx; j++) sums[i][j] = multiply_add(row, columns[j], sums[i][j]);
        }
        if (asks) {
            for (int line = 0; line < W_ROWS * LANES * (half ? 2 : 4); line += CACHE_LINE)
                if (asks == TO_KEEP) __builtin_prefetch(ahead.start + line, 0, 2);
                else __builtin_prefetch(ahead.start + line, 0, 0);
            ahead.start += ahead.step;
        }
    }
    if (lanes_end < stretch.length) {
        const long num = stretch.length - lanes_end, end = stretch.start + stretch.length;
        UNROLL
        for (int i = 0; i < W_ROWS; i++) {
            vec row = load_last(w_rows[i], end, num, half);
            UNROLL
            for (int j = 0; j < nx; j++) sums[i][j] = multiply_add(row, load_last(x_rows[j], end, num, 0), sums[i][j]);
        }
    }
    UNROLL
    for (int j = 0; j < nx; j++) {
        quad sum = sums_of_lanes(sums[0][j], sums[1][j], sums[2][j], sums[3][j]);
        if (num_left >= W_ROWS) put_sums(p, n, m + j, sum, stretch.start == 0, half);
        else
            for (int i = 0; i < num_left; i++) put_sum(p, n + i, m + j, sum[i], stretch.start == 0, half);
    }
}

/* One function for each shape of tile: inlined side by side they would share registers and spill. */
#define TILE(name, nx, half, asks) \
    static __attribute__((noinline)) void name(const Product *p, Stretch stretch, long n, long m, Ahead ahead) { \
        multiply_tile(p, stretch, n, m, ahead, nx, half, asks); \
    }
#define TILES_UP_TO_THREE(name, half, asks) \
    TILE(name##_1, 1, half, asks) \
    TILE(name##_2, 2, half, asks) \
    TILE(name##_3, 3, half, asks)
TILES_UP_TO_THREE(few_float, 0, TO_KEEP)
TILES_UP_TO_THREE(few_half, 1, TO_KEEP)
TILES_UP_TO_THREE(passing_float, 0, TO_PASS)
TILES_UP_TO_THREE(passing_half, 1, TO_PASS)
TILES_UP_TO_THREE(many_float, 0, NOTHING)

typedef void (*Tile)(const Product *, Stretch, long n, long m, Ahead ahead);
#if LANES == 16
#define TILES_UP_TO_SIX(name, half, asks) \
    TILE(name##_4, 4, half, asks) \
    TILE(name##_5, 5, half, asks) \
    TILE(name##_6, 6, half, asks)
TILES_UP_TO_SIX(few_float, 0, TO_KEEP)
TILES_UP_TO_SIX(few_half, 1, TO_KEEP)
TILES_UP_TO_SIX(passing_float, 0, TO_PASS)
TILES_UP_TO_SIX(passing_half, 1, TO_PASS)
TILES_UP_TO_SIX(many_float, 0, NOTHING)
#define TABLE(name) {name##_1, name##_2, name##_3, name##_4, name##_5, name##_6}
#else
#define TABLE(name) {name##_1, name##_2, name##_3}
#endif
static const Tile FEW_TILES[2][2][X_ROWS] = {{TABLE(few_float), TABLE(passing_float)}, {TABLE(few_half), TABLE(passing_half)}};
static const Tile MANY_TILES[X_ROWS] = TABLE(many_float);

static long num_x_groups(Range x_rows) { return (x_rows.end - x_rows.first + X_ROWS - 1) / X_ROWS; }

/* The stretch of K that begins at `start`; with bfloat16 all of K, since a sum stored in it is not taken up again. */
static Stretch stretch_at(const Product *p, long start, const int half) {
    const long rest = p->depth - start;
    return (Stretch){start, half || rest < MAX_STRETCH ? rest : MAX_STRETCH};
}

/* Few rows of x: each group of W rows meets all of them, and each x group asks for its share of the next W group, so that memory is
   busy all the while and not in bursts. */
static void multiply_few(const Product *p, Range w_rows, const int half) {
    const Range x_rows = {0, p->num_rows};
    const long num_groups = num_x_groups(x_rows), column_bytes = W_ROWS * (half ? 2 : 4);
    const int passes = p->num_outputs * p->depth * (half ? 2 : 4) >= PASSING_BYTES;
    const long step = (LANES * column_bytes + num_groups - 1) / num_groups;
    for (long n = w_rows.first; n < w_rows.end; n += W_ROWS)
        for (Stretch stretch = stretch_at(p, 0, half); stretch.length > 0; stretch = stretch_at(p, stretch.start + stretch.length, half)) {
            const char *next = (const char *)weight_row(p, n + W_ROWS, half) + stretch.start * column_bytes;
            for (long index = 0; index < num_groups; index++) {
                const Range group = part_of(x_rows, index, num_groups);
                const Ahead ahead = {next + stretch.length * column_bytes * index / num_groups, step};
                FEW_TILES[half][passes][group.end - group.first - 1](p, stretch, n, group.first, ahead);
            }
        }
}

/* Many rows of x: a group of them stays in the first-level cache while the block's rows of W pass by from the second. */
static void multiply_many(const Product *p, Range w_rows, Range x_rows) {
    const long num_groups = num_x_groups(x_rows);
    for (long start = 0; start < p->depth; start += MAX_STRETCH)
        for (long index = 0; index < num_groups; index++) {
            const Range group = part_of(x_rows, index, num_groups);
            const Tile tile = MANY_TILES[group.end - group.first - 1];
            for (long n = w_rows.first; n < w_rows.end; n += W_ROWS) tile(p, stretch_at(p, start, 0), n, group.first, (Ahead){0, 0});
        }
}

/* A product cut into blocks of rows of W and of x, one task each. */
typedef struct {
    const Product *product;
    long num_x_blocks;
    int is_few;
} Blocks;

INLINE void multiply_block(const Blocks *blocks, long index, const int half) {
    const Product *p = blocks->product;
    const long first = index / blocks->num_x_blocks * W_BLOCK, end = first + W_BLOCK;
    const Range w_rows = {first, end < p->num_outputs ? end : p->num_outputs};
    if (half || blocks->is_few) multiply_few(p, w_rows, half);
    else multiply_many(p, w_rows, part_of((Range){0, p->num_rows}, index % blocks->num_x_blocks, blocks->num_x_blocks));
}

static void multiply_block_float32(const void *blocks, long index) { multiply_block(blocks, index, 0); }
static void multiply_block_bfloat16(const void *blocks, long index) { multiply_block(blocks, index, 1); }

static void multiply(const Product *p, int num_threads, const int half) {
    const int is_few = half || p->num_rows <= FEW_ROWS;
    const int is_large = (p->num_rows + READING_ROWS) * p->num_outputs * p->depth > PARALLEL_PRODUCTS;
    const long num_w_blocks = (p->num_outputs + W_BLOCK - 1) / W_BLOCK;
    const Blocks blocks = {p, is_few ? 1 : (p->num_rows + X_BLOCK - 1) / X_BLOCK, is_few};
    run_tasks(half ? multiply_block_bfloat16 : multiply_block_float32, &blocks, num_w_blocks * blocks.num_x_blocks,
              is_large ? num_threads : 1);
}

EXPORT void linear_float32(const float *x, long x_stride, const float *weight, const float *bias, float *y, long num_rows,
                           long num_outputs, long depth, int num_threads) {
    const Product product = {weight, bias, x, y, num_rows, num_outputs, depth, x_stride};
    multiply(&product, num_threads, 0);
}

/* Everything stored is bfloat16, every sum float32. Returns 0, or 1 without memory for a float32 copy of x. */
EXPORT int linear_bfloat16(const uint16_t *x, long x_stride, const uint16_t *weight, const uint16_t *bias, uint16_t *y,
                           long num_rows, long num_outputs, long depth, int num_threads) {
    float *wide = malloc(sizeof(float) * num_rows * depth);
    if (!wide) return 1;
    for (long m = 0; m < num_rows; m++)
        for (long k = 0; k < depth; k++) wide[m * depth + k] = float_of_bfloat16(x[m * x_stride + k]);
    const Product product = {weight, bias, wide, y, num_rows, num_outputs, depth, depth};
    multiply(&product, num_threads, 1);
    free(wide);
    return 0;
}
