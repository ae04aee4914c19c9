/* From the formats on disk to the layout of matrix.h, and one row back. Byte layouts: docs/ternary.md. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "bitnet.h"
#include "half.h"
#include "pool.h"

/* A source format: weights and bytes of a block, and where its half-precision scale is (-1: it has none). */
struct format {
  int32_t weights, bytes, scale_at;
};

static const struct format formats[] = {
    [SRC_CODES] = {1, 1, -1},      [SRC_I2_S] = {128, 32, -1}, [SRC_I2_S_ARM] = {64, 16, -1}, [SRC_TQ2_0] = {256, 66, 64},
    [SRC_TQ1_0] = {256, 54, 52},   [SRC_Q2_0] = {64, 18, 0},   [SRC_Q1_0] = {128, 18, 0},     [SRC_PACKED] = {1, 0, -1},
};

static int trit(uint8_t byte, int n) {
  static const uint8_t power[] = {1, 3, 9, 27, 81};
  return (uint8_t)(byte * power[n]) * 3 >> 8;
}

/* Code of weight `i` of a block. */
static int block_code(int32_t source, const uint8_t *b, int i) {
  switch (source) {
    case SRC_I2_S: return b[i % 32] >> (6 - 2 * (i / 32)) & 3;
    case SRC_I2_S_ARM: return b[i % 16] >> (6 - 2 * (i / 16)) & 3;
    case SRC_TQ2_0: return b[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
    case SRC_TQ1_0:
      if (i < 160) return trit(b[i % 32], i / 32);
      if (i < 240) return trit(b[32 + (i - 160) % 16], (i - 160) / 16);
      return trit(b[48 + (i - 240) % 4], (i - 240) / 4);
    case SRC_Q2_0: return b[2 + i / 4] >> (2 * (i % 4)) & 3;
    case SRC_Q1_0: return (b[2 + i / 8] >> (i % 8) & 1) * 2;
    default: return b[0];
  }
}

static void decode_row(int32_t source, const uint8_t *from, int32_t rows, int32_t cols, int32_t row, uint8_t *codes) {
  if (source == SRC_PACKED) {
    const uint8_t *p = from + (size_t)(row % (rows / 4)) * (size_t)cols;
    int shift = 2 * (row / (rows / 4));
    for (int32_t i = 0; i < cols; i++) codes[i] = p[i] >> shift & 3;
    return;
  }
  const struct format *f = &formats[source];
  size_t at = (size_t)row * (size_t)cols; /* of the flattened tensor: an I2_S row may start inside a block */
  if (source == SRC_I2_S && at % 128 == 0 && cols % 128 == 0) {
    for (const uint8_t *p = from + at / 4; cols > 0; cols -= 128, p += 32, codes += 128)
      for (int i = 0; i < 32; i++) {
        codes[i] = p[i] >> 6;
        codes[32 + i] = p[i] >> 4 & 3;
        codes[64 + i] = p[i] >> 2 & 3;
        codes[96 + i] = p[i] & 3;
      }
    return;
  }
  for (int32_t i = 0; i < cols; i++, at++)
    codes[i] = (uint8_t)block_code(source, from + at / (size_t)f->weights * (size_t)f->bytes, (int)(at % (size_t)f->weights));
}

static float block_scale(int32_t source, const uint8_t *from, size_t weight) {
  const struct format *f = &formats[source];
  uint16_t half;
  memcpy(&half, from + weight / (size_t)f->weights * (size_t)f->bytes + f->scale_at, 2);
  return half_to_float(half);
}

static void put_row(const struct matrix *to, int32_t row, const uint8_t *codes) {
  uint8_t *p = (uint8_t *)to->data + (size_t)(row / PANEL) * panel_bytes(to) + 4 * (row % PANEL);
  int32_t cols = padded(to->cols, COLUMN_ALIGN);
  for (int32_t column = 0; column < cols; column += 16, p += 4 * PANEL)
    for (int c = 0; c < 4; c++) {
      const uint8_t *from = codes + column + c;
      p[c] = (uint8_t)(from[0] | from[4] << 2 | from[8] << 4 | from[12] << 6);
    }
}

struct pack {
  int32_t source, rows, cols, row;
  const uint8_t *from;
  const struct matrix *to;
  float scale;
  atomic_llong bad;
  atomic_int failed;
};

static void put_scales(struct pack *p, int32_t row) {
  const struct matrix *to = p->to;
  int32_t at = p->row + row;
  if (to->group == 0) {
    ((float *)to->scales)[at] = p->scale;
    return;
  }
  int32_t groups = padded(to->cols, COLUMN_ALIGN) / to->group;
  uint16_t *scales = (uint16_t *)to->scales + (size_t)(at / PANEL) * (size_t)groups * PANEL + at % PANEL;
  for (int32_t g = 0; g < groups; g++) {
    size_t weight = (size_t)row * (size_t)p->cols + (size_t)g * (size_t)to->group;
    float scale = g * to->group >= p->cols ? 0 : formats[p->source].scale_at < 0 ? p->scale
                                                : block_scale(p->source, p->from, weight);
    scales[(size_t)g * PANEL] = float_to_half(scale);
  }
}

static void pack_rows(void *argument, int thread, int threads) {
  struct pack *p = argument;
  int32_t first, last, columns = padded(p->cols, COLUMN_ALIGN);
  uint8_t *codes = malloc((size_t)columns);
  if (!codes) {
    atomic_store(&p->failed, 1);
    return;
  }
  memset(codes, 1, (size_t)columns);
  share(p->rows, thread, threads, &first, &last);
  for (int32_t row = first; row < last; row++) {
    decode_row(p->source, p->from, p->rows, p->cols, row, codes);
    uint8_t any = 0;
    for (int32_t i = 0; i < p->cols; i++) any |= (uint8_t)(codes[i] & (codes[i] >> 1)) | (uint8_t)(codes[i] > 3);
    if (any) {
      int32_t i = 0;
      while (codes[i] < 3) i++;
      long long weight = (long long)row * p->cols + i + 1, seen = 0;
      while ((!seen || weight < seen) && !atomic_compare_exchange_weak(&p->bad, &seen, weight)) {}
      break;
    }
    put_row(p->to, p->row + row, codes);
    put_scales(p, row);
  }
  free(codes);
}

/* Padding rows, up to the end of the last panel: codes of zero, scale 0. */
static void put_padding(const struct matrix *to, int32_t from) {
  int32_t columns = padded(to->cols, COLUMN_ALIGN);
  if (from % PANEL == 0) return;
  uint8_t *codes = malloc((size_t)columns);
  if (!codes) return; /* never happens for a row; such rows are never read */
  memset(codes, 1, (size_t)columns);
  for (int32_t row = from; row % PANEL; row++) {
    put_row(to, row, codes);
    if (to->group == 0) ((float *)to->scales)[row] = 0;
  }
  free(codes);
}

int64_t bn_pack_ternary(int32_t source, const uint8_t *from, int32_t rows, int32_t cols, const struct matrix *to,
                        int32_t row, float scale, int32_t threads) {
  struct pack pack = {.source = source, .rows = rows, .cols = cols, .row = row, .from = from, .to = to, .scale = scale};
  struct pool *pool = pool_new(threads > 0 ? threads : 1);
  if (!pool) return -1;
  pool_run(pool, threads, pack_rows, &pack);
  pool_free(pool);
  if (atomic_load(&pack.failed)) return -1;
  put_padding(to, row + rows);
  return atomic_load(&pack.bad);
}

int32_t bn_one_scale(int32_t source, const uint8_t *from, int32_t rows, int32_t cols, float *scale) {
  const struct format *f = &formats[source];
  size_t blocks = (size_t)rows * (size_t)cols / (size_t)f->weights;
  int known = 0;
  *scale = 0;
  for (size_t b = 0; b < blocks; b++) {
    float s = block_scale(source, from, b * (size_t)f->weights);
    if (known && s == *scale) continue;
    int zero = 1;
    for (int i = 0; i < f->weights && zero; i++) zero = block_code(source, from + b * (size_t)f->bytes, i) == 1;
    if (zero) continue;
    if (known || !isfinite(s)) return 0;
    *scale = s;
    known = 1;
  }
  return 1;
}

/* Byte and half of one row and column of a packed matrix with one-byte steps of four columns. */
static uint8_t *lane(const struct matrix *m, int32_t row, size_t four) {
  return (uint8_t *)m->data + (size_t)(row / PANEL) * panel_bytes(m) + four * 4 * PANEL + 4 * (size_t)(row % PANEL);
}

static uint16_t *half_scale(const struct matrix *m, int32_t row, int32_t group) {
  size_t groups = (size_t)(padded(m->cols, COLUMN_ALIGN) / m->group);
  return (uint16_t *)m->scales + ((size_t)(row / PANEL) * groups + (size_t)group) * PANEL + row % PANEL;
}

static int8_t *sub_scale(const struct matrix *m, int32_t row, int32_t column) {
  size_t groups = (size_t)(padded(m->cols, COLUMN_ALIGN) / SUB_COLUMNS);
  return (int8_t *)m->sub + ((size_t)(row / PANEL) * groups + (size_t)(column / SUB_COLUMNS)) * PANEL + row % PANEL;
}

/* Codes of one row, one byte each, into a matrix of 4, 6 or 8 bits. */
static void put_codes(const struct matrix *m, int32_t row, const uint8_t *codes) {
  int32_t columns = padded(m->cols, COLUMN_ALIGN);
  for (int32_t i = 0; i < columns; i += 4)
    for (int c = 0; c < 4; c++) {
      size_t four = (size_t)i / 4;
      const uint8_t *from = codes + i + c;
      if (m->kind == Q8) lane(m, row, four)[c] = *from;
      else if (m->kind == Q4 && i % 8 == 0) lane(m, row, four / 2)[c] = (uint8_t)(from[0] | from[4] << 4);
      else if (m->kind == Q6 && i % 16 == 0) {
        lane(m, row, four / 4 * 3)[c] = (uint8_t)((from[0] & 15) | (from[4] & 15) << 4);
        lane(m, row, four / 4 * 3 + 1)[c] = (uint8_t)((from[8] & 15) | (from[12] & 15) << 4);
        lane(m, row, four / 4 * 3 + 2)[c] =
            (uint8_t)(from[0] >> 4 | from[4] >> 4 << 2 | from[8] >> 4 << 4 | from[12] >> 4 << 6);
      }
    }
}

/* One row of Q4_0, Q8_0 or Q6_K blocks: codes and scales. */
static void unpack_block_row(const uint8_t *from, const struct matrix *to, int32_t row, uint8_t *codes) {
  int32_t cols = to->cols;
  if (to->kind == Q6) {
    for (int32_t b = 0; b < cols / 256; b++, from += 210) { /* ql[128], qh[64], scales[16], d */
      memcpy(half_scale(to, row, b), from + 208, 2);
      for (int s = 0; s < 16; s++) *sub_scale(to, row, b * 256 + s * 16) = (int8_t)from[192 + s];
      for (int i = 0; i < 256; i++) {
        int part = i / 128, k = i % 128, l = k % 32, quarter = k / 32;
        int low = from[part * 64 + l + 32 * (quarter % 2)] >> (quarter / 2 * 4) & 15;
        codes[b * 256 + i] = (uint8_t)(low | (from[128 + part * 32 + l] >> 2 * quarter & 3) << 4);
      }
    }
    return;
  }
  for (int32_t b = 0; b < cols / 32; b++) {
    memcpy(half_scale(to, row, b), from, 2);
    for (int i = 0; i < 32; i++)
      codes[b * 32 + i] = to->kind == Q8 ? (uint8_t)(from[2 + i] + 128) : from[2 + i % 16] >> i / 16 * 4 & 15;
    from += to->kind == Q8 ? 34 : 18;
  }
}

static void pack_block_rows(void *argument, int thread, int threads) {
  struct pack *p = argument;
  const struct matrix *to = p->to;
  int32_t first, last, columns = padded(to->cols, COLUMN_ALIGN), rows = padded(p->rows, PANEL);
  size_t row_bytes = (size_t)to->cols / 256 * 210;
  if (to->kind == Q8) row_bytes = (size_t)to->cols / 32 * 34;
  if (to->kind == Q4) row_bytes = (size_t)to->cols / 32 * 18;
  uint8_t zero = to->kind == Q8 ? 128 : to->kind == Q6 ? 32 : 8, *codes = malloc((size_t)columns);
  if (!codes) {
    atomic_store(&p->failed, 1);
    return;
  }
  memset(codes, zero, (size_t)columns);
  share(rows, thread, threads, &first, &last);
  for (int32_t row = first; row < last; row++) {
    if (row < p->rows) unpack_block_row(p->from + (size_t)row * row_bytes, to, row, codes);
    else memset(codes, zero, (size_t)columns);
    put_codes(to, row, codes);
  }
  free(codes);
}

int32_t bn_pack_blocks(const uint8_t *from, int32_t rows, int32_t cols, const struct matrix *to, int32_t threads) {
  struct pack pack = {.rows = rows, .cols = cols, .from = from, .to = to};
  if (to->kind >= F16) {
    memcpy((void *)to->data, from, (size_t)rows * (size_t)cols * (to->kind == F32 ? 4 : 2));
    return 0;
  }
  struct pool *pool = pool_new(threads > 0 ? threads : 1);
  if (!pool) return -1;
  pool_run(pool, threads, pack_block_rows, &pack);
  pool_free(pool);
  return atomic_load(&pack.failed) ? -1 : 0;
}

/* The value of largest magnitude, with its sign. */
static float largest(const float *x, int32_t n) {
  float found = 0;
  for (int32_t i = 0; i < n; i++) found = fabsf(x[i]) > fabsf(found) ? x[i] : found;
  return found;
}

static float reciprocal(float x) { return x != 0 ? 1 / x : 0; }

static float clamped(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

/* Codes: round(x * back) + offset. */
static void round_to(uint8_t *codes, const float *x, int32_t n, float back, int offset, int most) {
  for (int32_t i = 0; i < n; i++) codes[i] = (uint8_t)clamped(rintf(x[i] * back) + (float)offset, 0, (float)most);
}

/* Q8, one scale a row: absmax / 127. Q4, a scale for 32 columns: the value of largest magnitude / -8, as Q4_0 has it. */
static void quantize_row(const float *x, const struct matrix *to, int32_t row, uint8_t *codes) {
  int32_t span = to->group ? to->group : to->cols;
  for (int32_t at = 0; at < to->cols; at += span) {
    float peak = largest(x + at, span), scale = to->kind == Q8 ? fabsf(peak) / 127 : peak / -8;
    round_to(codes + at, x + at, span, reciprocal(scale), to->kind == Q8 ? 128 : 8, to->kind == Q8 ? 255 : 15);
    if (to->group) *half_scale(to, row, at / span) = float_to_half(scale);
    else ((float *)to->scales)[row] = scale;
  }
}

/* Q6: 256 columns share a half, and 16 columns share an int8 factor of it. Their product is the nearest to the 16 columns'
value of largest magnitude / -32. */
static void quantize_row_6(const float *x, const struct matrix *to, int32_t row, uint8_t *codes) {
  for (int32_t at = 0; at < to->cols; at += to->group) {
    float wanted[256 / SUB_COLUMNS];
    int32_t parts = to->group / SUB_COLUMNS;
    for (int32_t i = 0; i < parts; i++) wanted[i] = largest(x + at + i * SUB_COLUMNS, SUB_COLUMNS) / -32;
    uint16_t half = float_to_half(largest(wanted, parts) / -128);
    float unit = half_to_float(half);
    *half_scale(to, row, at / to->group) = half;
    for (int32_t i = 0; i < parts; i++) {
      int32_t column = at + i * SUB_COLUMNS;
      float factor = clamped(rintf(wanted[i] * reciprocal(unit)), -128, 127);
      *sub_scale(to, row, column) = (int8_t)factor;
      round_to(codes + column, x + column, SUB_COLUMNS, reciprocal(unit * factor), 32, 63);
    }
  }
}

int32_t bn_pack_real(const float *from, int32_t rows, const struct matrix *to, int32_t first) {
  int32_t columns = padded(to->cols, COLUMN_ALIGN);
  uint8_t *codes = malloc((size_t)columns);
  if (!codes) return -1;
  memset(codes, to->kind == Q8 ? 128 : to->kind == Q6 ? 32 : 8, (size_t)columns);
  for (int32_t row = first; row < first + rows; row++, from += to->cols) {
    if (to->kind == Q6) quantize_row_6(from, to, row, codes);
    else quantize_row(from, to, row, codes);
    put_codes(to, row, codes);
  }
  free(codes);
  return 0;
}
