/* Plain C: the reference that every other file is tested against, and the kernels of any other processor. It is compiled
without vectorization, so that it stays scalar. It is written against matrix.h and kernels.h only and shares no line with
the vector kernels. */
#include <math.h>
#include <string.h>

#include "half.h"
#include "kernels.h"

enum { TILE = 8 };

static int code_of(const struct matrix *w, const uint8_t *panel, int row, int column) {
  int four = column / 4, c = column % 4;
#define LANE(line) panel[(size_t)(line)*4 * PANEL + 4 * row + c]
  switch (w->kind) {
    case TERNARY: return (LANE(four / 4) >> 2 * (four % 4) & 3) - 1;
    case Q4: return (LANE(four / 2) >> 4 * (four % 2) & 15) - 8;
    case Q8: return LANE(four) - 128;
    default: {
      int low = LANE(four / 4 * 3 + four % 4 / 2) >> 4 * (four % 2) & 15;
      return (low | (LANE(four / 4 * 3 + 2) >> 2 * (four % 4) & 3) << 4) - 32;
    }
  }
#undef LANE
}

static float scale_of(const struct matrix *w, int panel, int row, int column) {
  if (w->group == 0) return ((const float *)w->scales)[panel * PANEL + row];
  size_t columns = (size_t)padded(w->cols, COLUMN_ALIGN);
  size_t group = (size_t)panel * (columns / (size_t)w->group) + (size_t)(column / w->group);
  float scale = half_to_float(((const uint16_t *)w->scales)[group * PANEL + (size_t)row]);
  if (w->kind == Q6)
    scale *= (float)w->sub[((size_t)panel * (columns / SUB_COLUMNS) + (size_t)(column / SUB_COLUMNS)) * PANEL + (size_t)row];
  return scale;
}

/* Integer sums over each span of columns that shares its scales; see tile_panel in kernels.inc.h for the order. */
static float quantized_dot(const struct matrix *w, int panel, int row, const struct activations *x, int token) {
  const uint8_t *data = w->data + (size_t)panel * panel_bytes(w);
  int columns = padded(w->cols, COLUMN_ALIGN);
  int span = w->kind == Q6 ? SUB_COLUMNS : w->group ? w->group : x->block ? x->block : columns;
  float result = 0;
  for (int from = 0; from < columns; from += span) {
    int32_t sum = 0;
    for (int column = from; column < from + span; column++)
      sum += code_of(w, data, row, column) * *activation_at(x, token, column);
    int at = x->block ? from / COLUMN_ALIGN : 0;
    float inverse = x->inverse[(size_t)token * (size_t)(columns / COLUMN_ALIGN) + (size_t)at];
    result = fmaf((float)sum, scale_of(w, panel, row, from) * inverse, result);
  }
  return result;
}

static float real_at(const struct matrix *w, size_t at) {
  if (w->kind == F32) return ((const float *)w->data)[at];
  uint16_t bits = ((const uint16_t *)w->data)[at];
  return w->kind == F16 ? half_to_float(bits) : bf16_to_float(bits);
}

static float real_dot(const struct matrix *w, int row, const float *x) {
  float sum = 0;
  for (int i = 0; i < w->cols; i++) sum += real_at(w, (size_t)row * (size_t)w->cols + (size_t)i) * x[i];
  return sum;
}

static void matmul(const struct matrix *w, int32_t first, int32_t last, const struct activations *x, float *y,
                   size_t stride) {
  for (int panel = first; panel < last; panel++)
    for (int token = 0; token < x->tokens; token++)
      for (int row = 0; row < PANEL; row++) {
        float *to = y + (size_t)token * stride + (size_t)(panel * PANEL + row);
        if (w->kind <= Q8) *to = quantized_dot(w, panel, row, x, token);
        else if (panel * PANEL + row < w->rows)
          *to = real_dot(w, panel * PANEL + row, x->real + (size_t)token * (size_t)w->cols);
      }
}

static void norm(float *y, const float *x, const float *gain, int32_t n, float eps) {
  float squares = 0;
  for (int i = 0; i < n; i++) squares += x[i] * x[i];
  float scale = 1.0f / sqrtf(squares / (float)n + eps);
  for (int i = 0; i < n; i++) y[i] = gain ? x[i] * scale * gain[i] : x[i] * scale;
}

