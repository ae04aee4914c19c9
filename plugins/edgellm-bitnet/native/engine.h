/* An engine: a model, its cache, and the scratch of a batch. Private to forward.c and the files it is made of. */
#ifndef EDGELLM_BITNET_ENGINE_H
#define EDGELLM_BITNET_ENGINE_H

#include "bitnet.h"
#include "dispatch.h"
#include "pool.h"

/* Query rows that attend together: rows of one slot and KV head, (token, head in group) in order. */
struct rows {
  int32_t token, row, count; /* first token of the run, first row in it, 1..MAX_ROWS */
};

struct engine {
  struct model model;
  struct cache cache;
  const struct kernels *kernels;
  struct pool *pool;
  int32_t batch, threads, dim, group; /* group: query heads of a KV head */
  int32_t by_columns; /* norms and quantization are shared out by columns, see inputs.c */
  uint8_t *scratch;
  size_t scratch_bytes;
  /* scratch */
  struct acts acts[INPUTS], head_acts; /* head_acts: in the memory of acts[IN_Q] */
  float *x, *wide, *narrow, *attended, *work, *partial;
  float *squares, *peaks; /* [panel][token], [thread][batch] */
  double *norms;          /* [thread][batch] */
  int32_t *part_totals, *totals;  /* [thread][batch] both */
  struct rows *rows;
  /* the batch under way */
  const int32_t *tokens, *slots, *positions;
  const uint8_t *wants;
  int32_t n, n_rows, n_wanted, chunks, partials;
  int32_t alone; /* each token is the only one of its slot, and its heads attend together */
  int32_t want_hidden;
  float *out;
};

/* Whole panels of a row's columns or of a matrix's rows: the share of a thread. */
struct span {
  int32_t first, last; /* panels */
};

static inline int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }
static inline int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
static inline int32_t panels_of(int32_t rows) { return padded(rows, PANEL) / PANEL; }
static inline int32_t q_cols(const struct model *m) { return m->heads * m->head_dim; }
static inline int32_t q_rows(const struct model *m) { return padded(q_cols(m), PANEL); }
static inline int32_t kv_rows(const struct model *m) { return padded(m->kv_heads * m->head_dim, PANEL); }
static inline int32_t qkv_rows(const struct model *m) { return q_rows(m) + 2 * kv_rows(m); }
static inline struct span own_panels(int32_t rows, int thread, int threads) {
  struct span own;
  share(panels_of(rows), thread, threads, &own.first, &own.last);
  return own;
}

/* engine.c */
struct engine measured(const struct model *model, int32_t batch, int32_t threads, int32_t context);
int32_t act_columns(const struct model *m);

/* cache.c */
struct kv kv_at(const struct engine *e, int32_t layer, int32_t slot, int32_t head);

/* inputs.c */
struct entry {
  float *x; /* rows */
  size_t stride;
  int32_t shared;   /* written by other threads than those that own its columns */
  const float *add; /* rows that are added to x first; NULL: none */
  size_t add_stride;
  const float *post; /* norm of what is added, or NULL */
};
void add_residual(struct engine *e, const struct entry *from, int32_t token, float *work);
void enter(struct engine *e, enum input input, int32_t inputs, const struct entry *from, const float *gain,
           const float *const *own, int thread, int threads, float *work);
void product(struct engine *e, const struct matrix *w, const int32_t *rows, int32_t parts, enum input input,
             int separate, float *y, size_t stride, int thread, int threads);

/* attention.c */
void plan_attention(struct engine *e, int32_t threads);
void attention(struct engine *e, int32_t layer, int thread, int threads, float *work);

#endif
