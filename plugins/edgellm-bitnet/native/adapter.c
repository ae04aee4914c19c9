/* Adapters beside the products: y += B (A x), in floats, of the same x as the product has before it is quantized.

First A x, whose rows are shared out among threads, each with all its columns, so that a sum does not depend on their number.
Then, after a barrier, each thread adds B to the rows that it computed itself. B is stored by columns, so both loops run over
memory in order. Rank 16 beside a model of 2 billion weights is 21 million products for a token, 1 % of the model's own, but
its factors are 86 MB of floats that each step reads: that is what bounds it where single tokens are decoded. */
#include <stdlib.h>

#include "engine.h"

enum { SUMS = 16 }; /* of a row: enough for any width of registers */

static float dot(const float *a, const float *x, int32_t n) {
  float sums[SUMS] = {0};
  int32_t i = 0;
  for (; i + SUMS <= n; i += SUMS)
    for (int32_t k = 0; k < SUMS; k++) sums[k] += a[i + k] * x[i + k];
  for (int32_t k = 0; i < n; i++, k++) sums[k] += a[i] * x[i];
  for (int32_t half = SUMS / 2; half; half /= 2)
    for (int32_t k = 0; k < half; k++) sums[k] += sums[k + half];
  return sums[0];
}

static const struct side *side_of(const struct engine *e, int32_t used, int32_t layer, int32_t input) {
  return &e->sides[used][layer * INPUTS + input];
}

/* Rows of A for some inputs of a layer, of all adapters in use. */
static int32_t ranks(const struct engine *e, int32_t layer, int32_t input, int32_t inputs) {
  int32_t sum = 0;
  for (int32_t i = input; i < input + inputs; i++)
    for (int32_t used = 0; used < e->n_sides; used++) sum += side_of(e, used, layer, i)->rank;
  return sum;
}

/* A x for `inputs` products that have one input, which was normed and quantized by quantize_input before. */
void side_down(struct engine *e, int32_t layer, enum input input, int32_t inputs, const struct gemm_input *from,
               const float *gain, int thread, int threads, float *work) {
  int32_t each = ranks(e, layer, input, inputs), cols = e->activations[input].cols, first, last;
  if (!each) return;
  share(e->n * each, thread, threads, &first, &last);
  for (int32_t t = 0; t < e->n; t++) {
    int32_t at = t * each;
    if (at >= last || at + each <= first) continue;
    const float *x = from->x + (size_t)t * from->stride;
    if (gain) {
      e->kernels->norm(work, x, gain, cols, e->model.eps);
      x = work;
    }
    for (int32_t i = (int32_t)input; i < (int32_t)input + inputs; i++)
      for (int32_t used = 0; used < e->n_sides; used++) {
        const struct side *side = side_of(e, used, layer, i);
        for (int32_t k = 0; k < side->rank; k++, at++)
          if (at >= first && at < last) e->side[at] = e->side_scales[used] * dot(side->a + (size_t)k * (size_t)cols, x, cols);
      }
  }
}

/* Adds B to the rows of the matrices that `product` has just computed: the same arguments. */
void side_up(struct engine *e, int32_t layer, enum input input, const int32_t *rows, int32_t parts, float *y, size_t stride,
             int thread, int threads) {
  int32_t each = ranks(e, layer, input, parts), before = 0;
  if (!each) return;
  pool_wait(e->pool);
  for (int32_t part = 0; part < parts; y += padded(rows[part++], PANEL)) {
    struct span own = own_panels(rows[part], thread, threads);
    size_t height = (size_t)padded(rows[part], PANEL);
    for (int32_t used = 0; used < e->n_sides; used++) {
      const struct side *side = side_of(e, used, layer, (int32_t)input + part);
      for (int32_t t = 0; t < e->n; t++)
        for (int32_t k = 0; k < side->rank; k++) {
          const float *b = side->b + (size_t)k * height;
          float *to = y + (size_t)t * stride, x = e->side[t * each + before + k];
          for (int32_t row = own.first * PANEL; row < own.last * PANEL; row++) to[row] += x * b[row];
        }
      before += side->rank;
    }
  }
}

int32_t bn_use(struct engine *e, int32_t n, const struct side *const *sides, const float *scales) {
  e->n_sides = 0;
  if (n < 0 || n > MAX_SIDES) return 1;
  for (int32_t used = 0; used < n; used++) {
    e->sides[used] = sides[used];
    e->side_scales[used] = scales[used];
  }
  e->n_sides = n;
  size_t most = 0;
  for (int32_t layer = 0; layer < e->model.layers; layer++) {
    size_t groups[] = {(size_t)ranks(e, layer, IN_Q, 3), (size_t)ranks(e, layer, IN_OUTPUT, 1),
                       (size_t)ranks(e, layer, IN_GATE, 2), (size_t)ranks(e, layer, IN_DOWN, 1)};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) most = groups[i] > most ? groups[i] : most;
  }
  if (most > e->side_room) {
    float *room = malloc(most * (size_t)e->batch * sizeof *room);
    if (!room) {
      e->n_sides = 0;
      return 1;
    }
    free(e->side);
    e->side = room;
    e->side_room = most;
  }
  return 0;
}
