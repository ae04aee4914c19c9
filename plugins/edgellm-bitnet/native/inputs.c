/* The input of a product, and the product itself. To make the input, rows are added, normalized and quantized.

By columns, where the model allows it: for all tokens, a thread adds, normalizes and quantizes the columns whose rows it
computed in the product before. They are still in its caches, and no two threads write to the same cache line. A row's
sum of squares and its peak are taken for each panel of 32 columns. They are combined in one order, whatever the number
of threads.

Otherwise by tokens: a thread takes whole rows. */
#include <math.h>

#include "engine.h"

/* x += norm(y) where the model has this norm, otherwise x += y. */
void add_residual(struct engine *e, const struct gemm_input *from, int32_t token, float *work) {
  if (!from->add) return;
  const float *y = from->add + (size_t)token * from->add_stride;
  if (from->post) {
    e->kernels->norm(work, y, from->post, e->model.hidden, e->model.eps);
    y = work;
  }
  e->kernels->add(from->x + (size_t)token * from->stride, y, e->model.hidden);
}

/* The norm, then the own norm of each product that has one, then quantization. */
static void quantize_input_row(struct engine *e, enum input input, int32_t inputs, const float *x, const float *gain,
                      const float *const *own, int32_t token, float *work) {
  int32_t n = e->activations[input].cols;
  if (gain) {
    e->kernels->norm(work, x, gain, n, e->model.eps);
    x = work;
  }
  if (!own[0]) {
    e->kernels->quantize(x, &e->activations[input], token);
    return;
  }
  float *second = work + activation_columns(&e->model);
  for (int i = 0; i < inputs; i++) {
    e->kernels->norm(second, x, own[i], n, e->model.eps);
    e->kernels->quantize(second, &e->activations[input + i], token);
  }
}

static size_t row_of(const struct engine *e, int thread) { return (size_t)thread * (size_t)padded(e->batch, 32); }

/* 1 / rms of every token, from the sums of squares of its panels. The sum is in double: a row has hundreds of panels, in
float their sum would be the largest error of the norm, and double takes no longer. */
static void find_norms(struct engine *e, int32_t cols, double *norms) {
  for (int32_t t = 0; t < e->n; t++) norms[t] = 0;
  for (int32_t panel = 0; panel < panels_of(cols); panel++)
    for (int32_t t = 0; t < e->n; t++) norms[t] += (double)e->squares[panel * e->n + t];
  for (int32_t t = 0; t < e->n; t++) norms[t] = 1 / sqrt(norms[t] / cols + (double)e->model.eps);
}

static void quantize_input_columns(struct engine *e, struct activations *to, const struct gemm_input *from,
                                   const float *gain, int thread, int threads) {
  int32_t cols = to->cols, n = e->n, panels = panels_of(cols);
  struct span own = own_panels(cols, thread, threads);
  int32_t first = own.first * PANEL, count = smaller(own.last * PANEL, cols) - first;
  for (int32_t t = 0; t < n; t++)
    e->peaks[row_of(e, thread) + (size_t)t] = e->kernels->absmax_sumsq(
        from->x + (size_t)t * from->stride + first, from->add ? from->add + (size_t)t * from->add_stride + first : NULL,
        gain ? gain + first : NULL, count, e->squares + own.first * n + t, n);
  pool_wait(e->pool);
  double *norms = e->norms + row_of(e, thread);
  find_norms(e, cols, norms);
  int32_t last = own.last == panels ? padded(cols, COLUMN_ALIGN) : own.last * PANEL;
  for (int32_t t = 0; t < n; t++) {
    /* norm * 127 / (peak * norm): the rounding of the norm cancels, and only one factor is rounded. */
    double norm = gain ? norms[t] : 1, peak = 0;
    for (int i = 0; i < threads; i++) peak = fmax(peak, (double)e->peaks[row_of(e, i) + (size_t)t]);
    peak = fmax(peak * norm, 1e-5);
    e->part_totals[row_of(e, thread) + (size_t)t] = e->kernels->quantize_columns(
        from->x + (size_t)t * from->stride, gain, (float)(127 * norm / peak), to, t, first, last);
    if (thread == 0) to->inverse[(size_t)t * (size_t)(padded(cols, COLUMN_ALIGN) / COLUMN_ALIGN)] = (float)(peak / 127);
  }
}

/* Normalize and quantize rows into activations[input], and into the next inputs - 1 where those have their own norms. Ends
with a barrier. */
void quantize_input(struct engine *e, enum input input, int32_t inputs, const struct gemm_input *from, const float *gain,
           const float *const *own, int thread, int threads, float *work) {
  if (e->by_columns) {
    if (from->shared) pool_wait(e->pool);
    quantize_input_columns(e, &e->activations[input], from, gain, thread, threads);
  } else {
    int32_t first, last;
    pool_wait(e->pool);
    share(e->n, thread, threads, &first, &last);
    for (int32_t t = first; t < last; t++) {
      add_residual(e, from, t, work);
      quantize_input_row(e, input, inputs, from->x + (size_t)t * from->stride, gain, own, t, work);
    }
  }
  pool_wait(e->pool);
}

/* A thread's share of each matrix of w, where they lie one after the other. With `separate`, each has its own input. */
void product(struct engine *e, const struct matrix *w, const int32_t *rows, int32_t parts, enum input input,
             int separate, float *y, size_t stride, int thread, int threads) {
  struct activations shared = e->activations[input];
  if (e->by_columns) {
    shared.total = e->totals + row_of(e, thread);
    for (int32_t t = 0; t < e->n; t++) shared.total[t] = 0;
    for (int i = 0; i < threads; i++)
      for (int32_t t = 0; t < e->n; t++) shared.total[t] += e->part_totals[row_of(e, i) + (size_t)t];
  }
  for (int32_t part = 0, at = 0; part < parts; at += panels_of(rows[part++])) {
    struct span own = own_panels(rows[part], thread, threads);
    const struct activations *x = separate ? &e->activations[(int)input + part] : &shared;
    e->kernels->matmul(w, at + own.first, at + own.last, x, y, stride);
  }
}
