/* An engine: its scratch memory, how it is made, and how it is freed. */
#include <stdlib.h>

#include "engine.h"

int32_t activation_columns(const struct model *m) {
  return padded(larger(larger(m->hidden, m->ffn), q_cols(m)), COLUMN_ALIGN);
}

static int32_t widest(const struct model *m) {
  int32_t wide = larger(qkv_rows(m), 2 * padded(m->ffn, PANEL));
  return padded(larger(larger(wide, m->hidden), q_cols(m)), COLUMN_ALIGN);
}

static int32_t input_cols(const struct model *m, int input) {
  return input == IN_OUTPUT ? q_cols(m) : input == IN_DOWN ? m->ffn : m->hidden;
}

/* One arena for all scratch. It is called twice: with base NULL to measure, then to assign the pointers. */
static size_t lay_out(struct engine *e, uint8_t *base) {
  const struct model *m = &e->model;
  size_t at = 0, tokens = (size_t)e->batch, wide = (size_t)widest(m), columns = (size_t)activation_columns(m);
  size_t units = (size_t)(4 * e->threads) * ((size_t)e->cache.context / CHUNK + 1);
  size_t each = (size_t)e->threads * (size_t)padded(e->batch, 32); /* threads write lines of their own */
#define TAKE(field, count)                                     \
  do {                                                         \
    if (base) e->field = (void *)(base + at);                  \
    at += ((count) * sizeof *e->field + 127) / 128 * 128;      \
  } while (0)
  for (int i = 0; i < INPUTS; i++) {
    size_t cols = (size_t)padded(input_cols(m, i), COLUMN_ALIGN);
    e->activations[i].cols = input_cols(m, i);
    e->activations[i].block = m->act_block;
    TAKE(activations[i].q, tokens * cols);
    TAKE(activations[i].inverse, tokens * cols / COLUMN_ALIGN);
    TAKE(activations[i].sums, tokens * cols / SUB_COLUMNS);
    TAKE(activations[i].minus, tokens * cols / SUB_COLUMNS);
    TAKE(activations[i].total, tokens);
  }
  e->head_activations = e->activations[IN_Q];
  e->head_activations.block = m->head.kind <= Q8 && m->hidden % 256 == 0 ? 256 : 0;
  TAKE(head_activations.real, tokens * (size_t)m->hidden);
  TAKE(x, tokens * (size_t)m->hidden);
  TAKE(wide, tokens * wide);
  TAKE(narrow, tokens * (size_t)padded(m->hidden, PANEL));
  TAKE(attended, tokens * (size_t)q_cols(m));
  TAKE(work, (size_t)e->threads * 2 * columns);
  TAKE(partial, units * MAX_ROWS * ((size_t)e->dim + 2));
  TAKE(squares, tokens * columns / PANEL);
  TAKE(peaks, each);
  TAKE(norms, each);
  TAKE(part_totals, each);
  TAKE(totals, each);
  TAKE(rows, tokens * (size_t)e->group);
#undef TAKE
  return at;
}

struct engine measured(const struct model *model, int32_t batch, int32_t threads, int32_t context) {
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

/* Threads can share the columns of a row only where the row has one norm and one scale, and no norm or scale of the whole row
must be known before that. */
static int by_columns(const struct model *m) {
  for (int32_t i = 0; i < m->layers; i++) {
    const struct layer *l = &m->layer[i];
    if (l->post_attn_norm || l->post_ffn_norm || l->in_norm[IN_Q] || l->in_norm[IN_OUTPUT] || l->in_norm[IN_GATE] ||
        l->in_norm[IN_DOWN])
      return 0;
  }
  return m->act_block == 0;
}

struct engine *bn_engine_new(const struct model *model, const struct cache *cache, int32_t isa, int32_t batch,
                             int32_t threads) {
  const struct kernels *kernels = isa_kernels(isa);
  if (!kernels || padded(model->head_dim, KV_SLICE) > MAX_DIM || batch < 1 || threads < 1) return NULL;
  struct engine *e = malloc(sizeof *e);
  if (!e) return NULL;
  *e = measured(model, batch, threads, cache->context);
  e->cache = *cache;
  e->kernels = kernels;
  e->by_columns = by_columns(model);
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
  free(e->side);
  bn_memory_free(e->scratch, e->scratch_bytes);
  free(e);
}
