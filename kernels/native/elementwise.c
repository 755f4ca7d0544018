/* Row-wise operations in one pass each: RMSNorm, SwiGLU, query and key norm with rotary embedding. float32. */
#include "ops.h"
#include "pool.h"

enum { PARTS_A_THREAD = 2 }; /* so that a thread that comes late still takes its share */

/* An operation on rows that does not depend on which of them are done together. */
typedef void (*RowWise)(const void *operation, Range rows);

typedef struct {
    RowWise function;
    const void *operation;
    Range rows;
    long num_parts;
} RowParts;

static void do_part(const void *work, long index) {
    const RowParts *parts = work;
    parts->function(parts->operation, part_of(parts->rows, index, parts->num_parts));
}

static void over_rows(RowWise function, const void *operation, long num_rows, long row_values, int num_threads) {
    const int is_large = num_rows * row_values > PARALLEL_VALUES;
    const RowParts parts = {function, operation, {0, num_rows}, is_large ? (long)num_threads * PARTS_A_THREAD : 1};
    run_tasks(do_part, &parts, parts.num_parts, num_threads);
}

INLINE float square_sum(const float *x, long dim) {
    const long lanes_end = dim / LANES * LANES;
    vec sums = splat(0.0f);
    for (long i = 0; i < lanes_end; i += LANES) {
        vec v = load(x + i);
        sums = multiply_add(v, v, sums);
    }
    float sum = sum_of_lanes(sums);
    for (long i = lanes_end; i < dim; i++) sum += x[i] * x[i];
    return sum;
}

typedef struct {
    const void *x, *weight;
    void *out;
    long dim;
    float eps;
} RmsNorm;

static void norm_rows_float32(const void *operation, Range rows) {
    const RmsNorm *n = operation;
    const float *weight = n->weight;
    for (long row = rows.first; row < rows.end; row++) {
        const float *from = (const float *)n->x + row * n->dim;
        float *to = (float *)n->out + row * n->dim;
        const float scale = 1.0f / sqrtf(square_sum(from, n->dim) / n->dim + n->eps);
        for (long i = 0; i < n->dim; i++) to[i] = from[i] * scale * weight[i];
    }
}

EXPORT void rms_norm_float32(const float *x, const float *weight, float *out, long num_rows, long dim, float eps, int num_threads) {
    const RmsNorm norm = {x, weight, out, dim, eps};
    over_rows(norm_rows_float32, &norm, num_rows, dim, num_threads);
}

/* A whole register of bfloat16 values, or the last few of a row with zeros behind them. */
INLINE vec load_some(const uint16_t *p, long num) {
    uint16_t padded[LANES] = {0};
    if (num >= LANES) return load_bfloat16(p);
    memcpy(padded, p, num * sizeof *p);
    return load_bfloat16(padded);
}

INLINE void store_some(uint16_t *p, vec rounded, long num) {
    uint16_t padded[LANES];
    if (num >= LANES) {
        store_bfloat16(p, rounded);
        return;
    }
    store_bfloat16(padded, rounded);
    memcpy(p, padded, num * sizeof *p);
}

/* The normed value is rounded before the weight multiplies it, as BAGEL does. */
static void norm_rows_bfloat16(const void *operation, Range rows) {
    const RmsNorm *n = operation;
    const uint16_t *weight = n->weight;
    const long dim = n->dim;
    for (long row = rows.first; row < rows.end; row++) {
        const uint16_t *from = (const uint16_t *)n->x + row * dim;
        uint16_t *to = (uint16_t *)n->out + row * dim;
        vec sums = splat(0.0f);
        for (long i = 0; i < dim; i += LANES) {
            vec v = load_some(from + i, dim - i);
            sums = multiply_add(v, v, sums);
        }
        const float scale = 1.0f / sqrtf(sum_of_lanes(sums) / dim + n->eps);
        for (long i = 0; i < dim; i += LANES) {
            vec normed = round_bfloat16(load_some(from + i, dim - i) * scale);
            store_some(to + i, round_bfloat16(normed * load_some(weight + i, dim - i)), dim - i);
        }
    }
}

