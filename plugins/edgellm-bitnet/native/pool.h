/* Threads that run one function together. Between jobs they spin for a moment, then park. */
#ifndef EDGELLM_BITNET_POOL_H
#define EDGELLM_BITNET_POOL_H

#include <stdint.h>

struct pool;

typedef void (*pool_job)(void *argument, int thread, int threads);

struct pool *pool_new(int threads); /* NULL: out of memory or threads */
void pool_run(struct pool *pool, int threads, pool_job job, void *argument); /* threads <= those of pool_new */
void pool_wait(struct pool *pool); /* a barrier inside a job */
void pool_free(struct pool *pool);

/* The share of thread `i` of n things: first and one past the last. */
static inline void share(int32_t things, int i, int n, int32_t *first, int32_t *last) {
  *first = (int32_t)((int64_t)things * i / n);
  *last = (int32_t)((int64_t)things * (i + 1) / n);
}

#endif
