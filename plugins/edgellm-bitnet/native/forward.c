/* The forward pass: one job of the thread pool for each batch, with barriers between its phases.

A layer: norm and quantize (by token) | q, k, v (by panel) | rotate and cache (by head) | attend (by query rows) |
sub-norm and quantize | output product | add, norm, quantize | gate and up | gate, sub-norm, quantize | down product.
No phase's result for a token depends on the other tokens of the batch, so a batch equals its tokens run alone. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bitnet.h"
#include "dispatch.h"
#include "pool.h"

enum { ACTS = 3 };

/* Query rows that attend together: rows of one slot and KV head, (token, head in group) in order. */
struct rows {
  int32_t token, row, count; /* first token of the run, first row in it, 1..MAX_ROWS */
};

struct engine {
  struct model model;
  struct cache cache;
  const struct kernels *kernels;
  struct pool *pool;
  int32_t batch, threads, dim, group, width; /* width: widest row of scratch, padded */
  uint8_t *scratch;
  size_t scratch_bytes;
  /* scratch */
  struct acts acts[ACTS];
  float *x, *wide, *narrow, *attended, *work, *partial;
  struct rows *rows;
  /* the batch under way */
  const int32_t *tokens, *slots, *positions;
  const uint8_t *wants;
  int32_t n, n_rows, n_wanted, chunks, partials;
  int32_t want_hidden;
  float *out;
};

static int32_t q_rows(const struct model *m) { return padded(m->heads * m->head_dim, PANEL); }
static int32_t kv_rows(const struct model *m) { return padded(m->kv_heads * m->head_dim, PANEL); }
static int32_t qkv_rows(const struct model *m) { return q_rows(m) + 2 * kv_rows(m); }
static int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

static int32_t widest(const struct model *m) {
  int32_t wide = larger(qkv_rows(m), 2 * padded(m->ffn, PANEL));
  return padded(larger(larger(wide, m->hidden), m->heads * m->head_dim), COLUMN_ALIGN);
}

static int32_t act_columns(const struct model *m) {
  return padded(larger(larger(m->hidden, m->ffn), m->heads * m->head_dim), COLUMN_ALIGN);
}

/* One arena for all scratch: called once to measure (base NULL) and once to hand out. */
static size_t lay_out(struct engine *e, uint8_t *base) {
  const struct model *m = &e->model;
  size_t at = 0, tokens = (size_t)e->batch, columns = (size_t)act_columns(m), wide = (size_t)widest(m);
  size_t units = (size_t)(4 * e->threads) * ((size_t)e->cache.context / CHUNK + 1);
#define TAKE(field, count)                                     \
  do {                                                         \
    if (base) e->field = (void *)(base + at);                  \
    at += ((count) * sizeof *e->field + 127) / 128 * 128;      \
  } while (0)
  for (int i = 0; i < ACTS; i++) {
    TAKE(acts[i].q, tokens * columns);
    TAKE(acts[i].inverse, tokens * columns / COLUMN_ALIGN);
    TAKE(acts[i].sums, tokens * columns / SUB_COLUMNS);
    TAKE(acts[i].minus, tokens * columns / SUB_COLUMNS);
    TAKE(acts[i].total, tokens);
  }
  TAKE(acts[0].real, tokens * (size_t)m->hidden);
  TAKE(x, tokens * (size_t)m->hidden);
  TAKE(wide, tokens * wide);
  TAKE(narrow, tokens * (size_t)padded(m->hidden, PANEL));
  TAKE(attended, tokens * (size_t)(m->heads * m->head_dim));
  TAKE(work, (size_t)e->threads * 2 * columns);
  TAKE(partial, units * MAX_ROWS * ((size_t)e->dim + 2));
  TAKE(rows, tokens * (size_t)e->group);
#undef TAKE
  return at;
}

static struct engine measured(const struct model *model, int32_t batch, int32_t threads, int32_t context) {
  struct engine e = {.model = *model, .batch = batch, .threads = threads};
  e.cache.context = context;
  e.dim = padded(model->head_dim, KV_SLICE);
  e.group = model->heads / model->kv_heads;
  return e;
}

