/* What an expert does with its tokens before and after attention, each in one call: a decoded token is 16 small operations a layer, and
   calling them one by one from Python costs as much as reading the weights of a small model. float32. */
#include "ops.h"

typedef struct {
    const float *input_norm, *qkv_weight, *qkv_bias, *q_norm, *k_norm, *o_weight, *mlp_norm, *gate_up_weight, *down_weight;
    long hidden, wide, num_heads, num_kv_heads, head_dim;
    float eps;
} Expert;

static void add(const float *a, const float *b, float *sum, long num_values) {
    for (long i = 0; i < num_values; i++) sum[i] = a[i] + b[i];
}

/* x -> qkv = norm(x) W + b; q and k normed and rotated into q_out and k_out, v left where it is in qkv. */
EXPORT void expert_project_float32(const Expert *e, const float *x, const float *cos, const float *sin, float *normed, float *qkv,
                                   float *q_out, float *k_out, long num_tokens, int num_threads) {
    const long rows = (e->num_heads + 2 * e->num_kv_heads) * e->head_dim;
    rms_norm_float32(x, e->input_norm, normed, num_tokens, e->hidden, e->eps, num_threads);
    linear_float32(normed, e->hidden, e->qkv_weight, e->qkv_bias, qkv, num_tokens, rows, e->hidden, num_threads);
    const Heads queries = {qkv, e->q_norm, q_out, rows, e->num_heads};
    const Heads keys = {qkv + e->num_heads * e->head_dim, e->k_norm, k_out, rows, e->num_kv_heads};
    qk_norm_rope_float32(&queries, &keys, cos, sin, num_tokens, e->head_dim, e->eps, num_threads);
}

/* out = h + down(silu(gate(norm(h))) * up(norm(h))), h = x + attended W_o. `scratch` holds num_tokens * (hidden + 3 wide) values. */
EXPORT void expert_finish_float32(const Expert *e, const float *x, const float *attended, float *scratch, float *out, long num_tokens,
                                  int num_threads) {
    const long num_values = num_tokens * e->hidden, depth = e->num_heads * e->head_dim;
    float *normed = scratch, *gate_up = normed + num_values, *product = gate_up + num_tokens * 2 * e->wide;
    linear_float32(attended, depth, e->o_weight, 0, normed, num_tokens, e->hidden, depth, num_threads);
    add(x, normed, out, num_values);
    rms_norm_float32(out, e->mlp_norm, normed, num_tokens, e->hidden, e->eps, num_threads);
    linear_float32(normed, e->hidden, e->gate_up_weight, 0, gate_up, num_tokens, 2 * e->wide, e->hidden, num_threads);
    silu_mul_float32(gate_up, product, num_tokens, e->wide, num_threads);
    linear_float32(product, e->wide, e->down_weight, 0, normed, num_tokens, e->hidden, e->wide, num_threads);
    add(out, normed, out, num_values);
}

/* Memory of a whole pass: x and its successor [T, hidden], and what one layer needs in between. */
typedef struct {
    float *x, *next, *normed, *qkv, *q, *k, *attended, *scratch;
    const float *cos, *sin;
    float *pool;
    long layer_values, values_offset;
} Pass;

/* Every layer of one expert over a few tokens that see pages and each other: project, keep, attend, finish; then the norm after the last.
   The attention and page structs come with the plan's columns filled in. Returns the buffer that holds the result. */
EXPORT float *expert_layers_float32(const Expert *experts, long num_layers, const float *last_norm, Pass *p, Attention *a, PageWrite *w,
                                    long num_tokens, int num_threads) {
    const long d = experts->head_dim, rows = (experts->num_heads + 2 * experts->num_kv_heads) * d;
    a->q = p->q;
    a->k = w->k = p->k;
    a->v = w->v = p->qkv + (experts->num_heads + experts->num_kv_heads) * d;
    a->out = p->attended;
    a->q_token = experts->num_heads * d;
    a->k_token = w->k_token = w->width = experts->num_kv_heads * d;
    a->v_token = w->v_token = rows;
    a->q_head = a->k_head = a->v_head = d;
    for (long layer = 0; layer < num_layers; layer++) {
        const Expert *e = experts + layer;
        float *k_pages = p->pool + layer * p->layer_values, *v_pages = k_pages + p->values_offset, *x = p->x;
        expert_project_float32(e, x, p->cos, p->sin, p->normed, p->qkv, p->q, p->k, num_tokens, num_threads);
        w->k_pages = k_pages;
        w->v_pages = v_pages;
        write_pages_float32(w);
        a->k_pages = k_pages;
        a->v_pages = v_pages;
        attention_float32(a, 0, 1, num_threads);
        expert_finish_float32(e, x, p->attended, p->scratch, p->next, num_tokens, num_threads);
        p->x = p->next;
        p->next = x;
    }
    rms_norm_float32(p->x, last_norm, p->next, num_tokens, experts->hidden, experts->eps, num_threads);
    return p->next;
}
