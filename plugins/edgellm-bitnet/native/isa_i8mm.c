/* NEON with smmla (ARMv8.6 i8mm): Neoverse V1 and N2, Cortex-A510, A710 and X2, Apple M2 and later.

smmla multiplies 2 x 8 by 8 x 2 bytes into 2 x 2 lanes. That is 32 products, twice as many as sdot, where there are two rows
and two tokens. A row's 8 columns are 4 of one step and the same 4 of the next. So packed codes are zipped once for each
two steps, before they are unpacked. The activations of a tile are zipped once, into a buffer that all rows of a panel
share.

For 8 rows x 12 tokens x 8 columns that is 24 products, 7 operations of unpacking and 1.5 of zipping. In GCC 14's code 96
of 167 instructions are products, and 20 are spills. One token, and matrices other than ternary, use sdot. The integer
sums are exact and the scaling is that of tile_panel, so a token's results do not depend on its neighbours. */
#include <arm_neon.h>

#include "kernels.h"

enum { TILE = 12, TILE_VECTORS = 2, DOT8_BIAS = 128 };
#define LANES_BY_STEP 0
#define FOURS_BY_LANE
#define OWN_TERNARY_TILE
#include "lanes_neon.inc.h"
#include "lanes_dotprod.inc.h"

#include "kernels.inc.h"

/* So many columns of 12 tokens fit the first-level cache once their activations are zipped. */
enum { SLICE = 512, ROW_VECTORS = PANEL / VL, PAIRS = TILE / 2 };

IN vi zip_low(vi a, vi b) { return vzip1q_s32(a, b); }
IN vi zip_high(vi a, vi b) { return vzip2q_s32(a, b); }
IN vi vi_mm(vi acc, vi codes, vi a) { return vmmlaq_s32(acc, vreinterpretq_s8_s32(codes), vreinterpretq_s8_s32(a)); }

/* Activations [columns / 4][width][4] -> operands [columns / 32][4][pairs]. An operand holds two tokens, with 4 columns of
each of two steps. An odd last token is paired with itself, and that sum is not read. */
INLINE void zip_tokens(const int8_t *q, int width, int columns, vi *to) {
  const int pairs = (width + 1) / 2;
  for (int column = 0; column < columns; column += 32, q += 32 * width)
    for (int j = 0; j < 4; j++)
      UNROLL for (int pair = 0; pair < pairs; pair++) {
        const int8_t *first = q + (j * width + 2 * pair) * 4;
        int64_t now, next;
        if (2 * pair + 1 < width) {
          __builtin_memcpy(&now, first, 8);
          __builtin_memcpy(&next, first + 16 * width, 8);
          *to++ = zip_low(vreinterpretq_s32_s64(vdupq_n_s64(now)), vreinterpretq_s32_s64(vdupq_n_s64(next)));
        } else {
          *to++ = zip_low(vi_bcast4(first), vi_bcast4(first + 16 * width));
        }
      }
}

/* Sums of 8 rows from byte `at` of each line: sums[v][half][pair] = {row 0 * token 0, 0 * 1, 1 * 0, 1 * 1} of rows
4 v + 2 half and on. */
INLINE void pair_sums(const uint8_t *p, int at, const vi *a, int pairs, int columns, vi sums[ROW_VECTORS][2][PAIRS]) {
  vi acc[TILE_VECTORS][2][PAIRS];
  UNROLL for (int v = 0; v < TILE_VECTORS; v++) UNROLL for (int half = 0; half < 2; half++)
      UNROLL for (int pair = 0; pair < pairs; pair++) acc[v][half][pair] = sums[v][half][pair];
  const vi mask = vi_set1(0x03030303);
  for (int column = 0; column < columns; column += 32, p += 2 * STEP_BYTES) {
    vi packed[TILE_VECTORS][2];
    UNROLL for (int v = 0; v < TILE_VECTORS; v++) {
      vi now = vi_load(p + at + v * VB), next = vi_load(p + STEP_BYTES + at + v * VB);
      packed[v][0] = zip_low(now, next);
      packed[v][1] = zip_high(now, next);
    }
    UNROLL for (int j = 0; j < 4; j++) {
      vi codes[TILE_VECTORS][2];
      UNROLL for (int v = 0; v < TILE_VECTORS; v++) UNROLL for (int half = 0; half < 2; half++) {
        vi shifted = vi_shr8(packed[v][half], 2 * j);
        codes[v][half] = j < 3 ? vi_and(shifted, mask) : shifted;
      }
      UNROLL for (int pair = 0; pair < pairs; pair++) {
        vi tokens = *a++;
        UNROLL for (int v = 0; v < TILE_VECTORS; v++) UNROLL for (int half = 0; half < 2; half++)
            acc[v][half][pair] = vi_mm(acc[v][half][pair], codes[v][half], tokens);
      }
    }
  }
  UNROLL for (int v = 0; v < TILE_VECTORS; v++) UNROLL for (int half = 0; half < 2; half++)
      UNROLL for (int pair = 0; pair < pairs; pair++) sums[v][half][pair] = acc[v][half][pair];
}