size_t bn_scratch_bytes(const struct model *model, int32_t batch, int32_t threads, int32_t context) {
  struct engine e = measured(model, batch, threads, context);
  return lay_out(&e, NULL);
}

/* Cache: [layer][slot][kv head]{keys, values, key scales, value scales}. */
static size_t head_bytes(const struct engine *e) {
  size_t cell = (size_t)e->dim * (e->cache.type == KV_F16 ? 2 : 1) * 2;
  return (size_t)e->cache.context * (cell + (e->cache.type == KV_F16 ? 0 : 2 * sizeof(float)));
}

size_t bn_cache_bytes(const struct model *model, int32_t type, int32_t slots, int32_t context) {
  struct engine e = measured(model, 1, 1, context);
  e.cache.type = type;
  return head_bytes(&e) * (size_t)model->layers * (size_t)slots * (size_t)model->kv_heads;
}

static struct kv kv_at(const struct engine *e, int32_t layer, int32_t slot, int32_t head) {
  const struct model *m = &e->model;
  size_t index = ((size_t)layer * (size_t)e->cache.slots + (size_t)slot) * (size_t)m->kv_heads + (size_t)head;
  uint8_t *base = e->cache.memory + index * head_bytes(e);
  size_t plane = (size_t)e->cache.context * (size_t)e->dim * (e->cache.type == KV_F16 ? 2 : 1);
  float *scales = (float *)(base + 2 * plane);
  return (struct kv){base, base + plane, scales, scales + e->cache.context};
}

/* RoPE of one head in place; components beyond rope_dim stay. */
static void rotate(const struct model *m, float *x, const float *table, int32_t position) {
  const float *turn = table + (size_t)position * (size_t)m->rope_dim;
  int32_t half = m->rope_dim / 2;
  for (int32_t i = 0; i < half; i++) {
    float *a = m->rope_neox ? x + i : x + 2 * i, *b = m->rope_neox ? x + half + i : x + 2 * i + 1;
    float c = turn[2 * i], s = turn[2 * i + 1], left = *a, right = *b;
    *a = left * c - right * s;
    *b = right * c + left * s;
  }
}

static void set_acts(struct engine *e, int32_t columns, int32_t block, int32_t tokens) {
  int32_t tiles = (tokens + e->kernels->max_tile - 1) / e->kernels->max_tile;
  for (int i = 0; i < ACTS; i++) {
    e->acts[i].tokens = tokens;
    e->acts[i].cols = columns;
    e->acts[i].block = block;
    e->acts[i].tile = (tokens + tiles - 1) / tiles;
  }
}

/* Norm, then the norm of each product that has its own, then quantize. `x` is one token's row. */
static void prepare(struct engine *e, const float *x, const float *gain, const float *const *own, int32_t inputs,
                    int32_t token, float *work) {
  int32_t n = e->acts[0].cols;
  if (gain) {
    e->kernels->norm(work, x, gain, n, e->model.eps);
    x = work;
  }
  if (!own[0]) {
    e->kernels->quantize(x, &e->acts[0], token);
    return;
  }
  float *second = work + act_columns(&e->model);
  for (int i = 0; i < inputs; i++) {
    e->kernels->norm(second, x, own[i], n, e->model.eps);
    e->kernels->quantize(second, &e->acts[i], token);
  }
}

/* Rows of one product whose inputs may differ by segment: segment i is `ends[i]` panels long at most. */
static void product(struct engine *e, const struct matrix *w, const int32_t *ends, int32_t segments, int separate,
                    float *y, size_t stride, int thread, int threads) {
  int32_t first, last, from = 0;
  share(padded(w->rows, PANEL) / PANEL, thread, threads, &first, &last);
  if (!separate) {
    e->kernels->matmul(w, first, last, &e->acts[0], y, stride);
    return;
  }
  for (int32_t i = 0; i < segments; from = ends[i++]) {
    int32_t a = larger(first, from), b = last < ends[i] ? last : ends[i];
    if (a < b) e->kernels->matmul(w, a, b, &e->acts[i], y, stride);
  }
}

