/* The algebra of every vector kernel, written once. The file of an instruction set defines the primitives below, then
includes this one. Everything is static, so code of one set cannot be linked into another.

    VB                     bytes of a vector; VL = VB / 4 lanes
    TILE                   widest tile of activations; TILE_VECTORS: row vectors of a tile, so that
                           TILE * TILE_VECTORS accumulators and their operands fit the registers
    LANES_BY_STEP          1: `vi_dot4` takes the four products of a step at once (where one costs more than an add)
    vi, vf                 integer and float vectors
    vi_load vi_zero vi_set1 vi_bcast4 vi_add vi_sub vi_mul vi_and vi_or vi_shr vi_shl     as their names say; 32-bit lanes
    vi_dot(acc, u, s)      acc + sum of four u8 * s8 in each lane, u <= 127, exact
    vi_dot8(acc, u, s)     the same of (u - DOT8_BIAS) * s8 for any u8
    vi_dot4(acc, c, a)     four vi_dot, c[0..3] with a[0..3]; u <= 2
    FOURS_BY_LANE          defined: activations are not broadcast; vi_fours(q, i, n) loads those around number i of n,
                           and vi_dot_lane, vi_dot8_lane(acc, u, a, lane) take theirs from one of the four lanes
    OWN_TERNARY_TILE       defined: the file has its own ternary_tile, after this
    line, line_dot, line_sum    the product of a line of 2-bit codes with four groups of activations, and its exact sum
    vf_load vf_store vf_set1 vf_zero vf_add vf_sub vf_mul vf_max vf_fma(a, b, c) = a * b + c, vf_div
    vf_from_i, vi_from_f (round half even), vf_pow2(n) = 2^n
    vf_half, vf_s8, vf_bf16     VL values from memory; vf_put_half to memory; vi_put_s8: VL clamped lanes to bytes
    vf_sum, vf_peak        horizontal sum and maximum, in a fixed order

Bottlenecks. A decode step reads every weight once. So the loops must consume a 64-byte line in less time than memory takes
to deliver it: 64 B * 4 GHz / 40 GB/s = 6.4 cycles. A tile of T tokens does T products for each weight that is unpacked. So
from about four tokens on the multipliers are the bottleneck: T * TILE_VECTORS dot products, with T broadcasts and
TILE_VECTORS * 2 operations of unpacking. */
#include <math.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define NO_UNROLL _Pragma("GCC unroll 1")
#define STEP_VECTORS (4 * PANEL / VB)
#define VL (VB / 4)

/* Row vectors of a Q6 tile: as many as have their sums in registers. */
#define Q6_VECTORS (VB == 64 ? TILE_VECTORS : 1)

enum { STEP_BYTES = 4 * PANEL, HEAD_AHEAD = 8192 };

/* For each kind: groups of four columns in a step, bytes of a step, and the offset between a value and its code. */
INLINE int fours_of(int kind) { return kind == TERNARY || kind == Q6 ? 4 : kind == Q4 ? 2 : 1; }
INLINE int bytes_of(int kind) { return kind == Q6 ? 3 * STEP_BYTES : STEP_BYTES; }
INLINE int offset_of(int kind) { return kind == TERNARY ? 1 : kind == Q4 ? 8 : 128 - DOT8_BIAS; }

/* Prefetch what the stream needs 4 KiB later. Measured on Zen 5 with weights from memory: one token 33 -> 38 GB/s for one
thread, eight tokens 366 -> 497 GMAC/s. */
INLINE void ahead(const uint8_t *p, int bytes) {
  UNROLL for (int i = 0; i < bytes; i += 64) __builtin_prefetch(p + 4096 + i);
}

/* The same for 6 and 8 bits, which need three and four times as many bytes, but into the second-level cache. A line on its
way to the first-level cache would occupy one of its few miss buffers for as long as memory takes. Measured on Zen 4 with
eight tokens and one thread: 6 bits 102 and 118 -> 130 and 145 GMAC/s, 8 bits 115 and 118 -> 123 and 148. */
INLINE void far_ahead(const uint8_t *p, int bytes) {
  UNROLL for (int i = 0; i < bytes; i += 64) __builtin_prefetch(p + HEAD_AHEAD + i, 0, 2);
}

