/* Sizes and offsets of the structures that Python mirrors with ctypes, and values of its constants. */
#include "bitnet.h"

#define STRUCT(type) {#type, 0, sizeof(struct type)}
#define FIELD(type, field) {#type "." #field, offsetof(struct type, field), sizeof(((struct type *)0)->field)}
#define CONSTANT(name) {#name, name, 0}

static const struct layout_entry entries[] = {
    STRUCT(matrix),
    FIELD(matrix, kind),
    FIELD(matrix, rows),
    FIELD(matrix, cols),
    FIELD(matrix, group),
    FIELD(matrix, data),
    FIELD(matrix, scales),
    FIELD(matrix, sub),
    STRUCT(layer),
    FIELD(layer, attn_norm),
    FIELD(layer, attn_sub_norm),
    FIELD(layer, post_attn_norm),
    FIELD(layer, ffn_norm),
    FIELD(layer, ffn_sub_norm),
    FIELD(layer, post_ffn_norm),
    FIELD(layer, q_norm),
    FIELD(layer, k_norm),
    FIELD(layer, in_norm),
    FIELD(layer, rope),
    FIELD(layer, window),
    FIELD(layer, qkv),
    FIELD(layer, output),
    FIELD(layer, gate_up),
    FIELD(layer, down),
    STRUCT(side),
    FIELD(side, a),
    FIELD(side, b),
    FIELD(side, rank),
    STRUCT(model),
    FIELD(model, layers),
    FIELD(model, hidden),
    FIELD(model, ffn),
    FIELD(model, heads),
    FIELD(model, kv_heads),
    FIELD(model, head_dim),
    FIELD(model, vocab),
    FIELD(model, rope_dim),
    FIELD(model, gate),
    FIELD(model, act_block),
    FIELD(model, eps),
    FIELD(model, query_scale),
    FIELD(model, embed_scale),
    FIELD(model, layer),
    FIELD(model, embed),
    FIELD(model, head),
    FIELD(model, output_norm),
    STRUCT(cache),
    FIELD(cache, type),
    FIELD(cache, slots),
    FIELD(cache, context),
    FIELD(cache, memory),
    CONSTANT(PANEL), CONSTANT(COLUMN_ALIGN), CONSTANT(SUB_COLUMNS), CONSTANT(CHUNK), CONSTANT(CACHE_ALIGN), CONSTANT(KV_SLICE),
    CONSTANT(TERNARY), CONSTANT(Q4), CONSTANT(Q6), CONSTANT(Q8), CONSTANT(F16), CONSTANT(BF16), CONSTANT(F32),
    CONSTANT(RELU2), CONSTANT(SILU), CONSTANT(GELU), CONSTANT(KV_F16), CONSTANT(KV_I8), CONSTANT(KV_F32), CONSTANT(INPUTS),
    CONSTANT(MAX_SIDES),
    CONSTANT(SRC_CODES), CONSTANT(SRC_I2_S), CONSTANT(SRC_I2_S_ARM), CONSTANT(SRC_TQ2_0), CONSTANT(SRC_TQ1_0),
    CONSTANT(SRC_Q2_0), CONSTANT(SRC_Q1_0), CONSTANT(SRC_PACKED),
};

const struct layout_entry *bn_layout(int32_t *count) {
  *count = sizeof entries / sizeof *entries;
  return entries;
}
