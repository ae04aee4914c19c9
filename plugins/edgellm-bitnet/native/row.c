/* One row of a matrix as floats, as an embedding needs it. A packed row has 4 bytes in each cache line of its panel, so all
these lines are prefetched before the first is read. */
#include <string.h>

#include "bitnet.h"
#include "half.h"

static void real_row(const struct matrix *m, int32_t row, float *to) {
  size_t at = (size_t)row * (size_t)m->cols;
  const uint16_t *halves = (const uint16_t *)m->data + at;
  if (m->kind == F32) memcpy(to, (const float *)m->data + at, (size_t)m->cols * sizeof *to);
  else if (m->kind == F16) for (int32_t i = 0; i < m->cols; i++) to[i] = half_to_float(halves[i]);
  else for (int32_t i = 0; i < m->cols; i++) to[i] = bf16_to_float(halves[i]);
}

/* Values of the sixteen codes whose bytes are at p, p + 4 * PANEL and on. */
static void sixteen(int32_t kind, const uint8_t *p, float *to) {
  uint8_t b[4][4] = {{0}};
  for (int line = 0; line < (kind == TERNARY ? 1 : kind == Q4 ? 2 : kind == Q6 ? 3 : 4); line++)
    memcpy(b[line], p + line * 4 * PANEL, 4);
  for (int j = 0; j < 4; j++)
    for (int c = 0; c < 4; c++) {
      int code;
      if (kind == TERNARY) code = (b[0][c] >> 2 * j & 3) - 1;
      else if (kind == Q4) code = (b[j / 2][c] >> 4 * (j % 2) & 15) - 8;
      else if (kind == Q8) code = b[j][c] - 128;
      else code = ((b[j / 2][c] >> 4 * (j % 2) & 15) | (b[2][c] >> 2 * j & 3) << 4) - 32;
      to[4 * j + c] = (float)code;
    }
}

void bn_row(const struct matrix *m, int32_t row, float *to) {
  if (m->kind >= F16) {
    real_row(m, row, to);
    return;
  }
  int32_t columns = padded(m->cols, COLUMN_ALIGN), panel = row / PANEL, lane = row % PANEL;
  size_t step = panel_bytes(m) / (size_t)(columns / SUB_COLUMNS); /* bytes of sixteen columns of a panel */
  const uint8_t *p = m->data + (size_t)panel * panel_bytes(m) + 4 * lane;
  const int8_t *sub = m->kind == Q6 ? m->sub + (size_t)panel * (size_t)(columns / SUB_COLUMNS) * PANEL + lane : NULL;
  const uint16_t *scales = NULL;
  if (m->group) scales = (const uint16_t *)m->scales + (size_t)panel * (size_t)(columns / m->group) * PANEL + lane;
  for (size_t i = 0; i < panel_bytes(m); i += 4 * PANEL) __builtin_prefetch(p + i);
  for (int32_t i = 0; sub && i < columns / SUB_COLUMNS; i += 2) __builtin_prefetch(sub + i * PANEL);
  for (int32_t i = 0; i < m->cols; i += SUB_COLUMNS, p += step) {
    float scale = scales ? half_to_float(scales[i / m->group * PANEL]) : ((const float *)m->scales)[row];
    float values[SUB_COLUMNS];
    if (sub) scale *= sub[i / SUB_COLUMNS * PANEL];
    sixteen(m->kind, p, values);
    for (int k = 0; k < SUB_COLUMNS && i + k < m->cols; k++) to[i + k] = scale * values[k];
  }
}