/* Codes of four `j` of a step at p, for the row vector at byte `at` of a line. */
INLINE vi unpack(int kind, const uint8_t *p, int at, int j) {
  if (kind == Q8) return vi_load(p + at);
  if (kind == Q4) return vi_and(vi_shr(vi_load(p + at), 4 * j), vi_set1(0x0f0f0f0f));
  if (kind == TERNARY) return vi_and(vi_shr(vi_load(p + at), 2 * j), vi_set1(0x03030303));
  vi low = vi_and(vi_shr(vi_load(p + j / 2 * STEP_BYTES + at), 4 * (j % 2)), vi_set1(0x0f0f0f0f));
  vi two = vi_load(p + 2 * STEP_BYTES + at);
  vi high = j < 2 ? vi_shl(two, 4 - 2 * j) : vi_shr(two, 2 * j - 4);
  return vi_or(low, vi_and(high, vi_set1(0x30303030)));
}

/* Activations number i of n groups of four at q, and their product with a vector of codes. */
#ifdef FOURS_BY_LANE
INLINE vi fours_at(const int8_t *q, int i, int n) { return vi_fours(q, i, n); }
INLINE vi dot_of(int kind, vi acc, vi codes, vi a, int i) {
  return kind == Q8 ? vi_dot8_lane(acc, codes, a, i % 4) : vi_dot_lane(acc, codes, a, i % 4);
}
#else
INLINE vi fours_at(const int8_t *q, int i, int n) { return (void)n, vi_bcast4(q + 4 * i); }
INLINE vi dot_of(int kind, vi acc, vi codes, vi a, int i) {
  return (void)i, kind == Q8 ? vi_dot8(acc, codes, a) : vi_dot(acc, codes, a);
}
#endif

/* Integer sums of `steps` steps, for `vectors` row vectors from byte `at` of each line and for `width` tokens. Where there
are too few independent sums to hide the latency of a product, each is split into `sets` sums. */
INLINE void tile_sums(int kind, const uint8_t *p, int at, const int8_t *q, int width, int vectors, int steps,
                      vi out[TILE_VECTORS][TILE]) {
  const int fours = fours_of(kind);
  const int sets = vectors * width * 4 <= 12 && fours == 4 ? 4 : vectors * width * 2 <= 12 && fours > 1 ? 2 : 1;
  vi acc[4][TILE_VECTORS][TILE];
  UNROLL for (int s = 0; s < sets; s++) UNROLL for (int v = 0; v < vectors; v++) UNROLL for (int t = 0; t < width; t++)
      acc[s][v][t] = vi_zero();
  for (int step = 0; step < steps; step++) {
    if (kind == Q8) far_ahead(p, bytes_of(kind));
    else ahead(p, bytes_of(kind));
    UNROLL for (int j = 0; j < fours; j++) {
      vi codes[TILE_VECTORS];
      UNROLL for (int v = 0; v < vectors; v++) codes[v] = unpack(kind, p, at + v * VB, j);
      UNROLL for (int t = 0; t < width; t++) {
        vi a = fours_at(q + 4 * j * width, t, width);
        UNROLL for (int v = 0; v < vectors; v++)
            acc[j % sets][v][t] = dot_of(kind, acc[j % sets][v][t], codes[v], a, t);
      }
    }
    p += bytes_of(kind);
    q += 4 * fours * width;
  }
  UNROLL for (int v = 0; v < vectors; v++) UNROLL for (int t = 0; t < width; t++) {
    vi sum = acc[0][v][t];
    UNROLL for (int s = 1; s < sets; s++) sum = vi_add(sum, acc[s][v][t]);
    out[v][t] = sum;
  }
}

