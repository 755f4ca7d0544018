/* Interleaved attention over pages and packed tokens, float32, the whole plan in one call.

   One task is a row, a key head and a tile of COLUMNS (query, head) pairs. Everything is transposed so that the pairs lie along the
   vector lanes: scores S[key][column] take a broadcast key value times a vector of queries, the softmax runs down the keys without
   any horizontal step, and the output O[d][column] takes a broadcast value times a vector of weights. Keys and values are used where
   they lie, in pages or in the batch: nothing is gathered or packed but the query tile.
   Online softmax: Milakov & Gimelshein 2018 (arXiv:1805.02867), in blocks of KEYS as FlashAttention does. */
#include "ops.h"
#include "pool.h"

enum {
    KEYS = 48,
    KEY_GROUP = 6,
    MAX_D_GROUP = 8,
    MAX_VECS = 2,
    MAX_COLUMNS = MAX_VECS * LANES,
    MAX_HEAD_DIM = 512
};

typedef struct {
    float q[MAX_HEAD_DIM][MAX_COLUMNS], out[MAX_HEAD_DIM][MAX_COLUMNS], s[KEYS][MAX_COLUMNS];
} Scratch;

typedef struct {
    const float *keys[KEYS], *values[KEYS];
    int num_keys;
} Block;

/* Scores of KEY_GROUP keys with the query tile: s[key][column] = sum_d k[key][d] q[d][column]. */
INLINE void score_keys(Scratch *t, const Block *block, int first, long head_dim, const int vecs) {
    const float *const *k = block->keys + first;
    vec sums[KEY_GROUP][MAX_VECS];
    UNROLL
    for (int j = 0; j < KEY_GROUP; j++)
        UNROLL
        for (int c = 0; c < vecs; c++) sums[j][c] = splat(0.0f);
    const float *k0 = k[0], *k1 = k[1], *k2 = k[2], *k3 = k[3], *k4 = k[4], *k5 = k[5];
    for (long d = 0; d < head_dim; d++) {
        const float values[KEY_GROUP] = {k0[d], k1[d], k2[d], k3[d], k4[d], k5[d]};
        vec q[MAX_VECS];
        UNROLL
        for (int c = 0; c < vecs; c++) q[c] = load(t->q[d] + c * LANES);
        UNROLL
        for (int j = 0; j < KEY_GROUP; j++)
            UNROLL
            for (int c = 0; c < vecs; c++) sums[j][c] = multiply_add(splat(values[j]), q[c], sums[j][c]);
    }
    UNROLL
    for (int j = 0; j < KEY_GROUP; j++)
        UNROLL
        for (int c = 0; c < vecs; c++) store(t->s[first + j] + c * LANES, sums[j][c]);
}

/* out[d][column] = out * alpha + sum_key v[key][d] p[key][column], so many values of d at a time that eight sums are in flight. */
INLINE void add_values(Scratch *t, const Block *block, long head_dim, const vec *alpha, const int vecs) {
    const int d_group = MAX_D_GROUP / vecs;
    for (long d = 0; d < head_dim; d += d_group) {
        vec sums[MAX_D_GROUP][MAX_VECS];
        UNROLL
        for (int i = 0; i < d_group; i++)
            UNROLL
            for (int c = 0; c < vecs; c++) sums[i][c] = load(t->out[d + i] + c * LANES) * alpha[c];
        for (int j = 0; j < block->num_keys; j++) {
            const float *v = block->values[j] + d;
            vec p[MAX_VECS];
            UNROLL
            for (int c = 0; c < vecs; c++) {
                p[c] = load(t->s[j] + c * LANES);
                KEEP_IN_REGISTER(p[c]);
            }
            UNROLL
            for (int i = 0; i < d_group; i++)
                UNROLL
                for (int c = 0; c < vecs; c++) sums[i][c] = multiply_add(splat(v[i]), p[c], sums[i][c]);
        }
        UNROLL
        for (int i = 0; i < d_group; i++)
            UNROLL
            for (int c = 0; c < vecs; c++) store(t->out[d + i] + c * LANES, sums[i][c]);
    }
}

