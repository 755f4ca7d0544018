/* Convolutions of a picture x[H, W, C], float32: group norm, SiLU, doubling and zeros around it are applied where the picture is read.

   A task makes a tile of the result: it copies what the tile sees of x, normed and activated, into memory of its own, and multiplies.
   Every output is summed in one order: stretches of at most MAX_STRETCH products, tap by tap, input channel by input channel, and the
   stretches one after the other onto the bias. Tiles, bands and threads only choose which outputs are worked on at a time. Output
   channels lie along the vector lanes, so that nothing is summed across them. */
#include <stdlib.h>

#include "ops.h"
#include "pool.h"

enum {
    VECS = LANES == 16 ? 4 : 2, /* of output channels, at a time; with PIXELS of them 24 (12) sums stay in registers */
    PIXELS = 6,
    MAX_STRETCH = 256, /* a longer sum in one go loses as many bits again */
    TILE_ROWS = 8,
    TILE_COLUMNS = 48
};

/* `scale` and `shift` of each channel are applied to x unless they are null, then SiLU if `activates`. Output pixel (i, j) sees the pixels
   from (i stride - pad, j stride - pad) on, of x doubled in both directions if `doubles`; outside there are zeros. `packed` is what
   conv_pack_float32 makes; `add`, or null, and y are [H', W', num_outputs]. */
typedef struct {
    const float *x, *scale, *shift, *packed, *add;
    float *y;
    long height, width, num_inputs, out_width, num_outputs, size, stride, pad, activates, doubles;
} Conv;

INLINE long padded(long num_outputs) { return (num_outputs + LANES - 1) / LANES * LANES; }

/* Values of the packed weights of a convolution with `depth` = taps times input channels. */
EXPORT long conv_packed_values(long num_outputs, long depth) { return padded(num_outputs) * (depth + 1); }

/* weight [num_outputs, num_inputs, taps] and bias -> the bias and then, for VECS vectors of outputs at a time, [taps, num_inputs, outputs],
   with zeros up to a whole vector. */
EXPORT void conv_pack_float32(const float *weight, const float *bias, float *packed, long num_outputs, long num_inputs, long num_taps) {
    const long num_padded = padded(num_outputs);
    memset(packed, 0, conv_packed_values(num_outputs, num_taps * num_inputs) * sizeof *packed);
    memcpy(packed, bias, num_outputs * sizeof *packed);
    float *to = packed + num_padded;
    for (long first = 0; first < num_padded; first += VECS * LANES) {
        const long width = num_padded - first < VECS * LANES ? num_padded - first : VECS * LANES;
        for (long tap = 0; tap < num_taps; tap++)
            for (long input = 0; input < num_inputs; input++, to += width)
                for (long n = first; n < first + width && n < num_outputs; n++) to[n - first] = weight[(n * num_inputs + input) * num_taps + tap];
    }
}

typedef struct {
    const Conv *conv;
    Range rows; /* of the result */
    long num_across;
} ConvTiles;

INLINE vec normed(const Conv *c, vec x, vec scale, vec shift) {
    const vec value = x * scale + shift;
    return c->activates ? silu_vec(value) : value;
}

/* One pixel's channels as the convolution sees them. */
static void read_pixel(const Conv *c, const float *from, float *to) {
    const long lanes_end = c->num_inputs / LANES * LANES;
    if (!c->scale) {
        memcpy(to, from, c->num_inputs * sizeof *to);
        return;
    }
    for (long i = 0; i < lanes_end; i += LANES) store(to + i, normed(c, load(from + i), load(c->scale + i), load(c->shift + i)));
    for (long i = lanes_end; i < c->num_inputs; i++) to[i] = normed(c, splat(from[i]), splat(c->scale[i]), splat(c->shift[i]))[0];
}

/* Copy what output rows and columns see into seen[rows][columns][C]. */
static void read_tile(const Conv *c, Range rows, Range columns, float *seen) {
    const long up = c->doubles ? 1 : 0, num = c->num_inputs;
    for (long i = rows.first * c->stride; i < (rows.end - 1) * c->stride + c->size; i++)
        for (long j = columns.first * c->stride; j < (columns.end - 1) * c->stride + c->size; j++, seen += num) {
            const long row = i - c->pad, column = j - c->pad;
            if (row < 0 || column < 0 || row >= c->height << up || column >= c->width << up) memset(seen, 0, num * sizeof *seen);
            else read_pixel(c, c->x + ((row >> up) * c->width + (column >> up)) * num, seen);
        }
}