static void quantize(const float *x, struct activations *to, int32_t token) {
  int n = to->cols, columns = padded(n, COLUMN_ALIGN), span = to->block ? to->block : columns;
  int32_t *sums = to->sums + (size_t)token * (size_t)(columns / SUB_COLUMNS);
  memset(sums, 0, (size_t)(columns / SUB_COLUMNS) * sizeof *sums);
  to->total[token] = 0;
  for (int from = 0; from < columns; from += span) {
    float peak = 0;
    for (int i = from; i < from + span && i < n; i++) peak = fabsf(x[i]) > peak ? fabsf(x[i]) : peak;
    if (!to->block && peak < 1e-5f) peak = 1e-5f;
    float scale = peak > 0 ? (float)(127.0 / (double)peak) : 0;
    for (int i = from; i < from + span && i < columns; i++) {
      int32_t q = i < n ? (int32_t)rintf(x[i] * scale) : 0;
      q = q < -128 ? -128 : q > 127 ? 127 : q;
      *activation_at(to, token, i) = (int8_t)q;
      sums[i / SUB_COLUMNS] += q;
      to->total[token] += q;
      to->inverse[(size_t)token * (size_t)(columns / COLUMN_ALIGN) + (size_t)(i / COLUMN_ALIGN)] = scale > 0 ? 1 / scale : 0;
    }
  }
}

static float absmax_sumsq(float *x, const float *add, const float *gain, int32_t n, float *squares, int32_t step) {
  float peak = 0;
  for (int i = 0; i < n; i++) {
    if (i % PANEL == 0) squares[i / PANEL * step] = 0;
    if (add) x[i] += add[i];
    squares[i / PANEL * step] += x[i] * x[i];
    float size = fabsf(gain ? x[i] * gain[i] : x[i]);
    peak = size > peak ? size : peak;
  }
  return peak;
}

static int32_t quantize_columns(const float *x, const float *gain, float scale, struct activations *to, int32_t token,
                                int32_t first, int32_t last) {
  int32_t *sums = to->sums + (size_t)token * (size_t)(padded(to->cols, COLUMN_ALIGN) / SUB_COLUMNS), total = 0;
  for (int i = first; i < last; i++) {
    int32_t q = i < to->cols ? (int32_t)rintf((gain ? x[i] * gain[i] : x[i]) * scale) : 0;
    q = q < -128 ? -128 : q > 127 ? 127 : q;
    *activation_at(to, token, i) = (int8_t)q;
    if (i % SUB_COLUMNS == 0) sums[i / SUB_COLUMNS] = 0;
    sums[i / SUB_COLUMNS] += q;
    total += q;
  }
  return total;
}

static void gate(float *y, const float *g, const float *up, int32_t n, int32_t kind) {
  for (int i = 0; i < n; i++) {
    float x = g[i], z = kind == GELU ? 1.59576912f * x * (1 + 0.044715f * x * x) : x;
    if (kind == RELU2) y[i] = x > 0 ? x * x * up[i] : 0;
    else y[i] = x / (1 + expf(-z)) * up[i];
  }
}

static void add(float *y, const float *x, int32_t n) {
  for (int i = 0; i < n; i++) y[i] += x[i];
}

/* Where component d of a position lies in a cache. */
static size_t key_at(int32_t type, int32_t dim, int position, int d) {
  size_t block = (size_t)(position / KV_BLOCK) * KV_BLOCK * (size_t)dim, lane = (size_t)(position % KV_BLOCK);
  if (type == KV_I8) return block + (size_t)(d / 4) * 4 * KV_BLOCK + 4 * lane + (size_t)(d % 4);
  return block + (size_t)d * KV_BLOCK + lane;
}

static size_t value_at(int32_t dim, int position, int d) {
  return ((size_t)(position / KV_BLOCK) * (size_t)(dim / KV_SLICE) + (size_t)(d / KV_SLICE)) * KV_BLOCK * KV_SLICE +
         (size_t)(position % KV_BLOCK) * KV_SLICE + (size_t)(d % KV_SLICE);
}

static float within(float x) { return x > KV_MOST ? KV_MOST : x > -KV_MOST ? x : -KV_MOST; }