/* tile_panel for ternary codes, with the same sums and the same order of scaling. */
INLINE void pair_panel(const struct matrix *w, int panel, const struct activations *x, int token, int width, float *y,
                       size_t stride) {
  const int cols = padded(w->cols, COLUMN_ALIGN), pairs = (width + 1) / 2;
  const int span = w->group ? w->group : x->block ? x->block : cols;
  const uint8_t *data = w->data + (size_t)panel * panel_bytes(w);
  const int8_t *q = x->q + (size_t)token * cols;
  vf result[ROW_VECTORS][2 * PAIRS];
  vi zipped[SLICE / 8 * PAIRS];
  for (int v = 0; v < ROW_VECTORS; v++) NO_UNROLL for (int t = 0; t < width; t++) result[v][t] = vf_zero();
  for (int column = 0; column < cols; column += span) {
    vi sums[ROW_VECTORS][2][PAIRS];
    for (int v = 0; v < ROW_VECTORS; v++) for (int half = 0; half < 2; half++)
        for (int pair = 0; pair < pairs; pair++) sums[v][half][pair] = vi_zero();
    for (int from = column; from < column + span; from += SLICE) {
      int columns = column + span - from < SLICE ? column + span - from : SLICE;
      zip_tokens(q + (size_t)from * width, width, columns, zipped);
      for (int v = 0; v < ROW_VECTORS; v += TILE_VECTORS)
        pair_sums(data + (size_t)from / 16 * STEP_BYTES, v * VB, zipped, pairs, columns, sums + v);
    }
    for (int v = 0; v < ROW_VECTORS; v++) {
      vf scale = row_scale(w, panel, v * VL, column);
      NO_UNROLL for (int t = 0; t < width; t++) {
        vi low = sums[v][0][t / 2], high = sums[v][1][t / 2];
        vi sum = t % 2 ? vuzp2q_s32(low, high) : vuzp1q_s32(low, high);
        vf exact = vf_from_i(vi_sub(sum, vi_set1(span_sum(x, token + t, column, span))));
        result[v][t] = vf_fma(exact, vf_mul(scale, vf_set1(activation_inverse(x, token + t, column))), result[v][t]);
      }
    }
  }
  for (int v = 0; v < ROW_VECTORS; v++) NO_UNROLL for (int t = 0; t < width; t++)
      vf_store(y + (token + t) * stride + (size_t)panel * PANEL + v * VL, result[v][t]);
}

#define PAIR_CASE(WIDTH) \
  case WIDTH: pair_panel(w, panel, x, token, WIDTH, y, stride); break;
static void ternary_tile(const struct matrix *w, int panel, const struct activations *x, int token, int width, float *y,
                         size_t stride) {
  switch (width) {
    case 1: tile_panel(TERNARY, w, panel, x, token, 1, y, stride); break;
    PAIR_CASE(2) PAIR_CASE(3) PAIR_CASE(4) PAIR_CASE(5) PAIR_CASE(6) PAIR_CASE(7) PAIR_CASE(8) PAIR_CASE(9)
    PAIR_CASE(10) PAIR_CASE(11) PAIR_CASE(12)
  }
}

KERNELS(i8mm)
