/* Attention over one chunk of the cache for up to four query rows; see kernels.h for the layout of the cache.

With KV_I8, queries are quantized too, with a scale for each 32 components, and scores are products of bytes. In float,
scores and values together read at most 33 GB/s on Zen 5 (two multiply-adds a cycle), which is less than memory delivers.

Scores: a block of 16 positions fills 16 lanes. One load brings one key component of all 16, and four rows need four fused
multiply-adds for it. There is no horizontal sum. Values: 32 components of a position fill one cache line. A row's
arithmetic never depends on the rows beside it, because masked positions add exact zeros. */

enum { PAIR = VL == 16 ? 2 : 1, SCORE_VECTORS = PAIR * KV_BLOCK / VL, OUT_VECTORS = 2 };

INLINE vf kv_load(int type, const void *from, size_t i) {
  if (type == KV_F32) return vf_load((const float *)from + i);
  return type == KV_F16 ? vf_half((const uint16_t *)from + i) : vf_s8((const int8_t *)from + i);
}

INLINE void scores_of(const struct chunk_job *job, int type, int rows, int position, float *scores) {
  const int dim = job->dim;
  size_t base = (size_t)(job->first + position) * dim;
  vf acc[MAX_ROWS][SCORE_VECTORS];
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < SCORE_VECTORS; v++) acc[r][v] = vf_zero();
  const uint8_t *next = (const uint8_t *)job->kv->keys + (base + (size_t)PAIR * KV_BLOCK * dim) * (int)kv_bytes(type);
  for (int d = 0; d < dim; d++) {
    __builtin_prefetch(next + (size_t)d * PAIR * KV_BLOCK * (int)kv_bytes(type));
    vf key[SCORE_VECTORS];
    UNROLL for (int v = 0; v < SCORE_VECTORS; v++) {
      const int lane = v * VL % KV_BLOCK, block = v * VL / KV_BLOCK;
      key[v] = kv_load(type, job->kv->keys, base + (size_t)block * KV_BLOCK * dim + (size_t)d * KV_BLOCK + lane);
    }
    UNROLL for (int r = 0; r < rows; r++) {
      vf q = vf_set1(job->query[r * dim + d]);
      UNROLL for (int v = 0; v < SCORE_VECTORS; v++) acc[r][v] = vf_fma(q, key[v], acc[r][v]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < SCORE_VECTORS; v++) {
    vf_store(scores + r * CHUNK + position + v * VL, acc[r][v]);
  }
}

/* Query rows as bytes. `unit` is the scale of a row. Keys are stored as value + 128, so a dot product of bytes is too large
by 128 times the sum of the query. Sums start from `start`, which subtracts that. */
struct bytes_of_query {
  _Alignas(64) int8_t q[MAX_ROWS * MAX_DIM];
  float unit[MAX_ROWS][MAX_DIM / KV_SLICE];
  int32_t start[MAX_ROWS][MAX_DIM / KV_SLICE];
};

INLINE void quantize_query(const struct chunk_job *job, int rows, struct bytes_of_query *to) {
  for (int r = 0; r < rows; r++)
    for (int slice = 0; slice < job->dim / KV_SLICE; slice++) {
      const float *x = job->query + r * job->dim + slice * KV_SLICE;
      int8_t *q = to->q + r * job->dim + slice * KV_SLICE;
      float peak = peak_of(x, KV_SLICE), scale = peak > 0 ? 127 / peak : 0;
      int32_t sum = 0;
      for (int i = 0; i < KV_SLICE; i += VL) vi_put_s8(q + i, vi_from_f(vf_mul(vf_load(x + i), vf_set1(scale))));
      for (int i = 0; i < KV_SLICE; i++) sum += q[i];
      to->unit[r][slice] = peak / 127;
      to->start[r][slice] = -offset_of(Q8) * sum;
    }
}

INLINE void byte_scores_of(const struct chunk_job *job, const struct bytes_of_query *query, int rows, int position,
                           float *scores) {
  const int dim = job->dim;
  const uint8_t *keys = (const uint8_t *)job->kv->keys + (size_t)(job->first + position) * dim;
  vf result[MAX_ROWS][SCORE_VECTORS];
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < SCORE_VECTORS; v++) result[r][v] = vf_zero();
  for (int slice = 0; slice < dim / KV_SLICE; slice++) {
    vi acc[MAX_ROWS][SCORE_VECTORS];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < SCORE_VECTORS; v++)
        acc[r][v] = vi_set1(query->start[r][slice]);
    UNROLL for (int four = 0; four < KV_SLICE / 4; four++, keys += 4 * KV_BLOCK) {
      vi key[SCORE_VECTORS];
      UNROLL for (int v = 0; v < SCORE_VECTORS; v++) {
        const int lane = v * VL % KV_BLOCK, block = v * VL / KV_BLOCK;
        key[v] = vi_load(keys + (size_t)block * KV_BLOCK * dim + 4 * lane);
      }
      UNROLL for (int block = 0; block < PAIR; block++)
          __builtin_prefetch(keys + (size_t)(PAIR + block) * KV_BLOCK * dim);
      UNROLL for (int r = 0; r < rows; r++) {
        vi q = vi_bcast4(query->q + r * dim + slice * KV_SLICE + 4 * four);
        UNROLL for (int v = 0; v < SCORE_VECTORS; v++) acc[r][v] = vi_dot8(acc[r][v], key[v], q);
      }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < SCORE_VECTORS; v++)
        result[r][v] = vf_fma(vf_from_i(acc[r][v]), vf_set1(query->unit[r][slice]), result[r][v]);
  }
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < SCORE_VECTORS; v++) {
    vf scale = vf_load(job->kv->key_scales + job->first + position + v * VL);
    vf_store(scores + r * CHUNK + position + v * VL, vf_mul(result[r][v], scale));
  }
}