#if LANES_BY_STEP
/* Row vectors of ternary codes against `width` tokens, four products at a time. */
INLINE void ternary_sums(const uint8_t *p, int at, const int8_t *q, int width, int steps, vi out[TILE_VECTORS][TILE]) {
  vi acc[TILE_VECTORS][TILE];
  UNROLL for (int v = 0; v < TILE_VECTORS; v++) UNROLL for (int t = 0; t < width; t++) acc[v][t] = vi_zero();
  for (int step = 0; step < steps; step++) {
    vi codes[TILE_VECTORS][4];
    UNROLL for (int v = 0; v < TILE_VECTORS; v++) UNROLL for (int j = 0; j < 4; j++)
        codes[v][j] = unpack(TERNARY, p, at + v * VB, j);
    UNROLL for (int t = 0; t < width; t++) {
      vi a[4];
      UNROLL for (int j = 0; j < 4; j++) a[j] = vi_bcast4(q + (j * width + t) * 4);
      UNROLL for (int v = 0; v < TILE_VECTORS; v++) acc[v][t] = vi_dot4(acc[v][t], codes[v], a);
    }
    p += STEP_BYTES;
    q += 16 * width;
  }
  UNROLL for (int v = 0; v < TILE_VECTORS; v++) UNROLL for (int t = 0; t < width; t++) out[v][t] = acc[v][t];
}
#endif

/* A whole panel of ternary codes against one token. The codes are masked and not shifted. */
INLINE void line_sums(const uint8_t *p, const int8_t *q, int steps, vi out[STEP_VECTORS]) {
  line acc[STEP_VECTORS];
  UNROLL for (int v = 0; v < STEP_VECTORS; v++) acc[v] = line_zero();
  for (int step = 0; step < steps; step++) {
    ahead(p, STEP_BYTES);
    vi a0 = fours_at(q, 0, 4), a1 = fours_at(q, 1, 4), a2 = fours_at(q, 2, 4), a3 = fours_at(q, 3, 4);
    UNROLL for (int v = 0; v < STEP_VECTORS; v++) acc[v] = line_dot(acc[v], vi_load(p + v * VB), a0, a1, a2, a3);
    p += STEP_BYTES;
    q += 16;
  }
  UNROLL for (int v = 0; v < STEP_VECTORS; v++) out[v] = line_sum(acc[v]);
}

/* Where the scale of a panel's row vector lies, and the sum of a span of activations. */
INLINE vf row_scale(const struct matrix *w, int panel, int row, int column) {
  if (w->group == 0) return vf_load((const float *)w->scales + panel * PANEL + row);
  size_t groups = (size_t)padded(w->cols, COLUMN_ALIGN) / w->group;
  return vf_half((const uint16_t *)w->scales + ((size_t)panel * groups + column / w->group) * PANEL + row);
}

INLINE int32_t span_sum(const struct activations *x, int token, int column, int span) {
  int cols = padded(x->cols, COLUMN_ALIGN);
  if (span == cols) return x->total[token];
  const int32_t *sums = x->sums + (size_t)token * (cols / SUB_COLUMNS) + column / SUB_COLUMNS;
  int32_t sum = 0;
  for (int i = 0; i < span / SUB_COLUMNS; i++) sum += sums[i];
  return sum;
}

INLINE float activation_inverse(const struct activations *x, int token, int column) {
  int at = x->block ? column / COLUMN_ALIGN : 0;
  return x->inverse[(size_t)token * (padded(x->cols, COLUMN_ALIGN) / COLUMN_ALIGN) + at];
}

/* Rows of one panel, `width` tokens from `token`: integer sums over each span of columns that share their scales, then
    y += (sum - offset * sum of activations) * (row scale / activation scale). */