/* Where PIXELS neighbours' sight begins, and the sums of their outputs so far, VECS vectors each. */
typedef struct {
    const float *x[PIXELS];
    vec sums[PIXELS][VECS];
} Group;

/* Add the products of values begin .. end - 1 that each pixel sees with as many rows of weights. */
INLINE void add_stretch(Group *g, long begin, long end, const float *weight, long row_step, const int vecs) {
    vec sums[PIXELS][VECS];
    UNROLL
    for (int p = 0; p < PIXELS; p++)
        UNROLL
        for (int v = 0; v < vecs; v++) sums[p][v] = splat(0.0f);
    for (long k = begin; k < end; k++, weight += row_step) {
        vec row[VECS];
        UNROLL
        for (int v = 0; v < vecs; v++) {
            row[v] = load(weight + v * LANES);
            KEEP_IN_REGISTER(row[v]);
        }
        UNROLL
        for (int p = 0; p < PIXELS; p++) {
            const vec value = splat(g->x[p][k]);
            UNROLL
            for (int v = 0; v < vecs; v++) sums[p][v] = multiply_add(row[v], value, sums[p][v]);
        }
    }
    UNROLL
    for (int p = 0; p < PIXELS; p++)
        UNROLL
        for (int v = 0; v < vecs; v++) g->sums[p][v] += sums[p][v];
}

/* One function for each number of vectors: inlined side by side they would share registers and spill. */
typedef void (*AddStretch)(Group *g, long begin, long end, const float *weight, long row_step);
#define STRETCH_OF(vecs) \
    static __attribute__((noinline)) void add_stretch_##vecs(Group *g, long begin, long end, const float *weight, long row_step) { \
        add_stretch(g, begin, end, weight, row_step, vecs); \
    }
STRETCH_OF(1)
STRETCH_OF(2)
#if LANES == 16
STRETCH_OF(3)
STRETCH_OF(4)
static const AddStretch BY_VECS[VECS] = {add_stretch_1, add_stretch_2, add_stretch_3, add_stretch_4};
#else
static const AddStretch BY_VECS[VECS] = {add_stretch_1, add_stretch_2};
#endif

/* Outputs first .. first + num_vecs * LANES - 1 of num_pixels neighbours in a row, at `at` in y; `seen` is what the first of them sees. */
static void convolve_pixels(const Conv *c, const float *seen, long seen_width, long at, long first, int num_pixels, int num_vecs) {
    const long num = c->num_inputs, depth = c->size * num; /* the taps of a row see neighbouring pixels, whose channels follow each other */
    const long row_step = num_vecs * LANES;
    const float *weight = c->packed + padded(c->num_outputs) + first * c->size * depth;
    const AddStretch add_products = BY_VECS[num_vecs - 1];
    Group g;
    for (int p = 0; p < PIXELS; p++) {
        g.x[p] = seen + (p < num_pixels ? p : 0) * c->stride * num; /* a place without a pixel repeats the first */
        for (int v = 0; v < num_vecs; v++) g.sums[p][v] = load(c->packed + first + v * LANES);
    }
    for (long tap_row = 0; tap_row < c->size; tap_row++)
        for (long start = 0; start < depth; start += MAX_STRETCH) {
            const long begin = tap_row * seen_width * num + start, length = depth - start < MAX_STRETCH ? depth - start : MAX_STRETCH;
            add_products(&g, begin, begin + length, weight, row_step);
            weight += length * row_step;
        }
    for (int p = 0; p < num_pixels; p++)
        for (int v = 0; v < num_vecs; v++) {
            const long place = (at + p) * c->num_outputs + first + v * LANES, rest = c->num_outputs - first - v * LANES;
            vec sum = g.sums[p][v];
            if (rest >= LANES) store(c->y + place, c->add ? sum + load(c->add + place) : sum);
            else
                for (int lane = 0; lane < rest; lane++) c->y[place + lane] = c->add ? sum[lane] + c->add[place + lane] : sum[lane];
        }
}

/* Memory of this thread for what a tile sees, kept until a larger one is asked for. */
static float *tile_memory(long num_values) {
    static _Thread_local float *memory;
    static _Thread_local long num_kept;
    if (num_kept < num_values) {
        free(memory);
        memory = malloc(num_values * sizeof *memory);
        num_kept = memory ? num_values : 0;
    }
    return memory;
}

