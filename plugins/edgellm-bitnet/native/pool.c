/* Barriers and jobs of the threads.

A step has hundreds of barriers, a few hundred nanoseconds apart, so threads spin in them. With more threads than
processors, spinning could waste a whole time slice, so threads yield almost at once. Between steps the caller samples
and answers clients. Meanwhile threads spin for SPIN_NS, then sleep on a condition variable. */
#define _GNU_SOURCE
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#define aligned_alloc(alignment, bytes) _aligned_malloc(bytes, alignment)
#define aligned_free _aligned_free
#else
#include <unistd.h>
#define aligned_free free
#endif

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

enum { SPINS = 4000, SPINS_WHEN_CROWDED = 20, SPIN_NS = 300000 };

struct pool {
  int threads;
  int patience; /* iterations before a waiting thread yields */
  atomic_int running; /* threads of the job under way */
  pool_job job;
  void *argument;
  _Alignas(64) atomic_uint generation; /* counts jobs; the last is "stop" */
  _Alignas(64) atomic_int arrived;
  _Alignas(64) atomic_uint phase; /* counts barriers */
  _Alignas(64) atomic_int done; /* threads finished with the job */
  atomic_int parked;
  int stop;
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  pthread_t *handles;
};

struct member {
  struct pool *pool;
  int index;
};

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void pool_wait(struct pool *pool) {
  int running = atomic_load_explicit(&pool->running, memory_order_relaxed);
  if (running == 1) return;
  unsigned phase = atomic_load_explicit(&pool->phase, memory_order_acquire);
  if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) == running - 1) {
    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->phase, phase + 1, memory_order_release);
    return;
  }
  for (int spins = 0; atomic_load_explicit(&pool->phase, memory_order_acquire) == phase; spins++) {
    RELAX();
    if (spins > pool->patience) sched_yield();
  }
}

static unsigned next_job(struct pool *pool, unsigned seen) {
  int64_t until = 0;
  for (int spins = 1;; spins++) {
    unsigned generation = atomic_load_explicit(&pool->generation, memory_order_acquire);
    if (generation != seen) return generation;
    RELAX();
    if (spins % 256) continue;
    int64_t now = now_ns();
    if (!until) until = now + SPIN_NS;
    if (now > until) break;
    sched_yield();
  }
  pthread_mutex_lock(&pool->mutex);
  atomic_fetch_add(&pool->parked, 1);
  while (atomic_load(&pool->generation) == seen) pthread_cond_wait(&pool->wake, &pool->mutex);
  atomic_fetch_sub(&pool->parked, 1);
  pthread_mutex_unlock(&pool->mutex);
  return atomic_load(&pool->generation);
}

static void *serve(void *argument) {
  struct member member = *(struct member *)argument;
  free(argument);
  struct pool *pool = member.pool;
  for (unsigned seen = 0;;) {
    seen = next_job(pool, seen);
    if (pool->stop) return NULL;
    int running = atomic_load(&pool->running);
    if (member.index < running) pool->job(pool->argument, member.index, running);
    /* Every thread reports, also one without a share: the next job must not start while a thread still reads this one. */
    atomic_fetch_add_explicit(&pool->done, 1, memory_order_acq_rel);
  }
}

static void announce(struct pool *pool) {
  atomic_fetch_add(&pool->generation, 1);
  if (atomic_load(&pool->parked) == 0) return;
  pthread_mutex_lock(&pool->mutex);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->mutex);
}

void pool_run(struct pool *pool, int threads, pool_job job, void *argument) {
  if (threads > pool->threads) threads = pool->threads;
  if (threads <= 1) {
    atomic_store(&pool->running, 1);
    job(argument, 0, 1);
    return;
  }
  pool->job = job;
  pool->argument = argument;
  atomic_store(&pool->running, threads);
  announce(pool);
  job(argument, 0, threads);
  for (int spins = 0; atomic_load_explicit(&pool->done, memory_order_acquire) != pool->threads - 1; spins++) {
    RELAX();
    if (spins > pool->patience) sched_yield();
  }
  atomic_store(&pool->done, 0);
}

/* Processors this process may use. */
static int processors(void) {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
#if defined(_WIN32)
  DWORD_PTR mine, all;
  return GetProcessAffinityMask(GetCurrentProcess(), &mine, &all) ? __builtin_popcountll(mine) : 1;
#else
  return (int)sysconf(_SC_NPROCESSORS_ONLN);
#endif
}

struct pool *pool_new(int threads) {
  struct pool *pool = aligned_alloc(64, (sizeof *pool + 63) / 64 * 64);
  if (!pool) return NULL;
  *pool = (struct pool){.threads = 1, .patience = threads > processors() ? SPINS_WHEN_CROWDED : SPINS};
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_cond_init(&pool->wake, NULL);
  pool->handles = calloc((size_t)threads, sizeof *pool->handles);
  for (; pool->handles && pool->threads < threads; pool->threads++) {
    struct member *member = malloc(sizeof *member);
    if (!member) break;
    *member = (struct member){pool, pool->threads};
    if (pthread_create(&pool->handles[pool->threads], NULL, serve, member)) {
      free(member);
      break;
    }
  }
  if (pool->handles && pool->threads == threads) return pool;
  pool_free(pool);
  return NULL;
}

void pool_free(struct pool *pool) {
  if (!pool) return;
  pool->stop = 1;
  announce(pool);
  for (int i = 1; i < pool->threads; i++) pthread_join(pool->handles[i], NULL);
  pthread_cond_destroy(&pool->wake);
  pthread_mutex_destroy(&pool->mutex);
  free(pool->handles);
  aligned_free(pool);
}