INLINE void tile_panel(int kind, const struct matrix *w, int panel, const struct activations *x, int token, int width,
                       float *y, size_t stride) {
  const int cols = padded(w->cols, COLUMN_ALIGN), fours = fours_of(kind);
  const int vectors = TILE_VECTORS;
  const int span = w->group ? w->group : x->block ? x->block : cols;
  const uint8_t *data = w->data + (size_t)panel * panel_bytes(w);
  const int8_t *q = x->q + (size_t)token * cols;
  for (int row = 0; row < PANEL; row += vectors * VL) {
    vf result[TILE_VECTORS][TILE];
    for (int v = 0; v < vectors; v++) NO_UNROLL for (int t = 0; t < width; t++) result[v][t] = vf_zero();
    for (int column = 0; column < cols; column += span) {
      vi sums[TILE_VECTORS][TILE];
      const uint8_t *p = data + (size_t)column / (4 * fours) * bytes_of(kind);
#if LANES_BY_STEP
      if (kind == TERNARY)
        ternary_sums(p, row * 4, q + (size_t)column * width, width, span / 16, sums);
      else
#endif
        tile_sums(kind, p, row * 4, q + (size_t)column * width, width, vectors, span / (4 * fours), sums);
      vf scales[TILE_VECTORS];
      for (int v = 0; v < vectors; v++) scales[v] = row_scale(w, panel, row + v * VL, column);
      NO_UNROLL for (int t = 0; t < width; t++) {
        vi minus = vi_set1(offset_of(kind) * span_sum(x, token + t, column, span));
        vf inverse = vf_set1(activation_inverse(x, token + t, column));
        UNROLL for (int v = 0; v < vectors; v++)
            result[v][t] = vf_fma(vf_from_i(vi_sub(sums[v][t], minus)), vf_mul(scales[v], inverse), result[v][t]);
      }
    }
    for (int v = 0; v < vectors; v++) NO_UNROLL for (int t = 0; t < width; t++)
        vf_store(y + (token + t) * stride + (size_t)panel * PANEL + row + v * VL, result[v][t]);
  }
}

static void line_panel(const struct matrix *w, int panel, const struct activations *x, float *y) {
  const int cols = padded(w->cols, COLUMN_ALIGN), span = w->group ? w->group : x->block ? x->block : cols;
  const uint8_t *data = w->data + (size_t)panel * panel_bytes(w);
  vf result[STEP_VECTORS];
  UNROLL for (int v = 0; v < STEP_VECTORS; v++) result[v] = vf_zero();
  for (int column = 0; column < cols; column += span) {
    vi sums[STEP_VECTORS];
    line_sums(data + (size_t)column * (PANEL / 4), x->q + column, span / 16, sums);
    vi minus = vi_set1(span_sum(x, 0, column, span));
    vf inverse = vf_set1(activation_inverse(x, 0, column));
    UNROLL for (int v = 0; v < STEP_VECTORS; v++)
        result[v] = vf_fma(vf_from_i(vi_sub(sums[v], minus)), vf_mul(row_scale(w, panel, v * VL, column), inverse),
                           result[v]);
  }
  UNROLL for (int v = 0; v < STEP_VECTORS; v++) vf_store(y + (size_t)panel * PANEL + v * VL, result[v]);
}

/* Q6. There is a factor for each 16 columns, so sums must be scaled after every four products, and scaling must be short.
Therefore the sums start from -32 * sum of activations, and the scale of 256 columns is applied once for all of them. With
several tokens the sums fill the registers, and the scaled results stay in the first-level cache. */
INLINE void q6_panel(const struct matrix *w, int panel, const struct activations *x, int token, int width, float *y,
                     size_t stride) {
  const int cols = padded(w->cols, COLUMN_ALIGN), blocks = cols / SUB_COLUMNS;
  const int vectors = width == 1 ? STEP_VECTORS : Q6_VECTORS;
  const int8_t *sub = w->sub + (size_t)panel * blocks * PANEL;
  for (int row = 0; row < PANEL; row += vectors * VL) {
    const uint8_t *p = w->data + (size_t)panel * panel_bytes(w);
    const int8_t *q = x->q + (size_t)token * cols;
    vf result[STEP_VECTORS][TILE];
    for (int v = 0; v < vectors; v++) NO_UNROLL for (int t = 0; t < width; t++) result[v][t] = vf_zero();
    for (int block = 0; block < blocks; block += 16) {
      vf part[STEP_VECTORS][TILE];
      UNROLL for (int v = 0; v < vectors; v++) UNROLL for (int t = 0; t < width; t++) part[v][t] = vf_zero();
      for (int b = block; b < block + 16 && b < blocks; b++) {
        if (row == 0) {
          far_ahead(p, bytes_of(Q6));
          __builtin_prefetch(sub + (size_t)b * PANEL + HEAD_AHEAD / 12, 0, 2);
        }
        vi sums[STEP_VECTORS][TILE];
        UNROLL for (int t = 0; t < width; t++) {
          vi minus = vi_bcast4(x->minus + (size_t)(token + t) * blocks + b);
          UNROLL for (int v = 0; v < vectors; v++) sums[v][t] = minus;
        }
        UNROLL for (int j = 0; j < 4; j++) {
          vi codes[STEP_VECTORS];
          UNROLL for (int v = 0; v < vectors; v++) codes[v] = unpack(Q6, p, row * 4 + v * VB, j);
          UNROLL for (int t = 0; t < width; t++) {
            vi a = fours_at(q + 4 * j * width, t, width);
            UNROLL for (int v = 0; v < vectors; v++) sums[v][t] = dot_of(Q6, sums[v][t], codes[v], a, t);
          }
        }
        UNROLL for (int v = 0; v < vectors; v++) {
          vf factor = vf_s8(sub + (size_t)b * PANEL + row + v * VL);
          UNROLL for (int t = 0; t < width; t++) part[v][t] = vf_fma(vf_from_i(sums[v][t]), factor, part[v][t]);
        }
        p += bytes_of(Q6);
        q += 16 * width;
      }
      for (int v = 0; v < vectors; v++) {
        vf scale = row_scale(w, panel, row + v * VL, block * SUB_COLUMNS);
        NO_UNROLL for (int t = 0; t < width; t++) {
          vf factor = vf_mul(scale, vf_set1(activation_inverse(x, token + t, block * SUB_COLUMNS)));
          result[v][t] = vf_fma(part[v][t], factor, result[v][t]);
        }
      }
    }
    for (int v = 0; v < vectors; v++) NO_UNROLL for (int t = 0; t < width; t++)
        vf_store(y + (token + t) * stride + (size_t)panel * PANEL + row + v * VL, result[v][t]);
  }
}