static void convolve_tile(const void *work, long index) {
    const ConvTiles *tiles = work;
    const Conv *c = tiles->conv;
    const long row = tiles->rows.first + index / tiles->num_across * TILE_ROWS, column = index % tiles->num_across * TILE_COLUMNS;
    const Range rows = {row, row + TILE_ROWS < tiles->rows.end ? row + TILE_ROWS : tiles->rows.end};
    const Range columns = {column, column + TILE_COLUMNS < c->out_width ? column + TILE_COLUMNS : c->out_width};
    const long seen_height = (rows.end - rows.first - 1) * c->stride + c->size;
    const long seen_width = (columns.end - columns.first - 1) * c->stride + c->size;
    float *seen = tile_memory(seen_height * seen_width * c->num_inputs);
    if (!seen) abort(); /* as the system would, when the memory is first written */
    read_tile(c, rows, columns, seen);
    for (long first = 0; first < padded(c->num_outputs); first += VECS * LANES) {
        const long num_vecs = (padded(c->num_outputs) - first) / LANES;
        for (long i = rows.first; i < rows.end; i++)
            for (long j = columns.first; j < columns.end; j += PIXELS) {
                const long rest = columns.end - j;
                const float *from = seen + ((i - rows.first) * seen_width + j - columns.first) * c->stride * c->num_inputs;
                convolve_pixels(c, from, seen_width, i * c->out_width + j, first, rest < PIXELS ? (int)rest : PIXELS,
                                num_vecs < VECS ? (int)num_vecs : VECS);
            }
    }
}

/* Rows first_row .. end_row - 1 of the result. */
EXPORT void conv_float32(const Conv *c, long first_row, long end_row, int num_threads) {
    const ConvTiles tiles = {c, {first_row, end_row}, (c->out_width + TILE_COLUMNS - 1) / TILE_COLUMNS};
    const long num_tiles = (end_row - first_row + TILE_ROWS - 1) / TILE_ROWS * tiles.num_across;
    const long num_products = (end_row - first_row) * c->out_width * c->size * c->size * c->num_inputs * c->num_outputs;
    run_tasks(convolve_tile, &tiles, num_tiles, num_products > PARALLEL_PRODUCTS ? num_threads : 1);
}

/* A picture x[H, W, C] and of each row the channels' means and the sums of squares about them: `moments` [H, 2, C]. */
typedef struct {
    const float *x;
    float *moments;
    long first_row, width, num_channels;
} RowMoments;

static void row_moments(const void *work, long index) {
    const RowMoments *m = work;
    const long num = m->num_channels, row = m->first_row + index;
    const float *restrict x = m->x + row * m->width * num;
    float *restrict means = m->moments + row * 2 * num, *restrict squares = means + num;
    memset(means, 0, 2 * num * sizeof *means);
    for (long j = 0; j < m->width; j++)
        for (long i = 0; i < num; i++) means[i] += x[j * num + i];
    for (long i = 0; i < num; i++) means[i] /= m->width;
    for (long j = 0; j < m->width; j++)
        for (long i = 0; i < num; i++) {
            const float distance = x[j * num + i] - means[i];
            squares[i] += distance * distance;
        }
}

EXPORT void row_moments_float32(const float *x, float *moments, long first_row, long end_row, long width, long num_channels,
                                int num_threads) {
    const RowMoments rows = {x, moments, first_row, width, num_channels};
    const long num_rows = end_row - first_row;
    run_tasks(row_moments, &rows, num_rows, num_rows * width * num_channels > PARALLEL_VALUES ? num_threads : 1);
}

/* Group norm as scale and shift of each channel. The moments of rows and of a group's channels are joined in their order, in double
   (Chan, Golub & LeVeque 1979). */
EXPORT void group_norm_float32(const float *moments, const float *weight, const float *bias, float *scale, float *shift, long height,
                               long width, long num_channels, long num_groups, float eps) {
    const long group = num_channels / num_groups;
    for (long first = 0; first < num_channels; first += group) {
        double mean = 0, squares = 0;
        for (long row = 0; row < height; row++)
            for (long i = first; i < first + group; i++) mean += moments[row * 2 * num_channels + i];
        mean /= (double)height * group;
        for (long row = 0; row < height; row++)
            for (long i = first; i < first + group; i++) {
                const double distance = moments[row * 2 * num_channels + i] - mean;
                squares += moments[(row * 2 + 1) * num_channels + i] + width * distance * distance;
            }
        const double inverse = 1.0 / sqrt(squares / ((double)height * width * group) + eps);
        for (long i = first; i < first + group; i++) {
            scale[i] = (float)(inverse * weight[i]);
            shift[i] = (float)(bias[i] - mean * inverse * weight[i]);
        }
    }
}
