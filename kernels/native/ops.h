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

/* One attention call over a whole plan: see attention.c. Strides in values. */
typedef struct {
    const float *q, *k, *v, *k_pages, *v_pages;
    float *out;
    const int32_t *qo_indptr, *token_index, *kv_end, *past_len, *kv_indptr, *kv_indices;
    long num_rows, num_heads, num_kv_heads, head_dim, page_size;
    long q_token, q_head, k_token, k_head, v_token, v_head;
} Attention;

/* Keys and values of the kept tokens and where they go: `width` values a token that stand together. */
typedef struct {
    const float *k, *v;
    float *k_pages, *v_pages;
    const int64_t *tokens, *slots;
    long num_kept, k_token, v_token, width;
} PageWrite;

void attention_float32(const Attention *a, long part, long num_parts, int num_threads);
void write_pages_float32(const PageWrite *w);
void linear_float32(const float *x, long x_stride, const float *weight, const float *bias, float *y, long num_rows, long num_outputs,
                    long depth, int num_threads);
void rms_norm_float32(const float *x, const float *weight, float *out, long num_rows, long dim, float eps, int num_threads);
void silu_mul_float32(const float *gate_up, float *out, long num_rows, long width, int num_threads);
void qk_norm_rope_float32(const Heads *queries, const Heads *keys, const float *cos, const float *sin, long num_tokens, long dim,
                          float eps, int num_threads);

#endif
