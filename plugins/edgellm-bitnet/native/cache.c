/* Where a position's key and value lie, and slots as bytes.

[layer][slot][kv head]{keys, values, key scales, value scales} */
#include <string.h>

#include "engine.h"

static size_t cell_bytes(const struct engine *e) { return (size_t)e->dim * kv_bytes(e->cache.type); }

static size_t head_bytes(const struct engine *e) {
  return (size_t)e->cache.context * (2 * cell_bytes(e) + (e->cache.type == KV_I8 ? 2 * sizeof(float) : 0));
}

size_t bn_cache_bytes(const struct model *model, int32_t type, int32_t slots, int32_t context) {
  struct engine e = measured(model, 1, 1, context);
  e.cache.type = type;
  return head_bytes(&e) * (size_t)model->layers * (size_t)slots * (size_t)model->kv_heads;
}

struct kv kv_at(const struct engine *e, int32_t layer, int32_t slot, int32_t head) {
  const struct model *m = &e->model;
  size_t index = ((size_t)layer * (size_t)e->cache.slots + (size_t)slot) * (size_t)m->kv_heads + (size_t)head;
  uint8_t *base = e->cache.memory + index * head_bytes(e);
  size_t plane = (size_t)e->cache.context * cell_bytes(e);
  float *scales = (float *)(base + 2 * plane);
  return (struct kv){base, base + plane, scales, scales + e->cache.context};
}

/* The parts of one head's cache that hold the first n positions: whole blocks of positions, then the scales. */
typedef void copier(uint8_t *cache, uint8_t *bytes, size_t n);

static size_t each_part(const struct engine *e, int32_t slot, int32_t n, uint8_t *bytes, copier *copy) {
  size_t cells = (size_t)padded(n, KV_BLOCK), at = 0;
  for (int32_t layer = 0; layer < e->model.layers; layer++)
    for (int32_t head = 0; head < e->model.kv_heads; head++) {
      struct kv kv = kv_at(e, layer, slot, head);
      void *parts[] = {kv.keys, kv.values, kv.key_scales, kv.value_scales};
      for (int i = 0; i < (e->cache.type == KV_I8 ? 4 : 2); i++) {
        size_t size = cells * (i < 2 ? cell_bytes(e) : sizeof(float));
        if (copy) copy(parts[i], bytes + at, size);
        at += size;
      }
    }
  return at;
}

static void copy_out(uint8_t *cache, uint8_t *bytes, size_t n) { memcpy(bytes, cache, n); }
static void copy_in(uint8_t *cache, uint8_t *bytes, size_t n) { memcpy(cache, bytes, n); }

size_t bn_slot_bytes(const struct engine *e, int32_t n) { return each_part(e, 0, n, NULL, NULL); }
void bn_slot_save(const struct engine *e, int32_t slot, int32_t n, uint8_t *to) { each_part(e, slot, n, to, copy_out); }
void bn_slot_load(struct engine *e, int32_t slot, int32_t n, const uint8_t *from) {
  each_part(e, slot, n, (uint8_t *)from, copy_in);
}

void bn_fork(struct engine *e, int32_t source, int32_t target, int32_t n) {
  size_t cells = (size_t)padded(n, KV_BLOCK);
  for (int32_t layer = 0; layer < e->model.layers; layer++)
    for (int32_t head = 0; head < e->model.kv_heads; head++) {
      struct kv from = kv_at(e, layer, source, head), to = kv_at(e, layer, target, head);
      memcpy(to.keys, from.keys, cells * cell_bytes(e));
      memcpy(to.values, from.values, cells * cell_bytes(e));
      if (e->cache.type != KV_I8) continue;
      memcpy(to.key_scales, from.key_scales, cells * sizeof(float));
      memcpy(to.value_scales, from.value_scales, cells * sizeof(float));
    }
}
