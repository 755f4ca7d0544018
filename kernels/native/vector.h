/* Portable SIMD for the native kernels: GCC and Clang vector extensions, one register wide. */
#ifndef PLAIT_VECTOR_H
#define PLAIT_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__FMA__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#define LANE_NUMBERS {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
#else
#define LANES 8
#define LANE_NUMBERS {0, 1, 2, 3, 4, 5, 6, 7}
#endif

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
/* A loop over registers: left rolled, its array would live in memory. */
#define UNROLL _Pragma("GCC unroll 8")

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES)));
typedef float unaligned_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t unaligned_hvec __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

INLINE vec load(const float *p) { return *(const unaligned_vec *)p; }
INLINE void store(float *p, vec v) { *(unaligned_vec *)p = v; }
INLINE vec splat(float x) { return x - (vec){0}; }
INLINE ivec isplat(int32_t x) { return x - (ivec){0}; }

/* a * b + c, rounded once where the CPU can. Said outright, because the compiler is told not to fuse by itself (-ffp-contract=off): it
   would do so in one copy of a loop and not in another, and a token's bits would depend on its company. */
INLINE vec multiply_add(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FP_FAST_FMAF)
    vec sum;
    for (int i = 0; i < LANES; i++) sum[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return sum;
#else
    return a * b + c;
#endif
}

/* Without this GCC folds one load into each of the multiplications that use it, and the load ports become the bound. */
#if defined(__x86_64__)
#define KEEP_IN_REGISTER(v) __asm__("" : "+v"(v))
#else
#define KEEP_IN_REGISTER(v) ((void)0)
#endif

/* A bfloat16 is the upper half of a float. */
INLINE vec load_bfloat16(const uint16_t *p) {
    typedef uint32_t bits __attribute__((vector_size(4 * LANES)));
    hvec half = *(const unaligned_hvec *)p;
    return (vec)(__builtin_convertvector(half, bits) << 16);
}

INLINE float float_of_bfloat16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* Round to nearest, ties to even; a NaN stays one. */
INLINE uint16_t bfloat16_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));

/* Lanes of two vectors of one type, side by side, by number. */
#if defined(__clang__)
#define SHUFFLE(mask, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(mask, a, b, ...) __builtin_shuffle(a, b, (mask){__VA_ARGS__})
#endif

/* Fold a vector to four partial sums. */
INLINE quad fold(vec v) {
    quad parts[LANES / 4];
    memcpy(parts, &v, sizeof v);
#if LANES == 16
    parts[0] += parts[2];
    parts[1] += parts[3];
#endif
    return parts[0] + parts[1];
}

INLINE float sum_of_lanes(vec v) {
    quad folded = fold(v);
    return (folded[0] + folded[2]) + (folded[1] + folded[3]);
}

/* The lane sums of four vectors, side by side, each the very bits of `sum_of_lanes`: the vectors are folded and transposed together. */
#if LANES == 16
INLINE quad sums_of_lanes(vec a, vec b, vec c, vec d) {
    vec ab = SHUFFLE(ivec, a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
             SHUFFLE(ivec, a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    vec cd = SHUFFLE(ivec, c, d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
             SHUFFLE(ivec, c, d, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    vec folded = SHUFFLE(ivec, ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                 SHUFFLE(ivec, ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    folded += SHUFFLE(ivec, folded, folded, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    folded += SHUFFLE(ivec, folded, folded, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    folded = SHUFFLE(ivec, folded, folded, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    quad sums;
    memcpy(&sums, &folded, sizeof sums);
    return sums;
}
#else
INLINE quad sums_of_lanes(vec a, vec b, vec c, vec d) {
    typedef int32_t iquad __attribute__((vector_size(16)));
    quad i = fold(a), j = fold(b), k = fold(c), l = fold(d);
    quad ij = SHUFFLE(iquad, i, j, 0, 4, 1, 5) + SHUFFLE(iquad, i, j, 2, 6, 3, 7);
    quad kl = SHUFFLE(iquad, k, l, 0, 4, 1, 5) + SHUFFLE(iquad, k, l, 2, 6, 3, 7);
    return SHUFFLE(iquad, ij, kl, 0, 1, 4, 5) + SHUFFLE(iquad, ij, kl, 2, 3, 6, 7);
}
#endif

INLINE vec choose(ivec condition, vec a, vec b) { return (vec)((condition & (ivec)a) | (~condition & (ivec)b)); }

typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));

/* Round to bfloat16, ties to even, and stay a float; a NaN stays one. */
INLINE vec round_bfloat16(vec v) {
    uvec bits = (uvec)v;
    uvec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
    return choose(v != v, v, (vec)rounded);
}

/* Store what `round_bfloat16` returned. */
INLINE void store_bfloat16(uint16_t *p, vec rounded) {
    *(unaligned_hvec *)p = __builtin_convertvector((uvec)rounded >> 16, hvec);
}

/* The larger of two; a NaN in a stays. */
INLINE vec larger(vec a, vec b) { return choose(b > a, b, a); }

/* 2^x, relative error below 2e-7 for x <= 127; 0 below -126; NaN for NaN.
   2^f = sum (f ln 2)^i / i! on f in [-1/2, 1/2], to the seventh term. */
INLINE vec exp2_vec(vec x) {
    const vec magic = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vec clamped = larger(x, splat(-127.0f));
    vec shifted = clamped + magic;
    vec f = clamped - (shifted - magic);
    vec p = splat(1.5252734e-5f);
    p = multiply_add(p, f, splat(1.5403530e-4f));
    p = multiply_add(p, f, splat(1.3333558e-3f));
    p = multiply_add(p, f, splat(9.6181291e-3f));
    p = multiply_add(p, f, splat(5.5504109e-2f));
    p = multiply_add(p, f, splat(2.4022651e-1f));
    p = multiply_add(p, f, splat(6.9314718e-1f));
    p = multiply_add(p, f, splat(1.0f));
    vec scaled = (vec)((ivec)p + (((ivec)shifted) << 23));
    return choose(x < splat(-126.0f), splat(0.0f), scaled);
}

INLINE vec silu_vec(vec g) {
    /* 2^126 at most, so that a very negative gate gives -0 and not 0 / inf. */
    vec exponent = -larger(g * 1.44269504f, splat(-126.0f));
    return g / (1.0f + exp2_vec(exponent));
}

#endif
