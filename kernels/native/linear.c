/* y[M, N] = x[M, K] W[N, K]^T + bias for few rows, where the time is that of reading W once.

   Four rows of W meet up to three rows of x at a time: 12 sums in registers, each loaded vector used three or four times.
   While a group of W rows is multiplied the next one is prefetched, which is what a library GEMV leaves out. */
#include <stdlib.h>

#include "ops.h"

enum { W_ROWS = 4, X_ROWS = 3, CACHE_LINE = 64 };

typedef struct {
    const void *weight, *bias;
    const float *x;
    void *y;
    long num_rows, num_outputs, depth, x_stride;
} Product;

INLINE vec load_weight(const void *w, long i, const int half) {
    return half ? load_bfloat16((const uint16_t *)w + i) : load((const float *)w + i);
}

INLINE float weight_at(const void *w, long i, const int half) {
    return half ? float_of_bfloat16(((const uint16_t *)w)[i]) : ((const float *)w)[i];
}

INLINE void put(void *y, long i, float value, const int half) {
    if (half) ((uint16_t *)y)[i] = bfloat16_of_float(value);
    else ((float *)y)[i] = value;
}

INLINE const void *weight_row(const Product *p, long n, const int half) {
    return (const char *)p->weight + n * p->depth * (half ? 2 : 4);
}

/* The tile's share of the next group of W rows: where it starts and how many bytes to ask for at each step. */
typedef struct {
    const char *start;
    long step;
} Ahead;

/* Outputs n .. n + 3 of rows m .. m + nx - 1. */
INLINE void multiply_tile(const Product *p, long n, long m, Ahead ahead, const int nx, const int half) {
    const long depth = p->depth, lanes_end = depth / LANES * LANES;
    const void *w[W_ROWS];
    const float *x[X_ROWS];
    vec sums[W_ROWS][X_ROWS];
    UNROLL
    for (int i = 0; i < W_ROWS; i++) w[i] = weight_row(p, n + i, half);
    UNROLL
    for (int j = 0; j < nx; j++) x[j] = p->x + (m + j) * p->x_stride;
    UNROLL
    for (int i = 0; i < W_ROWS; i++)
        UNROLL
        for (int j = 0; j < nx; j++) sums[i][j] = splat(0.0f);
    for (long k = 0; k < lanes_end; k += LANES) {
        vec columns[X_ROWS];
        UNROLL
        for (int j = 0; j < nx; j++) {
            vec column = load(x[j] + k);
            KEEP_IN_REGISTER(column);
            columns[j] = column;
        }
        UNROLL
        for (int i = 0; i < W_ROWS; i++) {
            vec row = load_weight(w[i], k, half);
            KEEP_IN_REGISTER(row);
            UNROLL
            for (int j = 0; j < nx; j++) sums[i][j] += row * columns[j];
        }
        for (int line = 0; line < W_ROWS * LANES * (half ? 2 : 4); line += CACHE_LINE) __builtin_prefetch(ahead.start + line, 0, 2);
        ahead.start += ahead.step;
    }
    UNROLL
    for (int j = 0; j < nx; j++) {
        quad sum = sums_of_lanes(sums[0][j], sums[1][j], sums[2][j], sums[3][j]);
        for (long k = lanes_end; k < depth; k++)
            UNROLL
            for (int i = 0; i < W_ROWS; i++) sum[i] += weight_at(w[i], k, half) * x[j][k];
        UNROLL
        for (int i = 0; i < W_ROWS; i++)
            put(p->y, (m + j) * p->num_outputs + n + i, p->bias ? sum[i] + weight_at(p->bias, n + i, half) : sum[i], half);
    }
}

/* One function for each shape of tile: inlined side by side they would share registers and spill. */
#define TILE(name, nx, half) \
    static __attribute__((noinline)) void name(const Product *p, long n, long m, Ahead ahead) { \
        multiply_tile(p, n, m, ahead, nx, half); \
    }
TILE(float_tile_1, 1, 0)
TILE(float_tile_2, 2, 0)
TILE(float_tile_3, 3, 0)
TILE(half_tile_1, 1, 1)
TILE(half_tile_2, 2, 1)
TILE(half_tile_3, 3, 1)

typedef void (*Tile)(const Product *, long n, long m, Ahead ahead);
static const Tile TILES[2][X_ROWS] = {{float_tile_1, float_tile_2, float_tile_3}, {half_tile_1, half_tile_2, half_tile_3}};

/* Rows of x are cut into near-equal groups of at most three; the last W group may overlap the one before it. Each x group asks for
   its share of the next W group, so that memory is busy all the while and not in bursts. */
static void multiply(const Product *p, int num_threads, const int half) {
    const long num_w_groups = (p->num_outputs + W_ROWS - 1) / W_ROWS, num_x_groups = (p->num_rows + X_ROWS - 1) / X_ROWS;
    const long w_group_bytes = W_ROWS * p->depth * (half ? 2 : 4);
    const long step = (W_ROWS * LANES * (half ? 2 : 4) + num_x_groups - 1) / num_x_groups;
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 16)
    for (long w_group = 0; w_group < num_w_groups; w_group++) {
        const long last = p->num_outputs - W_ROWS, n = w_group * W_ROWS < last ? w_group * W_ROWS : last;
        for (long x_group = 0; x_group < num_x_groups; x_group++) {
            const long m = p->num_rows * x_group / num_x_groups, end = p->num_rows * (x_group + 1) / num_x_groups;
            const Ahead ahead = {(const char *)weight_row(p, n + W_ROWS, half) + w_group_bytes * x_group / num_x_groups, step};
            TILES[half][end - m - 1](p, n, m, ahead);
        }
    }
}

/* num_outputs must be at least 4. */
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