/* One head of one token: norm and rotate, and for a KV head cache it. Heads follow each other: q, then k. */
static void place_head(struct engine *e, int32_t layer, int32_t token, int32_t head, float *work) {
  const struct model *m = &e->model;
  const struct layer *l = &m->layer[layer];
  float *row = e->wide + (size_t)token * (size_t)qkv_rows(m);
  int32_t kv_head = head - m->heads, position = e->positions[token];
  float *x = kv_head < 0 ? row + head * m->head_dim : row + q_rows(m) + kv_head * m->head_dim;
  const float *gain = kv_head < 0 ? l->q_norm : l->k_norm;
  if (gain) e->kernels->norm(x, x, gain, m->head_dim, m->eps);
  rotate(m, x, l->rope, position);
  if (kv_head < 0) return;
  const float *value = row + q_rows(m) + kv_rows(m) + kv_head * m->head_dim;
  float *key = work, *padded_value = work + e->dim;
  memset(work, 0, 2 * (size_t)e->dim * sizeof *work);
  memcpy(key, x, (size_t)m->head_dim * sizeof *x);
  memcpy(padded_value, value, (size_t)m->head_dim * sizeof *value);
  struct kv kv = kv_at(e, layer, e->slots[token], kv_head);
  e->kernels->store_kv(&kv, e->cache.type, e->dim, position, key, padded_value);
}