/* bfloat16 in and out, sums in float32. */
EXPORT void rms_norm_bfloat16(const uint16_t *x, const uint16_t *weight, uint16_t *out, long num_rows, long dim, float eps,
                              int num_threads) {
    const RmsNorm norm = {x, weight, out, dim, eps};
    over_rows(norm_rows_bfloat16, &norm, num_rows, dim, num_threads);
}

typedef struct {
    const void *gate_up;
    void *out;
    long width;
} SiluMul;

/* The activated gate is rounded to bfloat16 before it meets the other half, as two operations in that format would. */
static void silu_mul_rows_bfloat16(const void *operation, Range rows) {
    const SiluMul *s = operation;
    const long width = s->width;
    for (long row = rows.first; row < rows.end; row++) {
        const uint16_t *gate = (const uint16_t *)s->gate_up + row * 2 * width, *up = gate + width;
        uint16_t *to = (uint16_t *)s->out + row * width;
        for (long i = 0; i < width; i += LANES) {
            vec activated = round_bfloat16(silu_vec(load_some(gate + i, width - i)));
            store_some(to + i, round_bfloat16(activated * load_some(up + i, width - i)), width - i);
        }
    }
}

EXPORT void silu_mul_bfloat16(const uint16_t *gate_up, uint16_t *out, long num_rows, long width, int num_threads) {
    const SiluMul product = {gate_up, out, width};
    over_rows(silu_mul_rows_bfloat16, &product, num_rows, width, num_threads);
}

static void silu_mul_rows_float32(const void *operation, Range rows) {
    const SiluMul *s = operation;
    const long width = s->width, lanes_end = width / LANES * LANES;
    for (long row = rows.first; row < rows.end; row++) {
        const float *gate = (const float *)s->gate_up + row * 2 * width, *up = gate + width;
        float *to = (float *)s->out + row * width;
        for (long i = 0; i < lanes_end; i += LANES) store(to + i, silu_vec(load(gate + i)) * load(up + i));
        for (long i = lanes_end; i < width; i++) to[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
}

EXPORT void silu_mul_float32(const float *gate_up, float *out, long num_rows, long width, int num_threads) {
    const SiluMul product = {gate_up, out, width};
    over_rows(silu_mul_rows_float32, &product, num_rows, width, num_threads);
}

/* One head: norm over its d values, then rotate-half. */
INLINE void norm_rope(const float *x, const float *weight, const float *cos, const float *sin, float *out, long dim, float eps) {
    const long half = dim / 2;
    const float scale = 1.0f / sqrtf(square_sum(x, dim) / dim + eps);
    for (long i = 0; i < half; i++) {
        float first = x[i] * scale * weight[i], second = x[half + i] * scale * weight[half + i];
        out[i] = first * cos[i] - second * sin[i];
        out[half + i] = second * cos[half + i] + first * sin[half + i];
    }
}

typedef struct {
    const Heads *queries, *keys;
    const float *cos, *sin;
    long dim;
    float eps;
} QkNormRope;

static void norm_rope_tokens(const void *operation, Range tokens) {
    const QkNormRope *r = operation;
    const long dim = r->dim;
    for (long token = tokens.first; token < tokens.end; token++)
        for (int side = 0; side < 2; side++) {
            const Heads *heads = side ? r->keys : r->queries;
            for (long head = 0; head < heads->num_heads; head++)
                norm_rope(heads->x + token * heads->token_stride + head * dim, heads->weight, r->cos + token * dim, r->sin + token * dim,
                          heads->out + (token * heads->num_heads + head) * dim, dim, r->eps);
        }
}

EXPORT void qk_norm_rope_float32(const Heads *queries, const Heads *keys, const float *cos, const float *sin, long num_tokens,
                                 long dim, float eps, int num_threads) {
    const QkNormRope operation = {queries, keys, cos, sin, dim, eps};
    over_rows(norm_rope_tokens, &operation, num_tokens, (queries->num_heads + keys->num_heads) * dim, num_threads);
}

/* The kept tokens' keys and values, each `width` values that stand together, into their slots. */
EXPORT void write_pages_float32(const PageWrite *w) {
    for (long i = 0; i < w->num_kept; i++) {
        memcpy(w->k_pages + w->slots[i] * w->width, w->k + w->tokens[i] * w->k_token, w->width * sizeof(float));
        memcpy(w->v_pages + w->slots[i] * w->width, w->v + w->tokens[i] * w->v_token, w->width * sizeof(float));
    }
}