#define TILE_CASE(KIND, WIDTH)                                                      \
  case WIDTH:                                                                       \
    if (WIDTH > TILE) break;                                                        \
    if (KIND == Q6) q6_panel(w, panel, x, token, WIDTH <= TILE ? WIDTH : 1, y, stride); \
    else tile_panel(KIND, w, panel, x, token, WIDTH <= TILE ? WIDTH : 1, y, stride); \
    break;
#define TILE_FUNCTION(NAME, KIND)                                                                                     \
  static void NAME(const struct matrix *w, int panel, const struct activations *x, int token, int width, float *y,   \
                   size_t stride) {                                                                                   \
    switch (width) {                                                                                                  \
      TILE_CASE(KIND, 1) TILE_CASE(KIND, 2) TILE_CASE(KIND, 3) TILE_CASE(KIND, 4) TILE_CASE(KIND, 5)                  \
      TILE_CASE(KIND, 6) TILE_CASE(KIND, 7) TILE_CASE(KIND, 8) TILE_CASE(KIND, 9) TILE_CASE(KIND, 10)                 \
      TILE_CASE(KIND, 11) TILE_CASE(KIND, 12)                                                                         \
    }                                                                                                                 \
  }
#ifdef OWN_TERNARY_TILE
static void ternary_tile(const struct matrix *w, int panel, const struct activations *x, int token, int width, float *y,
                         size_t stride);
#else
TILE_FUNCTION(ternary_tile, TERNARY)
#endif
TILE_FUNCTION(q4_tile, Q4)
TILE_FUNCTION(q6_tile, Q6)
TILE_FUNCTION(q8_tile, Q8)

/* The activations of a block of tokens stay in the second-level cache while all panels are read. */
enum { BLOCK_BYTES = 640 * 1024 };

static void tiled_matmul(const struct matrix *w, int first, int last, const struct activations *x, float *y,
                         size_t stride) {
  int cols = padded(w->cols, COLUMN_ALIGN), tiles = BLOCK_BYTES / cols / x->tile;
  int block = (tiles > 0 ? tiles : 1) * x->tile;
  for (int from = 0; from < x->tokens; from += block) {
    int to = from + block < x->tokens ? from + block : x->tokens;
    for (int panel = first; panel < last; panel++)
      for (int token = from; token < to; token += x->tile) {
        int width = tile_width(x, token);
        if (w->kind == TERNARY) ternary_tile(w, panel, x, token, width, y, stride);
        else if (w->kind == Q4) q4_tile(w, panel, x, token, width, y, stride);
        else if (w->kind == Q6) q6_tile(w, panel, x, token, width, y, stride);
        else q8_tile(w, panel, x, token, width, y, stride);
      }
  }
}