struct attention {
  float query[MAX_ROWS * 512], out[MAX_ROWS * 512], chunk_out[MAX_ROWS * 512];
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

/* Many units: each thread folds the chunks of its own, every threads-th, since later tokens see more. Few units (decode
at a long context): chunks are shared out, and folded in the same order after a barrier. */
static void attend_phase(struct engine *e, int32_t layer, int thread, int threads) {
  int32_t units = e->n_rows * e->model.kv_heads;
  size_t stride = MAX_ROWS * ((size_t)e->dim + 2);
  _Alignas(64) struct attention a;
  if (!e->partials) {
    for (int32_t unit = thread; unit < units; unit += threads) {
      load_rows(e, layer, unit, &a);
      for (int32_t chunk = a.first; chunk <= a.last; chunk++) {
        a.job.first = chunk * CHUNK;
        e->kernels->attend(&a.job);
        fold(e, &a, a.chunk_max, a.chunk_sum, a.chunk_out);
      }
      put_rows(e, &a);
    }
    return;
  }
  int32_t first, last, loaded = -1;
  share(units * e->chunks, thread, threads, &first, &last);
  for (int32_t i = first; i < last; i++) {
    if (i / e->chunks != loaded) load_rows(e, layer, loaded = i / e->chunks, &a);
    int32_t chunk = i % e->chunks;
    if (chunk < a.first || chunk > a.last) continue;
    float *to = e->partial + (size_t)i * stride;
    a.job.first = chunk * CHUNK;
    a.job.max = to;
    a.job.sum = to + MAX_ROWS;
    a.job.out = to + 2 * MAX_ROWS;
    e->kernels->attend(&a.job);
  }
  pool_wait(e->pool);
  for (int32_t unit = thread; unit < units; unit += threads) {
    load_rows(e, layer, unit, &a);
    for (int32_t chunk = a.first; chunk <= a.last; chunk++) {
      const float *from = e->partial + ((size_t)unit * (size_t)e->chunks + (size_t)chunk) * stride;
      fold(e, &a, from, from + MAX_ROWS, from + 2 * MAX_ROWS);
    }
    put_rows(e, &a);
  }
}

/* x += norm(y) where the layer has such a norm, else x += y. */
static void add_residual(struct engine *e, int32_t token, const float *gain, float *work) {
  int32_t hidden = e->model.hidden;
  float *y = e->narrow + (size_t)token * (size_t)padded(hidden, PANEL);
  if (gain) {
    e->kernels->norm(work, y, gain, hidden, e->model.eps);
    y = work;
  }
  e->kernels->add(e->x + (size_t)token * (size_t)hidden, y, hidden);
}

static void attention_half(struct engine *e, int32_t layer, int thread, int threads, float *work) {
  const struct model *m = &e->model;
  const struct layer *l = &m->layer[layer];
  int32_t n = e->n, first, last, width = m->heads * m->head_dim;
  int32_t ends[] = {q_rows(m) / PANEL, (q_rows(m) + kv_rows(m)) / PANEL, qkv_rows(m) / PANEL};
  product(e, &l->qkv, ends, 3, l->in_norm[IN_Q] != NULL, e->wide, (size_t)qkv_rows(m), thread, threads);
  pool_wait(e->pool);
  share(n * (m->heads + m->kv_heads), thread, threads, &first, &last);
  for (int32_t i = first; i < last; i++)
    place_head(e, layer, i / (m->heads + m->kv_heads), i % (m->heads + m->kv_heads), work);
  pool_wait(e->pool);
  if (thread == 0) set_acts(e, width, m->act_block, n);
  attend_phase(e, layer, thread, threads);
  pool_wait(e->pool);
  share(n, thread, threads, &first, &last);
  for (int32_t t = first; t < last; t++)
    prepare(e, e->attended + (size_t)t * (size_t)width, l->attn_sub_norm, &l->in_norm[IN_OUTPUT], 1, t, work);
  pool_wait(e->pool);
  product(e, &l->output, NULL, 1, 0, e->narrow, (size_t)padded(m->hidden, PANEL), thread, threads);
}

static void ffn_half(struct engine *e, int32_t layer, int thread, int threads, float *work) {
  const struct model *m = &e->model;
  const struct layer *l = &m->layer[layer];
  int32_t n = e->n, first, last, rows = padded(m->ffn, PANEL);
  int32_t ends[] = {rows / PANEL, 2 * rows / PANEL};
  product(e, &l->gate_up, ends, 2, l->in_norm[IN_GATE] != NULL, e->wide, (size_t)(2 * rows), thread, threads);
  pool_wait(e->pool);
  if (thread == 0) set_acts(e, m->ffn, m->act_block, n);
  pool_wait(e->pool);
  share(n, thread, threads, &first, &last);
  for (int32_t t = first; t < last; t++) {
    float *gate = e->wide + (size_t)t * (size_t)(2 * rows);
    e->kernels->gate(gate, gate, gate + rows, m->ffn, m->gate);
    prepare(e, gate, l->ffn_sub_norm, &l->in_norm[IN_DOWN], 1, t, work);
  }
  pool_wait(e->pool);
  product(e, &l->down, NULL, 1, 0, e->narrow, (size_t)padded(m->hidden, PANEL), thread, threads);
}

/* Wanted rows move to the front, in order; then the head. */
static void head_phase(struct engine *e, int thread, int threads, float *work) {
  const struct model *m = &e->model;
  int32_t first, last, wanted = 0;
  if (thread == 0) set_acts(e, m->hidden, m->head.kind <= Q8 && m->hidden % 256 == 0 ? 256 : 0, e->n_wanted);
  pool_wait(e->pool);
  share(e->n_wanted, thread, threads, &first, &last);
  for (int32_t t = 0; t < e->n; t++) {
    if (!e->wants[t]) continue;
    if (wanted >= first && wanted < last) {
      const float *x = e->x + (size_t)t * (size_t)m->hidden;
      float *to = e->want_hidden ? e->out + (size_t)wanted * (size_t)m->hidden
                  : m->head.kind > Q8 ? e->acts[0].real + (size_t)wanted * (size_t)m->hidden : work;
      e->kernels->norm(to, x, m->output_norm, m->hidden, m->eps);
      if (!e->want_hidden && m->head.kind <= Q8) e->kernels->quantize(to, &e->acts[0], wanted);
    }
    wanted++;
  }
  if (e->want_hidden) return;
  pool_wait(e->pool);
  share(padded(m->vocab, PANEL) / PANEL, thread, threads, &first, &last);
  e->kernels->matmul(&m->head, first, last, &e->acts[0], e->out, (size_t)padded(m->vocab, PANEL));
}

static void forward(void *argument, int thread, int threads) {
  struct engine *e = argument;
  const struct model *m = &e->model;
  float *work = e->work + (size_t)thread * 2 * (size_t)act_columns(m);
  int32_t first, last, hidden = m->hidden;
  share(e->n, thread, threads, &first, &last);
  for (int32_t t = first; t < last; t++) {
    float *x = e->x + (size_t)t * (size_t)hidden;
    bn_row(&m->embed, e->tokens[t], x);
    if (m->embed_scale != 1) for (int32_t i = 0; i < hidden; i++) x[i] *= m->embed_scale;
  }
  for (int32_t layer = 0; layer < m->layers; layer++) {
    const struct layer *l = &m->layer[layer];
    if (thread == 0) set_acts(e, hidden, m->act_block, e->n);
    pool_wait(e->pool);
    for (int32_t t = first; t < last; t++) {
      if (layer) add_residual(e, t, m->layer[layer - 1].post_ffn_norm, work);
      prepare(e, e->x + (size_t)t * (size_t)hidden, l->attn_norm, &l->in_norm[IN_Q], 3, t, work);
    }
    pool_wait(e->pool);
    attention_half(e, layer, thread, threads, work);
    pool_wait(e->pool);
    if (thread == 0) set_acts(e, hidden, m->act_block, e->n);
    pool_wait(e->pool);
    for (int32_t t = first; t < last; t++) {
      add_residual(e, t, l->post_attn_norm, work);
      prepare(e, e->x + (size_t)t * (size_t)hidden, l->ffn_norm, &l->in_norm[IN_GATE], 2, t, work);
    }
    pool_wait(e->pool);
    ffn_half(e, layer, thread, threads, work);
    pool_wait(e->pool);
  }
  for (int32_t t = first; t < last; t++) add_residual(e, t, m->layer[m->layers - 1].post_ffn_norm, work);
  pool_wait(e->pool);
  if (e->n_wanted) head_phase(e, thread, threads, work);
}

/* Blocks of query rows of the batch, and whether their chunks are shared out. */
static void plan_attention(struct engine *e, int32_t threads) {
  int32_t most = 0;
  e->n_rows = 0;
  for (int32_t from = 0, to; from < e->n; from = to) {
    for (to = from + 1; to < e->n && e->slots[to] == e->slots[from]; to++) {}
    int32_t rows = (to - from) * e->group, step = e->group < MAX_ROWS ? MAX_ROWS / e->group * e->group : MAX_ROWS;
    for (int32_t row = 0; row < rows; row += step)
      e->rows[e->n_rows++] = (struct rows){from, row, rows - row < step ? rows - row : step};
    most = larger(most, e->positions[to - 1]);
  }
  e->chunks = most / CHUNK + 1;
  e->partials = threads > 1 && e->chunks > 1 && e->n_rows * e->model.kv_heads < 4 * threads;
}

static int32_t run(struct engine *e, int32_t n, const int32_t *tokens, const int32_t *slots, const int32_t *positions,
                   const uint8_t *wants, int32_t threads, float *out, int32_t want_hidden) {
  size_t row = (size_t)(want_hidden ? e->model.hidden : padded(e->model.vocab, PANEL));
  if (threads > e->threads) threads = e->threads;
  for (int32_t from = 0; from < n; from += e->batch) {
    e->n = n - from < e->batch ? n - from : e->batch;
    e->tokens = tokens + from;
    e->slots = slots + from;
    e->positions = positions + from;
    e->wants = wants + from;
    e->want_hidden = want_hidden;
    e->out = out;
    e->n_wanted = 0;
    for (int32_t i = 0; i < e->n; i++) e->n_wanted += e->wants[i] != 0;
    plan_attention(e, threads);
    pool_run(e->pool, threads, forward, e);
    out += (size_t)e->n_wanted * row;
  }
  return 0;
}

int32_t bn_step(struct engine *e, int32_t n, const int32_t *tokens, const int32_t *slots, const int32_t *positions,
                const uint8_t *wants, int32_t threads, float *logits) {
  return run(e, n, tokens, slots, positions, wants, threads, logits, 0);
}

int32_t bn_hidden(struct engine *e, int32_t n, const int32_t *tokens, const int32_t *slots, const int32_t *positions,
                  const uint8_t *wants, int32_t threads, float *hidden) {
  return run(e, n, tokens, slots, positions, wants, threads, hidden, 1);
}

struct engine *bn_engine_new(const struct model *model, const struct cache *cache, int32_t isa, int32_t batch,
                             int32_t threads) {
  const struct kernels *kernels = isa_kernels(isa);
  if (!kernels || padded(model->head_dim, KV_SLICE) > 512 || batch < 1 || threads < 1) return NULL;
  struct engine *e = malloc(sizeof *e);
  if (!e) return NULL;
  *e = measured(model, batch, threads, cache->context);
  e->cache = *cache;
  e->kernels = kernels;
  e->scratch_bytes = lay_out(e, NULL);
  e->scratch = bn_memory_new(e->scratch_bytes);
  e->pool = pool_new(threads);
  if (!e->scratch || !e->pool) {
    bn_engine_free(e);
    return NULL;
  }
  lay_out(e, e->scratch);
  return e;
}

void bn_engine_free(struct engine *e) {
  if (!e) return;
  pool_free(e->pool);
  bn_memory_free(e->scratch, e->scratch_bytes);
  free(e);
}

/* The parts of one head's cache that hold the first n positions: whole blocks, then scales. */
typedef void copier(uint8_t *cache, uint8_t *bytes, size_t n);

static size_t each_part(const struct engine *e, int32_t slot, int32_t n, uint8_t *bytes, copier *copy) {
  size_t cells = (size_t)padded(n, KV_BLOCK), at = 0, cell = (size_t)e->dim * (e->cache.type == KV_F16 ? 2 : 1);
  for (int32_t layer = 0; layer < e->model.layers; layer++)
    for (int32_t head = 0; head < e->model.kv_heads; head++) {
      struct kv kv = kv_at(e, layer, slot, head);
      void *parts[] = {kv.keys, kv.values, kv.key_scales, kv.value_scales};
      for (int i = 0; i < (e->cache.type == KV_F16 ? 2 : 4); i++) {
        size_t size = cells * (i < 2 ? cell : sizeof(float));
        if (copy) copy(parts[i], bytes + at, size);
        at += size;
      }
    }
  return at;
}

static void copy_out(uint8_t *cache, uint8_t *bytes, size_t n) { memcpy(bytes, cache, n); }
static void copy_in(uint8_t *cache, uint8_t *bytes, size_t n) { memcpy(cache, bytes, n); }

size_t bn_slot_bytes(const struct engine *e, int32_t n) { return each_part(e, 0, n, NULL, NULL); }
void bn_slot_save(const struct engine *e, int32_t slot, int32_t n, uint8_t *to) { each_part(e, slot, n, to, copy_out); }
void bn_slot_load(struct engine *e, int32_t slot, int32_t n, const uint8_t *from) {
  each_part(e, slot, n, (uint8_t *)from, copy_in);
}

void bn_fork(struct engine *e, int32_t source, int32_t target, int32_t n) {
  size_t cells = (size_t)padded(n, KV_BLOCK), cell = (size_t)e->dim * (e->cache.type == KV_F16 ? 2 : 1);
  for (int32_t layer = 0; layer < e->model.layers; layer++)
    for (int32_t head = 0; head < e->model.kv_heads; head++) {
      struct kv from = kv_at(e, layer, source, head), to = kv_at(e, layer, target, head);
      memcpy(to.keys, from.keys, cells * cell);
      memcpy(to.values, from.values, cells * cell);
      if (e->cache.type == KV_F16) continue;
      memcpy(to.key_scales, from.key_scales, cells * sizeof(float));
      memcpy(to.value_scales, from.value_scales, cells * sizeof(float));
    }
}
