/* One product alone, for tests, calibration and benchmarks. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bitnet.h"
#include "dispatch.h"
#include "pool.h"

struct task {
  const struct kernels *kernels;
  const struct matrix *w;
  struct activations activations;
  struct pool *pool;
  const float *x;
  float *y;
  int32_t again;
  double seconds;
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int activations_new(struct activations *a, int32_t tokens, int32_t cols, int32_t block, int32_t max_tile) {
  size_t columns = (size_t)padded(cols, COLUMN_ALIGN), n = (size_t)tokens;
  int32_t tiles = (tokens + max_tile - 1) / max_tile;
  *a = (struct activations){.tokens = tokens, .cols = cols, .tile = (tokens + tiles - 1) / tiles, .block = block};
  a->q = calloc(n, columns);
  a->inverse = calloc(n * columns / COLUMN_ALIGN, sizeof *a->inverse);
  a->sums = calloc(n * columns / SUB_COLUMNS, sizeof *a->sums);
  a->minus = calloc(n * columns / SUB_COLUMNS, sizeof *a->minus);
  a->total = calloc(n, sizeof *a->total);
  return a->q && a->inverse && a->sums && a->minus && a->total;
}

static void activations_free(struct activations *a) {
  free(a->q);
  free(a->inverse);
  free(a->sums);
  free(a->minus);
  free(a->total);
}

static void multiply(void *argument, int thread, int threads) {
  struct task *task = argument;
  int32_t first, last, tokens_first, tokens_last;
  share(task->activations.tokens, thread, threads, &tokens_first, &tokens_last);
  if (task->x && task->w->kind <= Q8)
    for (int32_t t = tokens_first; t < tokens_last; t++)
      task->kernels->quantize(task->x + (size_t)t * (size_t)task->w->cols, &task->activations, t);
  share(padded(task->w->rows, PANEL) / PANEL, thread, threads, &first, &last);
  size_t stride = (size_t)padded(task->w->rows, PANEL);
  pool_wait(task->pool);
  double start = now();
  for (int32_t i = 0; i < (task->again > 0 ? task->again : 1); i++) {
    task->kernels->matmul(task->w, first, last, &task->activations, task->y, stride);
    pool_wait(task->pool);
  }
  if (thread == 0) task->seconds = (now() - start) / (task->again > 0 ? task->again : 1);
}

double bn_matmul(int32_t isa, const struct matrix *w, const float *x, int32_t tokens, int32_t block, float *y,
                 int32_t threads, int32_t again) {
  struct task task = {.kernels = isa_kernels(isa), .w = w, .x = x, .y = y, .again = again, .seconds = -1};
  if (!task.kernels) return -1;
  task.pool = pool_new(threads);
  if (activations_new(&task.activations, tokens, w->cols, block, task.kernels->max_tile) && task.pool) {
    task.activations.real = (float *)x;
    pool_run(task.pool, threads, multiply, &task);
  }
  activations_free(&task.activations);
  pool_free(task.pool);
  return task.seconds;
}

/* Sums below 2^24 are exact as floats, so with scales of 1 the results are the integers themselves. That holds for up to
131,072 columns. */
int32_t bn_integer_sums(int32_t isa, const struct matrix *w, const int8_t *q, int32_t tokens, int32_t *out) {
  struct task task = {.kernels = isa_kernels(isa), .w = w};
  size_t rows = (size_t)padded(w->rows, PANEL), columns = (size_t)padded(w->cols, COLUMN_ALIGN);
  task.y = malloc(rows * (size_t)tokens * sizeof(float));
  int32_t failed = !task.kernels || !task.y ||
                   !activations_new(&task.activations, tokens, w->cols, 0, task.kernels->max_tile);
  if (!failed) {
    for (int32_t t = 0; t < tokens; t++)
      for (int32_t i = 0; i < w->cols; i++) {
        int8_t value = q[(size_t)t * (size_t)w->cols + (size_t)i];
        *activation_at(&task.activations, t, i) = value;
        task.activations.sums[((size_t)t * columns + (size_t)i) / SUB_COLUMNS] += value;
        task.activations.minus[((size_t)t * columns + (size_t)i) / SUB_COLUMNS] -= 32 * value;
        task.activations.total[t] += value;
        task.activations.inverse[((size_t)t * columns + (size_t)i) / COLUMN_ALIGN] = 1;
      }
    task.kernels->matmul(w, 0, (int32_t)(rows / PANEL), &task.activations, task.y, rows);
    for (size_t i = 0; i < rows * (size_t)tokens; i++) out[i] = (int32_t)task.y[i];
  }
  if (task.kernels) activations_free(&task.activations);
  free(task.y);
  return failed;
}
