/* The plain C interface of the ternary engine. Only bn_engine_new keeps pointers beyond its call. */
#ifndef EDGELLM_BITNET_H
#define EDGELLM_BITNET_H

#include "model.h"

#if defined(_WIN32)
#define API __declspec(dllexport)
#else
#define API __attribute__((visibility("default")))
#endif

enum { BN_ABI = 4 };
API int32_t bn_abi(void);

/* What native.py mirrors, as the compiler laid it out: a structure (offset 0), one of its fields, or a constant (its
value as the offset, 0 bytes). */
struct layout_entry {
  const char *name; /* "matrix", "matrix.kind", "PANEL" */
  int32_t offset, bytes;
};
API const struct layout_entry *bn_layout(int32_t *count);

/* Instruction sets compiled in, best first; usable means by this processor and operating system. */
API int32_t bn_isa_count(void);
API const char *bn_isa_name(int32_t isa);
API int32_t bn_isa_usable(int32_t isa);
API int32_t bn_isa_tile(int32_t isa);

/* Sources of ternary weights: rows of `cols` weights. Bytes of a row, and where they lie, as in each format. */
enum source {
  SRC_CODES = 0,    /* one byte a weight, {0, 1, 2} */
  SRC_I2_S = 1,     /* 128 weights in 32 bytes, over the whole tensor */
  SRC_I2_S_ARM = 2, /* 64 weights in 16 bytes */
  SRC_TQ2_0 = 3,
  SRC_TQ1_0 = 4,
  SRC_Q2_0 = 5,
  SRC_Q1_0 = 6,
  SRC_PACKED = 7, /* Hugging Face: uint8 [rows / 4][cols], bits 2i+1..2i = row i * rows / 4 + r */
};

/* Repack `rows` rows of `from` to the rows from `row` on of the matrix `to` (its data and scales are written). With
to->group 0, `scale` becomes the scale of every row and block scales in the source are ignored; else block scales are
carried over. Returns 0, or 1 + the index of the first weight that has code 3. */
API int64_t bn_pack_ternary(int32_t source, const uint8_t *from, int32_t rows, int32_t cols, const struct matrix *to,
                            int32_t row, float scale, int32_t threads);
/* 1 and *scale where every block that holds a weight other than zero has the same scale, else 0. */
API int32_t bn_one_scale(int32_t source, const uint8_t *from, int32_t rows, int32_t cols, float *scale);
/* Sources of heads and embeddings, for Q4 (Q4_0), Q6 (Q6_K), Q8 (Q8_0), F16, BF16, F32 matrices: carried over exactly. */
API int32_t bn_pack_blocks(const uint8_t *from, int32_t rows, int32_t cols, const struct matrix *to, int32_t threads);
/* Quantize float rows to an int8 (Q8, group 0), Q6 (group 256) or Q4 (group 32) matrix, whose columns are whole groups.
0: done; else out of memory. */
API int32_t bn_pack_real(const float *from, int32_t rows, const struct matrix *to, int32_t row);
/* One row as floats. */
API void bn_row(const struct matrix *from, int32_t row, float *to);

/* y[tokens][padded rows] = W x. Quantizes x first; with `again` > 0 repeats the product alone that often and returns its
seconds per pass. */
API double bn_matmul(int32_t isa, const struct matrix *w, const float *x, int32_t tokens, int32_t block, float *y,
                     int32_t threads, int32_t again);
/* The integer sums alone, of quantized activations given as they are: out[tokens][padded rows]. */
API int32_t bn_integer_sums(int32_t isa, const struct matrix *w, const int8_t *q, int32_t tokens, int32_t *out);

/* Memory in 2 MiB pages where the system gives them. NULL: out of memory. */
API void *bn_memory_new(size_t bytes);
API void bn_memory_free(void *memory, size_t bytes);

API size_t bn_cache_bytes(const struct model *model, int32_t type, int32_t slots, int32_t context);
API size_t bn_scratch_bytes(const struct model *model, int32_t batch, int32_t threads, int32_t context);

struct engine;
/* Keeps the pointers in model and cache (the structures themselves are copied). NULL: out of memory or threads. */
API struct engine *bn_engine_new(const struct model *model, const struct cache *cache, int32_t isa, int32_t batch,
                                 int32_t threads);
API void bn_engine_free(struct engine *engine);

/* From the next step on, add these adapters to the products: n arrays of side[layers][INPUTS], which the caller keeps. Not
for models whose products have norms of their own (in_norm). 0, or 1: too many, or out of memory; then none is in use. */
API int32_t bn_use(struct engine *engine, int32_t n, const struct side *const *sides, const float *scales);

/* Run n tokens, those of one slot in order. wants[i] != 0: a row of logits (bn_step) for it. Returns 0. */
API int32_t bn_step(struct engine *engine, int32_t n, const int32_t *tokens, const int32_t *slots,
                    const int32_t *positions, const uint8_t *wants, int32_t threads, float *logits);
/* The same, the wanted rows being final hidden states [hidden], after the last norm. */
API int32_t bn_hidden(struct engine *engine, int32_t n, const int32_t *tokens, const int32_t *slots,
                      const int32_t *positions, const uint8_t *wants, int32_t threads, float *hidden);
/* Copy the first n positions of one slot to another. */
API void bn_fork(struct engine *engine, int32_t source, int32_t target, int32_t n);
/* The first n positions of a slot as bytes: bn_slot_bytes of them, the same on every processor. */
API size_t bn_slot_bytes(const struct engine *engine, int32_t n);
API void bn_slot_save(const struct engine *engine, int32_t slot, int32_t n, uint8_t *to);
API void bn_slot_load(struct engine *engine, int32_t slot, int32_t n, const uint8_t *from);

#endif