/* Where keys start .. start + num_keys - 1 of a row lie; the block is filled up to a whole KEY_GROUP with its last key. */
static void find_keys(const Attention *a, Block *block, long row, long kv_head, long start, int num_keys) {
    const long past_len = a->past_len[row], num_past = past_len - start < num_keys ? past_len - start : num_keys;
    const long slot_stride = a->num_kv_heads * a->head_dim;
    const int32_t *page = a->kv_indices + a->kv_indptr[row] + start / a->page_size;
    const int32_t *token = a->token_index + a->qo_indptr[row] + start - past_len;
    long in_page = start % a->page_size;
    for (int j = 0; j < num_past; j++) {
        const long offset = (*page * a->page_size + in_page) * slot_stride + kv_head * a->head_dim;
        block->keys[j] = a->k_pages + offset;
        block->values[j] = a->v_pages + offset;
        if (++in_page == a->page_size) {
            in_page = 0;
            page++;
        }
    }
    for (int j = num_past > 0 ? (int)num_past : 0; j < num_keys; j++) {
        block->keys[j] = a->k + token[j] * a->k_token + kv_head * a->k_head;
        block->values[j] = a->v + token[j] * a->v_token + kv_head * a->v_head;
    }
    for (int j = num_keys; j % KEY_GROUP; j++) block->keys[j] = block->keys[num_keys - 1];
    block->num_keys = num_keys;
}

/* Ask for what the next block needs of this block's keys first .. first + KEY_GROUP - 1: a group's worth between two computations. */
INLINE void prefetch_keys(const Block *next, int first, long head_dim) {
    const int end = first + KEY_GROUP < next->num_keys ? first + KEY_GROUP : next->num_keys;
    for (int j = first; j < end; j++)
        for (long d = 0; d < head_dim; d += CACHE_LINE / 4) {
            __builtin_prefetch(next->keys[j] + d, 0, 2);
            __builtin_prefetch(next->values[j] + d, 0, 2);
        }
}

/* One tile: columns first .. first + num_columns - 1 of a row's (query, head of this key head) pairs. */
INLINE void attend_tile(const Attention *a, long row, long kv_head, long first, int num_columns, const int vecs) {
    Scratch t;
    const long group = a->num_heads / a->num_kv_heads, row_start = a->qo_indptr[row], head_dim = a->head_dim;
    const float scale = 1.44269504f / sqrtf((float)head_dim);
    const int width = vecs * LANES;
    int32_t ends[MAX_COLUMNS];
    const float *queries[MAX_COLUMNS];
    long min_end = INT64_MAX, max_end = 0;
    for (int c = 0; c < width; c++) {
        const long pair = first + (c < num_columns ? c : 0); /* a column without a pair repeats the first */
        const long query = row_start + pair / group;
        queries[c] = a->q + a->token_index[query] * a->q_token + (kv_head * group + pair % group) * a->q_head;
        ends[c] = a->kv_end[query];
        if (ends[c] < min_end) min_end = ends[c];
        if (ends[c] > max_end) max_end = ends[c];
    }
    for (long d = 0; d < head_dim; d++)
        for (int c = 0; c < width; c++) {
            t.q[d][c] = queries[c][d] * scale;
            t.out[d][c] = 0.0f;
        }

    vec m_i[MAX_VECS], l_i[MAX_VECS];
    for (int c = 0; c < vecs; c++) {
        m_i[c] = splat(-INFINITY);
        l_i[c] = splat(0.0f);
    }
    Block blocks[2];
    find_keys(a, &blocks[0], row, kv_head, 0, max_end < KEYS ? (int)max_end : KEYS);
    for (long start = 0, index = 0; start < max_end; start += KEYS, index = 1 - index) {
        const Block *block = &blocks[index];
        Block *next = &blocks[1 - index];
        const int num_keys = block->num_keys;
        const long rest = max_end - start - KEYS;
        if (rest > 0) find_keys(a, next, row, kv_head, start + KEYS, rest < KEYS ? (int)rest : KEYS);
        else next->num_keys = 0;
        for (int j = 0; j < num_keys; j += KEY_GROUP) {
            if (vecs == 1) prefetch_keys(next, j, head_dim);
            score_keys(&t, block, j, head_dim, vecs);
        }
        if (start + num_keys > min_end)
            for (int j = 0; j < num_keys; j++)
                for (int c = 0; c < width; c++)
                    if (start + j >= ends[c]) t.s[j][c] = -INFINITY;
        vec alpha[MAX_VECS];
        for (int c = 0; c < vecs; c++) {
            /* Key 0 is visible to every query, so the maximum is finite from the first block on. */
            vec m_new = m_i[c];
            for (int j = 0; j < num_keys; j++) m_new = larger(load(t.s[j] + c * LANES), m_new);
            alpha[c] = exp2_vec(m_i[c] - m_new);
            vec sum = splat(0.0f);
            for (int j = 0; j < num_keys; j++) {
                vec p = exp2_vec(load(t.s[j] + c * LANES) - m_new);
                store(t.s[j] + c * LANES, p);
                sum += p;
            }
            l_i[c] = multiply_add(l_i[c], alpha[c], sum);
            m_i[c] = m_new;
        }
        add_values(&t, block, head_dim, alpha, vecs);
    }

    for (int c = 0; c < num_columns; c++) {
        const long pair = first + c, token = a->token_index[row_start + pair / group];
        float *out = a->out + (token * a->num_heads + kv_head * group + pair % group) * head_dim;
        const float inverse = 1.0f / l_i[c / LANES][c % LANES];
        for (long d = 0; d < head_dim; d++) out[d] = t.out[d][c] * inverse;
    }
}

