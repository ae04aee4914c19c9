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
  uint8_t *scratch; /* [scratch_bytes]: the memory of all that follows */
  size_t scratch_bytes;
  /* scratch */
  struct activations activations[INPUTS]; /* inputs of the products */
  struct activations head_activations;    /* input of the output table, in the memory of activations[IN_Q] */
  float *x;                    /* residual stream [batch][hidden] */
  float *wide;                 /* products of q, k, v or of gate, up [batch][qkv_rows or 2 * padded ffn] */
  float *narrow;               /* products that the residual takes [batch][padded hidden] */
  float *attended;             /* result of attention [batch][heads * head_dim] */
  float *work;                 /* a thread's own rows [threads][2][activation_columns] */
  float *partial;              /* by unit of attention and chunk: max, sum [MAX_ROWS], out [MAX_ROWS][dim] */
  float *squares;              /* sums of squares of 32 columns [panel][n] */
  float *peaks;                /* largest |x * gain| of a thread's columns [threads][padded batch] */
  double *norms;               /* 1 / rms [threads][padded batch] */
  int32_t *part_totals;        /* sums of a thread's quantized columns [threads][padded batch] */
  int32_t *totals;             /* the same of whole rows, a copy for each thread [threads][padded batch] */
  struct rows *rows;           /* [n_rows], room for [batch * group] */
  /* adapters in use */
  const struct side *sides[MAX_SIDES]; /* [n_sides], each [layers][INPUTS] */
  float side_scales[MAX_SIDES];
  int32_t n_sides;
  float *side;      /* A x of one input [n][ranks of all adapters in use], room for side_room ranks */
  size_t side_room;
  /* the batch under way */
  const int32_t *tokens, *slots, *positions; /* [n] each */
  const uint8_t *wants;        /* [n]: not 0 = a row of `out` for this token */
  int32_t n;                   /* tokens */
  int32_t n_rows, n_wanted;    /* blocks of query rows, rows of `out` */
  int32_t chunks, partials;    /* of the longest position; whether chunks are shared out among threads */
  int32_t alone;               /* each token is the only one of its slot, and its heads attend together */
  int32_t want_hidden;         /* rows of `out` are hidden states instead of logits */
  float *out;                  /* [n_wanted][vocab], or [n_wanted][hidden] */
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
int32_t activation_columns(const struct model *m);

/* cache.c */
struct kv kv_at(const struct engine *e, int32_t layer, int32_t slot, int32_t head);

/* inputs.c. What a product takes, before it is normed and quantized. */
struct gemm_input {
  float *x; /* rows [n][stride] */
  size_t stride;
  int32_t shared;   /* written by other threads than those that own its columns */
  const float *add; /* rows that are added to x first; NULL: none */
  size_t add_stride;
  const float *post; /* norm of what is added, or NULL */
};
void add_residual(struct engine *e, const struct gemm_input *from, int32_t token, float *work);
void quantize_input(struct engine *e, enum input input, int32_t inputs, const struct gemm_input *from, const float *gain,
           const float *const *own, int thread, int threads, float *work);
void product(struct engine *e, const struct matrix *w, const int32_t *rows, int32_t parts, enum input input,
             int separate, float *y, size_t stride, int thread, int threads);

/* adapter.c */
void side_down(struct engine *e, int32_t layer, enum input input, int32_t inputs, const struct gemm_input *from,
               const float *gain, int thread, int threads, float *work);
void side_up(struct engine *e, int32_t layer, enum input input, const int32_t *rows, int32_t parts, float *y, size_t stride,
             int thread, int threads);

/* attention.c */
void plan_attention(struct engine *e, int32_t threads);
void attention(struct engine *e, int32_t layer, int thread, int threads, float *work);

#endif