static void put(void *to, int32_t type, size_t at, float x, float scale, int offset) {
  if (type == KV_F16) ((uint16_t *)to)[at] = float_to_half(x);
  else if (type == KV_F32) ((float *)to)[at] = x;
  else ((uint8_t *)to)[at] = (uint8_t)((int)(scale > 0 ? rintf(x * (1 / scale)) : 0) + offset);
}

static float scale_of_head(const float *x, int32_t dim) {
  float peak = 0;
  for (int d = 0; d < dim; d++) peak = fabsf(within(x[d])) > peak ? fabsf(within(x[d])) : peak;
  return peak / 127;
}

static void store_kv(const struct kv *kv, int32_t type, int32_t dim, int32_t position, const float *key,
                     const float *value) {
  float key_scale = scale_of_head(key, dim), value_scale = scale_of_head(value, dim);
  for (int d = 0; d < dim; d++) {
    put(kv->keys, type, key_at(type, dim, position, d), within(key[d]), key_scale, 128);
    put(kv->values, type, value_at(dim, position, d), within(value[d]), value_scale, 0);
  }
  if (type != KV_I8) return;
  kv->key_scales[position] = key_scale;
  kv->value_scales[position] = value_scale;
}

static float get(const void *from, int32_t type, size_t at) {
  if (type == KV_F32) return ((const float *)from)[at];
  return type == KV_F16 ? half_to_float(((const uint16_t *)from)[at]) : (float)((const int8_t *)from)[at];
}

static float score_of(const struct chunk_job *job, const float *query, int position) {
  float score = 0;
  if (job->type != KV_I8) {
    for (int d = 0; d < job->dim; d++)
      score += query[d] * get(job->kv->keys, job->type, key_at(job->type, job->dim, position, d));
    return score;
  }
  for (int slice = 0; slice < job->dim; slice += KV_SLICE) { /* the query in 8 bits, a scale for 32 components */
    float peak = 0;
    int32_t sum = 0;
    for (int d = slice; d < slice + KV_SLICE; d++) peak = fabsf(query[d]) > peak ? fabsf(query[d]) : peak;
    for (int d = slice; d < slice + KV_SLICE; d++) {
      int32_t q = (int32_t)rintf(query[d] * (peak > 0 ? 127 / peak : 0));
      sum += q * (((const uint8_t *)job->kv->keys)[key_at(job->type, job->dim, position, d)] - 128);
    }
    score += (float)sum * (peak / 127);
  }
  return score * job->kv->key_scales[position];
}

static void attend(const struct chunk_job *job) {
  for (int r = 0; r < job->rows; r++) {
    float scores[CHUNK], *out = job->out + r * job->dim;
    int first = job->since[r] > job->first ? job->since[r] - job->first : 0;
    int last = job->limit[r] - job->first + 1 < CHUNK ? job->limit[r] - job->first + 1 : CHUNK;
    job->max[r] = -INFINITY;
    job->sum[r] = 0;
    memset(out, 0, (size_t)job->dim * sizeof *out);
    for (int i = first; i < last; i++) {
      scores[i] = score_of(job, job->query + r * job->dim, job->first + i);
      job->max[r] = scores[i] > job->max[r] ? scores[i] : job->max[r];
    }
    for (int i = first; i < last; i++) {
      float p = expf(scores[i] - job->max[r]);
      job->sum[r] += p;
      if (job->type == KV_I8) p *= job->kv->value_scales[job->first + i];
      for (int d = 0; d < job->dim; d++)
        out[d] += p * get(job->kv->values, job->type, value_at(job->dim, job->first + i, d));
    }
  }
}

static void merge(float *max, float *sum, float *out, float chunk_max, float chunk_sum, const float *chunk_out,
                  int32_t dim) {
  if (chunk_max == -INFINITY) return;
  float top = *max > chunk_max ? *max : chunk_max, old = expf(*max - top), new = expf(chunk_max - top);
  for (int d = 0; d < dim; d++) out[d] = out[d] * old + chunk_out[d] * new;
  *sum = *sum * old + chunk_sum * new;
  *max = top;
}

const struct kernels scalar_kernels = {.name = "scalar", .max_tile = TILE, .matmul = matmul, .norm = norm,
                                       .quantize = quantize, .absmax_sumsq = absmax_sumsq,
                                       .quantize_columns = quantize_columns,
                                       .gate = gate, .add = add, .store_kv = store_kv, .attend = attend,
                                       .merge = merge};