/* Scores of the positions first..last - 1 become weights. The others between begin and end become exact zeros. */
INLINE void softmax(float *scores, int begin, int first, int last, int end, float *max, float *sum) {
  int whole = padded(end, VL);
  for (int i = begin; i < first; i++) scores[i] = -INFINITY;
  for (int i = last; i < whole; i++) scores[i] = -INFINITY;
  vf most = vf_set1(-INFINITY), total = vf_zero();
  for (int i = begin; i < whole; i += VL) most = vf_max(most, vf_load(scores + i));
  *max = vf_peak(most);
  vf top = vf_set1(*max);
  for (int i = begin; i < whole; i += VL) vf_store(scores + i, vf_exp(vf_sub(vf_load(scores + i), top)));
  for (int i = begin; i < first; i++) scores[i] = 0;
  for (int i = last; i < whole; i++) scores[i] = 0;
  for (int i = begin; i < whole; i += VL) total = vf_add(total, vf_load(scores + i));
  *sum = vf_sum(total);
}

INLINE void values_of(const struct chunk_job *job, int type, int rows, int position, int count, const float *weights) {
  const int dim = job->dim;
  size_t base = (size_t)(job->first + position) * dim;
  for (int d = 0; d < dim; d += OUT_VECTORS * VL) {
    vf acc[MAX_ROWS][OUT_VECTORS];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < OUT_VECTORS; v++)
        acc[r][v] = vf_load(job->out + r * dim + d + v * VL);
    size_t at = base + (size_t)(d / KV_SLICE) * KV_BLOCK * KV_SLICE + d % KV_SLICE;
    const uint8_t *next = (const uint8_t *)job->kv->values + (at + (size_t)KV_BLOCK * dim) * (int)kv_bytes(type);
    for (int i = 0; i < count; i++) {
      __builtin_prefetch(next + (size_t)i * KV_SLICE * (int)kv_bytes(type));
      vf value[OUT_VECTORS];
      UNROLL for (int v = 0; v < OUT_VECTORS; v++)
          value[v] = kv_load(type, job->kv->values, at + (size_t)i * KV_SLICE + v * VL);
      UNROLL for (int r = 0; r < rows; r++) {
        vf p = vf_set1(weights[r * CHUNK + position + i]);
        UNROLL for (int v = 0; v < OUT_VECTORS; v++) acc[r][v] = vf_fma(p, value[v], acc[r][v]);
      }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < OUT_VECTORS; v++)
        vf_store(job->out + r * dim + d + v * VL, acc[r][v]);
  }
}

INLINE int clip(int position) { return position < 0 ? 0 : position > CHUNK ? CHUNK : position; }

INLINE void attend_rows(const struct chunk_job *job, int type, int rows) {
  _Alignas(64) float scores[MAX_ROWS * CHUNK];
  int begin = CHUNK, end = 0, first[MAX_ROWS], last[MAX_ROWS];
  for (int r = 0; r < rows; r++) {
    first[r] = clip(job->since[r] - job->first);
    last[r] = clip(job->limit[r] - job->first + 1);
    begin = first[r] < begin ? first[r] : begin;
    end = last[r] > end ? last[r] : end;
  }
  begin = begin / (PAIR * KV_BLOCK) * PAIR * KV_BLOCK;
  if (type == KV_I8) {
    struct bytes_of_query query;
    quantize_query(job, rows, &query);
    for (int position = begin; position < end; position += PAIR * KV_BLOCK)
      byte_scores_of(job, &query, rows, position, scores);
  } else {
    for (int position = begin; position < end; position += PAIR * KV_BLOCK) scores_of(job, type, rows, position, scores);
  }
  for (int r = 0; r < rows; r++) {
    if (first[r] >= last[r]) first[r] = last[r] = begin;
    softmax(scores + r * CHUNK, begin, first[r], last[r], end, job->max + r, job->sum + r);
    if (type == KV_I8)
      for (int i = begin; i < end; i++) scores[r * CHUNK + i] *= job->kv->value_scales[job->first + i];
  }
  for (int i = 0; i < rows * job->dim; i++) job->out[i] = 0;
  for (int position = begin; position < end; position += KV_BLOCK)
    values_of(job, type, rows, position, end - position < KV_BLOCK ? end - position : KV_BLOCK, scores);
}

