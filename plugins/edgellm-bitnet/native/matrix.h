/* How weights and activations lie in memory. The same on every processor, so a packed file serves them all.

A matrix is cut into panels of 32 rows. Inside a panel, columns follow each other in fours: 32 rows x 4 columns of
one-byte values are 128 bytes, byte 4*r + c. So a row is one vector lane with four products, the operand of
vpdpbusd, of sdot, and (after one zip) of smmla. There is no horizontal sum, and a thread reads one stream.

    TERNARY  code w + 1 in 2 bits; 16 columns a step; bits 2j+1..2j of the byte hold column 4j + c of the step
    Q4       value + 8 in 4 bits; 8 columns a step; low nibble column c, high nibble column 4 + c
    Q6       value + 32 in 6 bits; 16 columns a step: 128 bytes of low nibbles of columns 0-7 (as Q4), 128 of 8-15,
             128 of the two high bits of all (as TERNARY)
    Q8       value + 128 in 8 bits; 4 columns a step
    F16, BF16, F32   row-major, as stored

Scales: with group == 0 one float for each row, otherwise a half for each row and group of columns, [panel][group][32].
Q6 also has an int8 factor for each row and 16 columns, [panel][columns / 16][32]. Its halves are for 256 columns each.
Rows are padded to a multiple of 32 and columns to a multiple of 64, with codes of zero. */
#ifndef EDGELLM_BITNET_MATRIX_H
#define EDGELLM_BITNET_MATRIX_H

#include <stddef.h>
#include <stdint.h>

enum { PANEL = 32, COLUMN_ALIGN = 64, SUB_COLUMNS = 16 };

enum kind { TERNARY = 0, Q4 = 1, Q6 = 2, Q8 = 3, F16 = 4, BF16 = 5, F32 = 6 };

struct matrix {
  int32_t kind;
  int32_t rows, cols;
  int32_t group; /* columns per scale: 0, or a multiple of 64 (TERNARY), 32 (Q4, Q8), 256 (Q6) */
  const uint8_t *data;
  const void *scales;
  const int8_t *sub; /* Q6 only */
};

/* Quantized activations of up to a few hundred tokens. Tokens lie in tiles of `tile` (the last may be narrower): a tile
that starts at token t0 and is w wide begins at q + t0 * cols_padded and holds [cols_padded / 4][w][4]. */
struct activations {
  int32_t tokens, cols, tile;
  int32_t block;  /* columns per activation scale: 0 = the whole token, or 256 */
  int8_t *q;
  float *inverse; /* [tokens][cols_padded / 64]: absmax / 127 of the scale of these columns; block 0: the first counts */
  int32_t *sums;  /* [tokens][cols_padded / 16] */
  int32_t *minus; /* the same times -32: what a sum of 6-bit codes starts from */
  int32_t *total; /* [tokens] */
  float *real;    /* [tokens][cols]: what F16, BF16 and F32 matrices take */
};

static inline int32_t padded(int32_t n, int32_t to) { return (n + to - 1) / to * to; }

static inline size_t panel_bytes(const struct matrix *m) {
  static const int bits[] = {2, 4, 6, 8};
  return (size_t)padded(m->cols, COLUMN_ALIGN) * PANEL * bits[m->kind] / 8;
}

static inline int32_t tile_width(const struct activations *x, int32_t first) {
  return x->tokens - first < x->tile ? x->tokens - first : x->tile;
}

static inline int8_t *activation_at(const struct activations *x, int32_t token, int32_t column) {
  int32_t first = token / x->tile * x->tile, width = tile_width(x, first);
  return x->q + (size_t)first * padded(x->cols, COLUMN_ALIGN) + (size_t)(column / 4) * width * 4 + (token - first) * 4 +
         column % 4;
}

#endif
