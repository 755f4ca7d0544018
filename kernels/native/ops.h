/* The operations that other files of this library call. */
#ifndef PLAIT_OPS_H
#define PLAIT_OPS_H

#include "vector.h"

/* Heads of a token stand together; `token_stride` values lie between tokens. */
typedef struct {
    const float *x, *weight;
    float *out;
    long token_stride, num_heads;
} Heads;

void linear_float32(const float *x, long x_stride, const float *weight, const float *bias, float *y, long num_rows, long num_outputs,
                    long depth, int num_threads);
void rms_norm_float32(const float *x, const float *weight, float *out, long num_rows, long dim, float eps, int num_threads);
void silu_mul_float32(const float *gate_up, float *out, long num_rows, long width, int num_threads);
void qk_norm_rope_float32(const Heads *queries, const Heads *keys, const float *cos, const float *sin, long num_tokens, long dim,
                          float eps, int num_threads);

#endif