#define ROWS_CASE(ROWS)                                            \
  case ROWS:                                                       \
    if (job->type == KV_F16) attend_rows(job, KV_F16, ROWS);       \
    else if (job->type == KV_I8) attend_rows(job, KV_I8, ROWS);    \
    else attend_rows(job, KV_F32, ROWS);                           \
    break;
static void attend(const struct chunk_job *job) {
  switch (job->rows) { ROWS_CASE(1) ROWS_CASE(2) ROWS_CASE(3) ROWS_CASE(4) }
}

static void merge(float *max, float *sum, float *out, float chunk_max, float chunk_sum, const float *chunk_out,
                  int32_t dim) {
  if (chunk_max == -INFINITY) return;
  float top = *max > chunk_max ? *max : chunk_max, old = expf(*max - top), new = expf(chunk_max - top);
  vf a = vf_set1(old), b = vf_set1(new);
  for (int i = 0; i < dim; i += VL)
    vf_store(out + i, vf_fma(vf_load(out + i), a, vf_mul(vf_load(chunk_out + i), b)));
  *sum = *sum * old + chunk_sum * new;
  *max = top;
}

/* NaN becomes one of the bounds. */
INLINE vf within(vf x) {
  vf low = vf_set1(-KV_MOST), up = vf_sub(vf_zero(), vf_max(x, low));
  return vf_sub(vf_zero(), vf_max(up, low));
}

/* round(x / scale) of one head; returns the scale. */
INLINE float bytes_of_head(int8_t *to, const float *x, int dim) {
  float scale = peak_of(x, dim) / 127, back = scale > 0 ? 1 / scale : 0;
  for (int d = 0; d < dim; d += VL) vi_put_s8(to + d, vi_from_f(vf_mul(vf_load(x + d), vf_set1(back))));
  return scale;
}

INLINE void store_bytes(const struct kv *kv, int dim, int position, const float *key, const float *value) {
  size_t block = (size_t)(position / KV_BLOCK) * KV_BLOCK * dim;
  int lane = position % KV_BLOCK;
  int8_t bytes[MAX_DIM];
  uint8_t *keys = (uint8_t *)kv->keys + block + 4 * lane, *values = (uint8_t *)kv->values + block + lane * KV_SLICE;
  kv->key_scales[position] = bytes_of_head(bytes, key, dim);
  for (int d = 0; d < dim; d++) keys[d / 4 * 4 * KV_BLOCK + d % 4] = (uint8_t)(bytes[d] + 128);
  kv->value_scales[position] = bytes_of_head(bytes, value, dim);
  for (int d = 0; d < dim; d += KV_SLICE) __builtin_memcpy(values + (size_t)d * KV_BLOCK, bytes + d, KV_SLICE);
}

static void store_kv(const struct kv *kv, int32_t type, int32_t dim, int32_t position, const float *key,
                     const float *value) {
  size_t block = (size_t)(position / KV_BLOCK) * KV_BLOCK * dim, lane = position % KV_BLOCK;
  float k[MAX_DIM], v[MAX_DIM];
  uint16_t halves[MAX_DIM];
  for (int d = 0; d < dim; d += VL) {
    vf_store(k + d, within(vf_load(key + d)));
    vf_store(v + d, within(vf_load(value + d)));
  }
  if (type == KV_I8) {
    store_bytes(kv, dim, position, k, v);
  } else if (type == KV_F32) {
    float *keys = (float *)kv->keys + block + lane, *values = (float *)kv->values + block + lane * KV_SLICE;
    for (int d = 0; d < dim; d++) keys[(size_t)d * KV_BLOCK] = k[d];
    for (int d = 0; d < dim; d++) values[(size_t)(d / KV_SLICE) * KV_BLOCK * KV_SLICE + d % KV_SLICE] = v[d];
  } else {
    uint16_t *keys = (uint16_t *)kv->keys + block + lane, *values = (uint16_t *)kv->values + block + lane * KV_SLICE;
    for (int d = 0; d < dim; d += VL) {
      vf_put_half(halves + d, vf_load(k + d));
      vf_put_half(values + (size_t)(d / KV_SLICE) * KV_BLOCK * KV_SLICE + d % KV_SLICE, vf_load(v + d));
    }
    for (int d = 0; d < dim; d++) keys[(size_t)d * KV_BLOCK] = halves[d];
  }
}