enum { REAL_TOKENS = 4 };

INLINE vf real_load(int kind, const uint8_t *row, int i) {
  if (kind == F16) return vf_half((const uint16_t *)row + i);
  if (kind == BF16) return vf_bf16((const uint16_t *)row + i);
  return vf_load((const float *)row + i);
}

/* One row against `width` tokens: each weight is loaded and widened once for all of them. */
INLINE void real_row(int kind, const uint8_t *row, int cols, const float *x, int width, float *y, size_t stride) {
  vf acc[REAL_TOKENS][2];
  UNROLL for (int t = 0; t < width; t++) UNROLL for (int k = 0; k < 2; k++) acc[t][k] = vf_zero();
  int i = 0;
  for (; i + 2 * VL <= cols; i += 2 * VL)
    UNROLL for (int k = 0; k < 2; k++) {
      vf weights = real_load(kind, row, i + k * VL);
      UNROLL for (int t = 0; t < width; t++)
          acc[t][k] = vf_fma(weights, vf_load(x + (size_t)t * cols + i + k * VL), acc[t][k]);
    }
  for (; i < cols; i += VL)
    UNROLL for (int t = 0; t < width; t++)
        acc[t][0] = vf_fma(real_load(kind, row, i), vf_load(x + (size_t)t * cols + i), acc[t][0]);
  UNROLL for (int t = 0; t < width; t++) y[t * stride] = vf_sum(vf_add(acc[t][0], acc[t][1]));
}

INLINE void real_rows(int kind, const struct matrix *w, int first, int last, const struct activations *x, float *y,
                      size_t stride) {
  size_t row_bytes = (size_t)w->cols * (kind == F32 ? 4 : 2);
  for (int row = first; row < last; row++)
    for (int token = 0; token < x->tokens; token += REAL_TOKENS) {
      const uint8_t *p = w->data + row * row_bytes;
      const float *a = x->real + (size_t)token * w->cols;
      float *to = y + token * stride + row;
      switch (x->tokens - token) {
        case 1: real_row(kind, p, w->cols, a, 1, to, stride); break;
        case 2: real_row(kind, p, w->cols, a, 2, to, stride); break;
        case 3: real_row(kind, p, w->cols, a, 3, to, stride); break;
        default: real_row(kind, p, w->cols, a, REAL_TOKENS, to, stride);
      }
    }
}

static void matmul(const struct matrix *w, int32_t first, int32_t last, const struct activations *x, float *y,
                   size_t stride) {
  int rows_from = first * PANEL, rows_to = last * PANEL < w->rows ? last * PANEL : w->rows;
  if (w->kind == TERNARY && x->tokens == 1)
    for (int panel = first; panel < last; panel++) line_panel(w, panel, x, y);
  else if (w->kind <= Q8) tiled_matmul(w, first, last, x, y, stride);
  else if (w->kind == F16) real_rows(F16, w, rows_from, rows_to, x, y, stride);
  else if (w->kind == BF16) real_rows(BF16, w, rows_from, rows_to, x, y, stride);
  else real_rows(F32, w, rows_from, rows_to, x, y, stride);
}

/* exp(x) = 2^n * p(x - n ln 2), with a polynomial p on [-ln 2 / 2, ln 2 / 2]. The relative error is below 8e-8. Arguments
below -87 give exp(-87). */
INLINE vf vf_exp(vf x) {
  x = vf_max(x, vf_set1(-87.0f));
  vi n = vi_from_f(vf_mul(x, vf_set1(1.44269504f)));
  vf k = vf_from_i(n);
  vf r = vf_fma(k, vf_set1(-0.693359375f), x);
  r = vf_fma(k, vf_set1(2.12194440e-4f), r);
  vf p = vf_set1(1.0f / 5040);
  p = vf_fma(p, r, vf_set1(1.0f / 720));
  p = vf_fma(p, r, vf_set1(1.0f / 120));
  p = vf_fma(p, r, vf_set1(1.0f / 24));
  p = vf_fma(p, r, vf_set1(1.0f / 6));
  p = vf_fma(p, r, vf_set1(0.5f));
  p = vf_fma(p, r, vf_set1(1.0f));
  p = vf_fma(p, r, vf_set1(1.0f));
  return vf_mul(p, vf_pow2(n));
}

