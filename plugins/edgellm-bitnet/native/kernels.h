/* What one instruction set implements. One file per set; each fills one `struct kernels`. */
#ifndef EDGELLM_BITNET_KERNELS_H
#define EDGELLM_BITNET_KERNELS_H

#include "matrix.h"

enum { KV_BLOCK = 16, KV_SLICE = 32, CHUNK = 512, MAX_ROWS = 4, MAX_DIM = 512 };
enum kv_type { KV_F16 = 0, KV_I8 = 1, KV_F32 = 2 };
enum gate { RELU2 = 0, SILU = 1, GELU = 2 }; /* GELU: the tanh form */

/* The cache of one layer, slot and KV head. Positions lie in blocks of 16. So 16 scores are computed together without a
horizontal sum, and values are read in one stream:
    keys    [block][dim][16]; KV_I8: [block][dim / 4][16][4], as value + 128, for products of bytes
    values  [block][dim / 32][16][32]
dim is padded to 32. With KV_I8 each position has a float scale, absmax / 127, for its key and another for its value. Values
are limited to KV_MOST when they are stored. For a row that does not see a position its weight is zero, and zero times an
infinite value would be NaN. */
#define KV_MOST 65504.0f /* the largest half */
struct kv {
  void *keys, *values;
  float *key_scales, *value_scales; /* KV_I8 */
};

/* Scores of up to four query rows against one chunk of at most CHUNK positions. */
struct chunk_job {
  const struct kv *kv;
  int32_t type, dim;     /* dim: padded head size */
  int32_t rows;          /* 1..MAX_ROWS */
  int32_t first;         /* first position of the chunk, a multiple of CHUNK */
  const int32_t *since, *limit; /* [rows] first and last position a row may see */
  const float *query;    /* [rows][dim], scaled by 1 / sqrt(head size) */
  float *max, *sum;      /* [rows]; max stays -INFINITY where a row sees nothing here */
  float *out;            /* [rows][dim] sum of p * value */
};

static inline size_t kv_bytes(int32_t type) { return type == KV_F16 ? 2 : type == KV_I8 ? 1 : sizeof(float); }

struct kernels {
  const char *name;
  int32_t max_tile; /* widest tile of activations */
  /* y[token * stride + row] = W x for the rows of panels first <= p < last, rows beyond w->rows included (padding). */
  void (*matmul)(const struct matrix *w, int32_t first, int32_t last, const struct activations *x, float *y,
                 size_t stride);
  /* y = x / rms(x) * gain; gain NULL: y = x. */
  void (*norm)(float *y, const float *x, const float *gain, int32_t n, float eps);
  void (*quantize)(const float *x, struct activations *to, int32_t token);
  /* The same in two steps, for some columns of a row.
     First, for n columns: x += add (NULL: nothing is added). squares[i * step] is the sum of x^2 over the i-th 32 columns.
     Returns the largest |x * gain| (gain NULL: |x|).
     Then, for columns first <= c < last (multiples of 32; columns beyond the last one are zero): q = round(x * gain *
     scale). Returns the sum of q. */
  float (*absmax_sumsq)(float *x, const float *add, const float *gain, int32_t n, float *squares, int32_t step);
  int32_t (*quantize_columns)(const float *x, const float *gain, float scale, struct activations *to, int32_t token,
                              int32_t first, int32_t last);
  void (*gate)(float *y, const float *gate, const float *up, int32_t n, int32_t kind);
  void (*add)(float *y, const float *x, int32_t n);
  /* Store one position of one head. */
  void (*store_kv)(const struct kv *kv, int32_t type, int32_t dim, int32_t position, const float *key,
                   const float *value);
  void (*attend)(const struct chunk_job *job);
  /* Merge the result of a chunk into that of its row; state = {max, sum}. */
  void (*merge)(float *max, float *sum, float *out, float chunk_max, float chunk_sum, const float *chunk_out,
                int32_t dim);
};

#endif
