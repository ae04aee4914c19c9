/* A model as the forward pass sees it. Python fills these structures; edgellm_bitnet/native.py mirrors them. The caller owns
all memory that they point to. */
#ifndef EDGELLM_BITNET_MODEL_H
#define EDGELLM_BITNET_MODEL_H

#include "kernels.h"

/* The inputs of a layer's seven products, for norms of their own (BitNet embedding models). */
enum input { IN_Q, IN_K, IN_V, IN_OUTPUT, IN_GATE, IN_UP, IN_DOWN, INPUTS };

/* Any norm may be NULL: it is left out. */
struct layer {
  const float *attn_norm, *attn_sub_norm, *post_attn_norm;
  const float *ffn_norm, *ffn_sub_norm, *post_ffn_norm;
  const float *q_norm, *k_norm; /* per head */
  const float *in_norm[INPUTS];
  const float *rope;  /* [context][rope_dim / 2][2]: cosine, sine */
  int32_t window;     /* positions a token sees, itself included; 0 = all */
  struct matrix qkv, output, gate_up, down; /* q, k, v: rows padded to PANEL each, one after the other; so gate, up */
};

/* What an adapter adds to one product: y += scale * B (A x). rank 0: nothing. */
struct side {
  const float *a; /* [rank][cols] */
  const float *b; /* [rank][rows padded to PANEL], the padding zero */
  int32_t rank;
};

enum { MAX_SIDES = 16 }; /* adapters in use at a time */

struct model {
  int32_t layers, hidden, ffn, heads, kv_heads, head_dim, vocab;
  int32_t rope_dim;  /* components that rotate, in pairs (i, i + rope_dim / 2) */
  int32_t gate;      /* enum gate */
  int32_t act_block; /* 0: one activation scale per token; 256: one per block */
  float eps;
  float query_scale; /* 1 / sqrt(head_dim) */
  float embed_scale; /* factor on the embedding */
  const struct layer *layer;
  struct matrix embed, head;
  const float *output_norm;
};

enum { CACHE_ALIGN = 2 * KV_BLOCK };

struct cache {
  int32_t type, slots, context; /* enum kv_type; positions a slot has room for, a multiple of CACHE_ALIGN */
  uint8_t *memory;              /* bn_cache_bytes() */
};

#endif