static void norm(float *y, const float *x, const float *gain, int32_t n, float eps) {
  vf acc[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
  int i = 0;
  for (; i + 4 * VL <= n; i += 4 * VL)
    UNROLL for (int k = 0; k < 4; k++) {
      vf v = vf_load(x + i + k * VL);
      acc[k] = vf_fma(v, v, acc[k]);
    }
  float squares = vf_sum(vf_add(vf_add(acc[0], acc[1]), vf_add(acc[2], acc[3])));
  for (; i < n; i++) squares += x[i] * x[i];
  float scale = 1.0f / sqrtf(squares / (float)n + eps);
  vf s = vf_set1(scale);
  for (i = 0; i + VL <= n; i += VL) {
    vf v = vf_mul(vf_load(x + i), s);
    vf_store(y + i, gain ? vf_mul(v, vf_load(gain + i)) : v);
  }
  for (; i < n; i++) y[i] = gain ? x[i] * scale * gain[i] : x[i] * scale;
}

INLINE vf vf_abs(vf x) { return vf_max(x, vf_sub(vf_zero(), x)); }

INLINE float peak_of(const float *x, int n) {
  vf peak = vf_zero();
  int i = 0;
  for (; i + VL <= n; i += VL) peak = vf_max(peak, vf_abs(vf_load(x + i)));
  float most = vf_peak(peak);
  for (; i < n; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
  return most;
}

/* Where a token's bytes and their sums go. Computed once for a token: the compiler must assume that a store of bytes changes
what it is computed from. */
struct place {
  int8_t *q;
  int32_t *sums, *minus;
  int width;
};

INLINE struct place place_of(const struct activations *to, int32_t token) {
  const int cols = padded(to->cols, COLUMN_ALIGN), first = token / to->tile * to->tile;
  const size_t at = (size_t)token * (cols / SUB_COLUMNS);
  return (struct place){to->q + (size_t)first * cols + (token - first) * 4, to->sums + at, to->minus + at,
                        tile_width(to, first)};
}

/* Put n columns, from a multiple of 16 on, with their sums; returns the sum of all. */
INLINE int32_t put_columns(const struct place *to, int32_t column, const int8_t *bytes, int n) {
  const int width = to->width, at = column / SUB_COLUMNS;
  int8_t *q = to->q + (size_t)column * width;
  int32_t total = 0;
  for (int s = 0; s < n / SUB_COLUMNS; s++) {
    int32_t sum = 0;
    for (int i = 0; i < SUB_COLUMNS; i++) sum += bytes[s * SUB_COLUMNS + i];
    to->sums[at + s] = sum;
    to->minus[at + s] = -32 * sum;
    total += sum;
  }
  if (width == 1) __builtin_memcpy(q, bytes, n);
  else
    for (int i = 0; i < n / 4; i++) __builtin_memcpy(q + (size_t)i * width * 4, bytes + 4 * i, 4);
  return total;
}

/* q = round_half_even(x * 127 / absmax), over the whole token (1e-5 is the least absmax, as in training) or over blocks of
256 columns. */
static void quantize(const float *x, struct activations *to, int32_t token) {
  const int n = to->cols, cols = padded(n, COLUMN_ALIGN), span = to->block ? to->block : n;
  const struct place place = place_of(to, token);
  float *inverse = to->inverse + (size_t)token * (cols / COLUMN_ALIGN), scale = 0, back = 0;
  int32_t total = 0;
  for (int32_t column = 0; column < cols; column += COLUMN_ALIGN) {
    if (column % span == 0) {
      float peak = peak_of(x + column, n - column < span ? n - column : span);
      if (!to->block && peak < 1e-5f) peak = 1e-5f;
      scale = peak > 0 ? (float)(127.0 / (double)peak) : 0;
      back = scale > 0 ? 1.0f / scale : 0;
    }
    inverse[column / COLUMN_ALIGN] = back;
    float room[COLUMN_ALIGN];
    const float *from = x + column;
    if (column + COLUMN_ALIGN > n) {
      for (int i = 0; i < COLUMN_ALIGN; i++) room[i] = column + i < n ? x[column + i] : 0;
      from = room;
    }
    _Alignas(64) int8_t bytes[COLUMN_ALIGN];
    UNROLL for (int i = 0; i < COLUMN_ALIGN; i += VL) vi_put_s8(bytes + i, vi_from_f(vf_mul(vf_load(from + i), vf_set1(scale))));
    total += put_columns(&place, column, bytes, COLUMN_ALIGN);
  }
  to->total[token] = total;
}

static float absmax_sumsq(float *x, const float *add, const float *gain, int32_t n, float *squares, int32_t step) {
  vf peak = vf_zero();
  float most = 0;
  for (int i = 0; i < n; i += PANEL, squares += step) {
    if (n - i < PANEL) {
      float sum = 0;
      for (int k = i; k < n; k++) {
        if (add) x[k] += add[k];
        sum += x[k] * x[k];
        float size = fabsf(gain ? x[k] * gain[k] : x[k]);
        most = size > most ? size : most;
      }
      *squares = sum;
      break;
    }
    vf sum = vf_zero();
    UNROLL for (int k = i; k < i + PANEL; k += VL) {
      vf v = vf_load(x + k);
      if (add) vf_store(x + k, v = vf_add(v, vf_load(add + k)));
      sum = vf_fma(v, v, sum);
      peak = vf_max(peak, vf_abs(gain ? vf_mul(v, vf_load(gain + k)) : v));
    }
    *squares = vf_sum(sum);
  }
  float whole = vf_peak(peak);
  return whole > most ? whole : most;
}

static int32_t quantize_columns(const float *x, const float *gain, float scale, struct activations *to, int32_t token,
                                int32_t first, int32_t last) {
  const struct place place = place_of(to, token);
  const int cols = to->cols;
  int32_t total = 0;
  for (int column = first; column < last; column += PANEL) {
    float room[2][PANEL];
    const float *from = x + column, *by = gain ? gain + column : NULL;
    if (column + PANEL > cols) {
      for (int i = 0; i < PANEL; i++) {
        int inside = column + i < cols;
        room[0][i] = inside ? from[i] : 0;
        room[1][i] = inside && by ? by[i] : 0;
      }
      from = room[0];
      by = by ? room[1] : NULL;
    }
    _Alignas(64) int8_t bytes[PANEL];
    UNROLL for (int i = 0; i < PANEL; i += VL) {
      vf v = vf_load(from + i);
      if (by) v = vf_mul(v, vf_load(by + i));
      vi_put_s8(bytes + i, vi_from_f(vf_mul(v, vf_set1(scale))));
    }
    total += put_columns(&place, column, bytes, PANEL);
  }
  return total;
}

static void gate(float *y, const float *g, const float *up, int32_t n, int32_t kind) {
  for (int i = 0; i < n; i += VL) {
    vf x = vf_load(g + i);
    if (kind == RELU2) {
      vf positive = vf_max(x, vf_zero());
      x = vf_mul(positive, positive);
    } else { /* x / (1 + exp(-z)); the tanh form of GELU is that with z = 2 sqrt(2 / pi) (x + 0.044715 x^3) */
      vf z = x;
      if (kind == GELU)
        z = vf_mul(vf_mul(x, vf_set1(1.59576912f)), vf_fma(vf_mul(x, x), vf_set1(0.044715f), vf_set1(1.0f)));
      vf least = vf_set1(-80.0f);
      x = vf_div(x, vf_add(vf_set1(1.0f), vf_exp(vf_sub(vf_zero(), vf_max(z, least)))));
    }
    vf_store(y + i, vf_mul(x, vf_load(up + i)));
  }
}

static void add(float *y, const float *x, int32_t n) {
  for (int i = 0; i < n; i += VL) vf_store(y + i, vf_add(vf_load(y + i), vf_load(x + i)));
}

#include "attention.inc.h"

#define KERNELS(LABEL)                                                                                        \
  const struct kernels LABEL##_kernels = {.name = #LABEL, .max_tile = TILE, .matmul = matmul, .norm = norm,   \
                                          .quantize = quantize, .absmax_sumsq = absmax_sumsq,                 \
                                          .quantize_columns = quantize_columns, .gate = gate, .add = add,     \
                                          .store_kv = store_kv, .attend = attend, .merge = merge};
