/* Attention of a batch. Each head is normalized, rotated and cached. Then rows of queries attend to chunks of the cache. */
#include <math.h>
#include <string.h>

#include "engine.h"

enum { WARM = 2 * KV_BLOCK }; /* positions that a kernel starts with, before its own prefetches arrive */

static inline void turn(float *a, float *b, float c, float s) {
  float left = *a, right = *b;
  *a = left * c - right * s;
  *b = right * c + left * s;
}

/* RoPE of one head in place; components beyond rope_dim stay. `table`: cosine and sine of each pair. */
static void rotate(const struct model *m, float *x, const float *table, int32_t position) {
  const float *t = table + (size_t)position * (size_t)m->rope_dim;
  int32_t half = m->rope_dim / 2;
  for (int32_t i = 0; i < half; i++) turn(x + i, x + half + i, t[2 * i], t[2 * i + 1]);
}

/* The heads of one KV head and token: normalize and rotate them, then cache key and value. */
static void place_group(struct engine *e, int32_t layer, int32_t token, int32_t kv_head, float *work) {
  const struct model *m = &e->model;
  const struct layer *l = &m->layer[layer];
  int32_t position = e->positions[token], size = m->head_dim;
  float *row = e->wide + (size_t)token * (size_t)qkv_rows(m), *key = row + q_rows(m) + kv_head * size;
  const float *value = key + kv_rows(m);
  for (int32_t i = 0; i < e->group; i++) {
    float *q = row + (kv_head * e->group + i) * size;
    if (l->q_norm) e->kernels->norm(q, q, l->q_norm, size, m->eps);
    rotate(m, q, l->rope, position);
  }
  if (l->k_norm) e->kernels->norm(key, key, l->k_norm, size, m->eps);
  rotate(m, key, l->rope, position);
  float *padded_key = work, *padded_value = work + e->dim;
  memset(work, 0, 2 * (size_t)e->dim * sizeof *work);
  memcpy(padded_key, key, (size_t)size * sizeof *key);
  memcpy(padded_value, value, (size_t)size * sizeof *value);
  struct kv kv = kv_at(e, layer, e->slots[token], kv_head);
  e->kernels->store_kv(&kv, e->cache.type, e->dim, position, padded_key, padded_value);
}

struct attention {
  float query[MAX_ROWS * MAX_DIM], out[MAX_ROWS * MAX_DIM], chunk_out[MAX_ROWS * MAX_DIM];
  float max[MAX_ROWS], sum[MAX_ROWS], chunk_max[MAX_ROWS], chunk_sum[MAX_ROWS];
  int32_t since[MAX_ROWS], limit[MAX_ROWS], token[MAX_ROWS], head[MAX_ROWS];
  int32_t first, last; /* chunks */
  struct kv kv;
  struct chunk_job job;
};

/* Query rows of unit `unit` (a block of rows and a KV head), scaled, with what each may see. */
static void load_rows(const struct engine *e, int32_t layer, int32_t unit, struct attention *a) {
  const struct model *m = &e->model;
  const struct rows *rows = &e->rows[unit % e->n_rows];
  int32_t kv_head = unit / e->n_rows, window = m->layer[layer].window, least = INT32_MAX, most = 0;
  memset(a->query, 0, sizeof(float) * (size_t)rows->count * (size_t)e->dim);
  for (int32_t r = 0; r < rows->count; r++) {
    int32_t token = rows->token + (rows->row + r) / e->group, head = kv_head * e->group + (rows->row + r) % e->group;
    const float *q = e->wide + (size_t)token * (size_t)qkv_rows(m) + head * m->head_dim;
    for (int32_t d = 0; d < m->head_dim; d++) a->query[r * e->dim + d] = q[d] * m->query_scale;
    a->token[r] = token;
    a->head[r] = head;
    a->limit[r] = e->positions[token];
    a->since[r] = window ? larger(0, a->limit[r] - window + 1) : 0;
    least = a->since[r] < least ? a->since[r] : least;
    most = larger(most, a->limit[r]);
    a->max[r] = -INFINITY;
    a->sum[r] = 0;
  }
  memset(a->out, 0, sizeof(float) * (size_t)rows->count * (size_t)e->dim);
  a->first = least / CHUNK;
  a->last = most / CHUNK;
  a->kv = kv_at(e, layer, e->slots[rows->token], kv_head);
  a->job = (struct chunk_job){.kv = &a->kv, .type = e->cache.type, .dim = e->dim, .rows = rows->count,
                              .since = a->since, .limit = a->limit, .query = a->query, .max = a->chunk_max,
                              .sum = a->chunk_sum, .out = a->chunk_out};
}

static void fold(const struct engine *e, struct attention *a, const float *max, const float *sum, const float *out) {
  for (int32_t r = 0; r < a->job.rows; r++)
    e->kernels->merge(&a->max[r], &a->sum[r], a->out + r * e->dim, max[r], sum[r], out + r * e->dim, e->dim);
}

static void put_rows(const struct engine *e, const struct attention *a) {
  const struct model *m = &e->model;
  for (int32_t r = 0; r < a->job.rows; r++) {
    float *to = e->attended + (size_t)a->token[r] * (size_t)(m->heads * m->head_dim) + a->head[r] * m->head_dim;
    for (int32_t d = 0; d < m->head_dim; d++) to[d] = a->out[r * e->dim + d] / a->sum[r];
  }
}

