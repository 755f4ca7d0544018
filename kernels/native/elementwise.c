/* Row-wise operations in one pass each: RMSNorm, SwiGLU, query and key norm with rotary embedding. float32. */
#include "ops.h"

/* Fewer values than this are not worth waking the other threads for (about 2 us). */
enum { PARALLEL_VALUES = 16384 };

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

EXPORT void rms_norm_float32(const float *x, const float *weight, float *out, long num_rows, long dim, float eps, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static) if (num_rows * dim > PARALLEL_VALUES)
    for (long row = 0; row < num_rows; row++) {
        const float *from = x + row * dim;
        float *to = out + row * dim;
        const float scale = 1.0f / sqrtf(square_sum(from, dim) / dim + eps);
        for (long i = 0; i < dim; i++) to[i] = from[i] * scale * weight[i];
    }
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

/* bfloat16 in and out, sums in float32; the normed value is rounded before the weight multiplies it, as BAGEL does. */
EXPORT void rms_norm_bfloat16(const uint16_t *x, const uint16_t *weight, uint16_t *out, long num_rows, long dim, float eps,
                              int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static) if (num_rows * dim > PARALLEL_VALUES)
    for (long row = 0; row < num_rows; row++) {
        const uint16_t *from = x + row * dim;
        vec sums = splat(0.0f);
        for (long i = 0; i < dim; i += LANES) {
            vec v = load_some(from + i, dim - i);
            sums = multiply_add(v, v, sums);
        }
        const float scale = 1.0f / sqrtf(sum_of_lanes(sums) / dim + eps);
        for (long i = 0; i < dim; i += LANES) {
            vec normed = round_bfloat16(load_some(from + i, dim - i) * scale);
            store_some(out + row * dim + i, round_bfloat16(normed * load_some(weight + i, dim - i)), dim - i);
        }
    }
}

INLINE vec silu_vec(vec g) {
    /* 2^126 at most, so that a very negative gate gives -0 and not 0 / inf. */
    vec exponent = -larger(g * 1.44269504f, splat(-126.0f));
    return g / (1.0f + exp2_vec(exponent));
}

/* The activated gate is rounded to bfloat16 before it meets the other half, as two operations in that format would. */
EXPORT void silu_mul_bfloat16(const uint16_t *gate_up, uint16_t *out, long num_rows, long width, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static) if (num_rows * width > PARALLEL_VALUES)
    for (long row = 0; row < num_rows; row++) {
        const uint16_t *gate = gate_up + row * 2 * width, *up = gate + width;
        uint16_t *to = out + row * width;
        for (long i = 0; i < width; i += LANES) {
            vec activated = round_bfloat16(silu_vec(load_some(gate + i, width - i)));
            store_some(to + i, round_bfloat16(activated * load_some(up + i, width - i)), width - i);
        }
    }
}

EXPORT void silu_mul_float32(const float *gate_up, float *out, long num_rows, long width, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static) if (num_rows * width > PARALLEL_VALUES)
    for (long row = 0; row < num_rows; row++) {
        const float *gate = gate_up + row * 2 * width, *up = gate + width;
        float *to = out + row * width;
        const long lanes_end = width / LANES * LANES;
        for (long i = 0; i < lanes_end; i += LANES) store(to + i, silu_vec(load(gate + i)) * load(up + i));
        for (long i = lanes_end; i < width; i++) to[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
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

EXPORT void qk_norm_rope_float32(const Heads *queries, const Heads *keys, const float *cos, const float *sin, long num_tokens,
                                 long dim, float eps, int num_threads) {
    const long values = num_tokens * (queries->num_heads + keys->num_heads) * dim;
#pragma omp parallel for num_threads(num_threads) schedule(static) if (values > PARALLEL_VALUES)
    for (long token = 0; token < num_tokens; token++)
        for (int side = 0; side < 2; side++) {
            const Heads *heads = side ? keys : queries;
            for (long head = 0; head < heads->num_heads; head++)
                norm_rope(heads->x + token * heads->token_stride + head * dim, heads->weight, cos + token * dim, sin + token * dim,
                          heads->out + (token * heads->num_heads + head) * dim, dim, eps);
        }
}

/* The kept tokens' keys and values, each `width` values that stand together, into their slots. */
EXPORT void write_pages_float32(const PageWrite *w) {
    for (long i = 0; i < w->num_kept; i++) {
        memcpy(w->k_pages + w->slots[i] * w->width, w->k + w->tokens[i] * w->k_token, w->width * sizeof(float));
        memcpy(w->v_pages + w->slots[i] * w->width, w->v + w->tokens[i] * w->v_token, w->width * sizeof(float));
    }
}