static void attend_narrow(const Attention *a, long row, long kv_head, long first, int num_columns) {
    attend_tile(a, row, kv_head, first, num_columns, 1);
}

static void attend_wide(const Attention *a, long row, long kv_head, long first, int num_columns) {
    attend_tile(a, row, kv_head, first, num_columns, 2);
}

/* The tiles of a row's pairs, each of them once for every key head. */
static long num_row_tasks(const Attention *a, long row) {
    const long num_pairs = (a->qo_indptr[row + 1] - a->qo_indptr[row]) * (a->num_heads / a->num_kv_heads);
    return (num_pairs + MAX_COLUMNS - 1) / MAX_COLUMNS * a->num_kv_heads;
}

/* Where each row's tasks begin, and behind the last one's; `start` is the first task of this call. */
typedef struct {
    const Attention *attention;
    const long *first_task;
    long start;
} Tiles;

static void attend_task(const void *work, long number) {
    const Tiles *tiles = work;
    const long index = tiles->start + number;
    const Attention *a = tiles->attention;
    long row = 0, end = a->num_rows;
    while (end - row > 1) {
        const long middle = (row + end) / 2;
        if (tiles->first_task[middle] <= index) row = middle;
        else end = middle;
    }
    const long task = index - tiles->first_task[row], kv_head = task % a->num_kv_heads, first = task / a->num_kv_heads * MAX_COLUMNS;
    const long rest = (a->qo_indptr[row + 1] - a->qo_indptr[row]) * (a->num_heads / a->num_kv_heads) - first;
    const int num_columns = rest < MAX_COLUMNS ? (int)rest : MAX_COLUMNS;
    if (num_columns <= LANES) attend_narrow(a, row, kv_head, first, num_columns);
    else attend_wide(a, row, kv_head, first, num_columns);
}

/* Part `part` of `num_parts`, of about equal work. head_dim is a multiple of 8 and at most 512; pages are contiguous. */
EXPORT void attention_float32(const Attention *a, long part, long num_parts, int num_threads) {
    long first_task[a->num_rows + 1], num_keys = 0;
    first_task[0] = 0;
    for (long row = 0; row < a->num_rows; row++) {
        const long last = a->qo_indptr[row + 1];
        first_task[row + 1] = first_task[row] + num_row_tasks(a, row);
        if (last > a->qo_indptr[row]) num_keys += (last - a->qo_indptr[row]) * a->kv_end[last - 1];
    }
    const Range tasks = part_of((Range){0, first_task[a->num_rows]}, part, num_parts);
    const Tiles tiles = {a, first_task, tasks.first};
    const int is_large = num_keys * a->num_heads * a->head_dim > num_parts * PARALLEL_SCORE_PRODUCTS;
    run_tasks(attend_task, &tiles, tasks.end - tasks.first, is_large ? num_threads : 1);
}