static void attend_unit(struct engine *e, int32_t layer, int32_t unit, struct attention *a) {
  load_rows(e, layer, unit, a);
  for (int32_t chunk = a->first; chunk <= a->last; chunk++) {
    a->job.first = chunk * CHUNK;
    e->kernels->attend(&a->job);
    fold(e, a, a->chunk_max, a->chunk_sum, a->chunk_out);
  }
  put_rows(e, a);
}

/* Few units (decode at a long context): the threads share the chunks. After a barrier the partial results are merged, always
in the same order. */
static void attend_chunks(struct engine *e, int32_t layer, int32_t units, int thread, int threads,
                          struct attention *a) {
  size_t stride = MAX_ROWS * ((size_t)e->dim + 2);
  int32_t first, last, loaded = -1;
  share(units * e->chunks, thread, threads, &first, &last);
  for (int32_t i = first; i < last; i++) {
    if (i / e->chunks != loaded) load_rows(e, layer, loaded = i / e->chunks, a);
    int32_t chunk = i % e->chunks;
    if (chunk < a->first || chunk > a->last) continue;
    float *to = e->partial + (size_t)i * stride;
    a->job.first = chunk * CHUNK;
    a->job.max = to;
    a->job.sum = to + MAX_ROWS;
    a->job.out = to + 2 * MAX_ROWS;
    e->kernels->attend(&a->job);
  }
  pool_wait(e->pool);
  for (int32_t unit = thread; unit < units; unit += threads) {
    load_rows(e, layer, unit, a);
    for (int32_t chunk = a->first; chunk <= a->last; chunk++) {
      const float *from = e->partial + ((size_t)unit * (size_t)e->chunks + (size_t)chunk) * stride;
      fold(e, a, from, from + MAX_ROWS, from + 2 * MAX_ROWS);
    }
    put_rows(e, a);
  }
}

/* Prefetch the first blocks of a unit's cache. The kernels prefetch the rest. */
static void warm(const struct engine *e, int32_t layer, int32_t unit) {
  int32_t token = e->rows[unit % e->n_rows].token, cells = padded(e->positions[token] + 1, KV_BLOCK);
  struct kv kv = kv_at(e, layer, e->slots[token], unit / e->n_rows);
  int32_t cell = e->dim * (int32_t)kv_bytes(e->cache.type), keys = smaller(cells, WARM) * cell;
  const uint8_t *last = (const uint8_t *)kv.keys + (size_t)(cells - KV_BLOCK) * (size_t)cell;
  for (int32_t i = 0; i < keys; i += 64) __builtin_prefetch((const uint8_t *)kv.keys + i);
  if (cells > WARM) for (int32_t i = 0; i < KV_BLOCK * cell; i += 64) __builtin_prefetch(last + i);
  for (int32_t i = 0; i < keys; i += 64) __builtin_prefetch((const uint8_t *)kv.values + i);
}

/* Many units: each thread takes whole ones.

Where each token is the only one of its slot, a unit also caches the keys and values that it needs. Then a thread takes
neighbouring units of one KV head, because it computed their columns before. Otherwise it takes every threads-th unit:
later tokens see more positions, and this spreads the long ones. */
void attention(struct engine *e, int32_t layer, int thread, int threads, float *work) {
  int32_t units = e->n_rows * e->model.kv_heads, first, last;
  _Alignas(64) struct attention a;
  share(e->n * e->model.kv_heads, thread, threads, &first, &last);
  if (e->alone) {
    if (first < last) warm(e, layer, first);
    for (int32_t unit = first; unit < last; unit++) {
      if (unit + 1 < last) warm(e, layer, unit + 1);
      place_group(e, layer, unit % e->n, unit / e->n, work);
      attend_unit(e, layer, unit, &a);
    }
    return;
  }
  for (int32_t i = first; i < last; i++) place_group(e, layer, i % e->n, i / e->n, work);
  pool_wait(e->pool);
  if (e->partials) {
    attend_chunks(e, layer, units, thread, threads, &a);
    return;
  }
  for (int32_t unit = thread; unit < units; unit += threads) attend_unit(e, layer, unit, &a);
}

/* Blocks of query rows of the batch, and how the threads share them. */
void plan_attention(struct engine *e, int32_t threads) {
  int32_t most = 0, step = e->group < MAX_ROWS ? MAX_ROWS / e->group * e->group : MAX_ROWS;
  e->n_rows = 0;
  e->alone = e->group <= MAX_ROWS;
  for (int32_t from = 0, to; from < e->n; from = to) {
    for (to = from + 1; to < e->n && e->slots[to] == e->slots[from]; to++) {}
    int32_t rows = (to - from) * e->group;
    for (int32_t row = 0; row < rows; row += step)
      e->rows[e->n_rows++] = (struct rows){from, row, smaller(rows - row, step)};
    most = larger(most, e->positions[to - 1]);
    if (to - from > 1) e->alone = 0;
  }
  e->chunks = most / CHUNK + 1;
  e->partials = threads > 1 && e->chunks > 1 && e->n_rows * e->model.kv_heads < 4 * threads;
  if (e->partials) e->alone = 0;
}
