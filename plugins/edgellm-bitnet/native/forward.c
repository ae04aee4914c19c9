/* The forward pass: one job of the thread pool for each batch, with barriers between its phases.

The phases of a layer:
    add, norm, quantize
    q, k and v
    cache and attend, by KV head and token
    sub-norm, quantize
    output product
    add, norm, quantize
    gate and up, then the gate's function
    sub-norm, quantize
    down product

In a product, each thread takes whole panels of rows. In the phase after it, the thread takes the same columns, where the
model allows that (inputs.c). No phase's result for a token depends on the other tokens of the batch. So a batch gives the
same bits as its tokens one by one. */
#include "engine.h"

static void attention_half(struct engine *e, int32_t layer, int thread, int threads, float *work) {
  const struct model *m = &e->model;
  const struct layer *l = &m->layer[layer];
  int32_t qkv[] = {q_rows(m), kv_rows(m), kv_rows(m)};
  size_t hidden = (size_t)m->hidden, width = (size_t)q_cols(m), narrow = (size_t)padded(m->hidden, PANEL);
  struct gemm_input x = {.x = e->x, .stride = hidden}, attended = {.x = e->attended, .stride = width, .shared = 1};
  if (layer) {
    x.add = e->narrow;
    x.add_stride = narrow;
    x.post = m->layer[layer - 1].post_ffn_norm;
  }
  quantize_input(e, IN_Q, 3, &x, l->attn_norm, &l->in_norm[IN_Q], thread, threads, work);
  side_down(e, layer, IN_Q, 3, &x, l->attn_norm, thread, threads, work);
  product(e, &l->qkv, qkv, 3, IN_Q, l->in_norm[IN_Q] != NULL, e->wide, (size_t)qkv_rows(m), thread, threads);
  side_up(e, layer, IN_Q, qkv, 3, e->wide, (size_t)qkv_rows(m), thread, threads);
  pool_wait(e->pool);
  attention(e, layer, thread, threads, work);
  quantize_input(e, IN_OUTPUT, 1, &attended, l->attn_sub_norm, &l->in_norm[IN_OUTPUT], thread, threads, work);
  side_down(e, layer, IN_OUTPUT, 1, &attended, l->attn_sub_norm, thread, threads, work);
  product(e, &l->output, &m->hidden, 1, IN_OUTPUT, 0, e->narrow, narrow, thread, threads);
  side_up(e, layer, IN_OUTPUT, &m->hidden, 1, e->narrow, narrow, thread, threads);
}

static void ffn_half(struct engine *e, int32_t layer, int thread, int threads, float *work) {
  const struct model *m = &e->model;
  const struct layer *l = &m->layer[layer];
  int32_t rows = padded(m->ffn, PANEL), both[] = {rows, rows};
  size_t narrow = (size_t)padded(m->hidden, PANEL), wide = 2 * (size_t)rows;
  struct gemm_input x = {.x = e->x, .stride = (size_t)m->hidden, .add = e->narrow, .add_stride = narrow,
                     .post = l->post_attn_norm};
  struct gemm_input gated = {.x = e->wide, .stride = wide};
  quantize_input(e, IN_GATE, 2, &x, l->ffn_norm, &l->in_norm[IN_GATE], thread, threads, work);
  side_down(e, layer, IN_GATE, 2, &x, l->ffn_norm, thread, threads, work);
  product(e, &l->gate_up, both, 2, IN_GATE, l->in_norm[IN_GATE] != NULL, e->wide, wide, thread, threads);
  side_up(e, layer, IN_GATE, both, 2, e->wide, wide, thread, threads);
  struct span own = own_panels(rows, thread, threads);
  for (int32_t t = 0; t < e->n; t++) {
    float *gate = e->wide + (size_t)t * wide + own.first * PANEL;
    e->kernels->gate(gate, gate, gate + rows, (own.last - own.first) * PANEL, m->gate);
  }
  quantize_input(e, IN_DOWN, 1, &gated, l->ffn_sub_norm, &l->in_norm[IN_DOWN], thread, threads, work);
  side_down(e, layer, IN_DOWN, 1, &gated, l->ffn_sub_norm, thread, threads, work);
  product(e, &l->down, &m->hidden, 1, IN_DOWN, 0, e->narrow, narrow, thread, threads);
  side_up(e, layer, IN_DOWN, &m->hidden, 1, e->narrow, narrow, thread, threads);
}

/* The rows that are wanted move to the front, in order. Then comes the head. */
static void head_phase(struct engine *e, int thread, int threads, float *work) {
  const struct model *m = &e->model;
  int32_t first, last, wanted = 0;
  share(e->n_wanted, thread, threads, &first, &last);
  for (int32_t t = 0; t < e->n; t++) {
    if (!e->wants[t]) continue;
    if (wanted >= first && wanted < last) {
      const float *x = e->x + (size_t)t * (size_t)m->hidden;
      float *to = e->want_hidden ? e->out + (size_t)wanted * (size_t)m->hidden
                  : m->head.kind > Q8 ? e->head_activations.real + (size_t)wanted * (size_t)m->hidden : work;
      e->kernels->norm(to, x, m->output_norm, m->hidden, m->eps);
      if (!e->want_hidden && m->head.kind <= Q8) e->kernels->quantize(to, &e->head_activations, wanted);
    }
    wanted++;
  }
  if (e->want_hidden) return;
  pool_wait(e->pool);
  share(panels_of(m->vocab), thread, threads, &first, &last);
  e->kernels->matmul(&m->head, first, last, &e->head_activations, e->out, (size_t)padded(m->vocab, PANEL));
}

static void forward(void *argument, int thread, int threads) {
  struct engine *e = argument;
  const struct model *m = &e->model;
  float *work = e->work + (size_t)thread * 2 * (size_t)activation_columns(m);
  size_t hidden = (size_t)m->hidden, narrow = (size_t)padded(m->hidden, PANEL);
  int32_t first, last;
  share(e->n, thread, threads, &first, &last);
  for (int32_t t = first; t < last; t++) {
    float *x = e->x + (size_t)t * hidden;
    bn_row(&m->embed, e->tokens[t], x);
    if (m->embed_scale != 1) for (size_t i = 0; i < hidden; i++) x[i] *= m->embed_scale;
  }
  pool_wait(e->pool);
  for (int32_t layer = 0; layer < m->layers; layer++) {
    attention_half(e, layer, thread, threads, work);
    ffn_half(e, layer, thread, threads, work);
  }
  pool_wait(e->pool);
  struct gemm_input x = {.x = e->x, .stride = hidden, .add = e->narrow, .add_stride = narrow,
                     .post = m->layer[m->layers - 1].post_ffn_norm};
  for (int32_t t = first; t < last; t++) add_residual(e, &x, t, work);
  pool_wait(e->pool);
  if (e->n_wanted) head_phase(e, thread, threads, work);
}

static void set_activations(const struct engine *e, struct activations *activations, int32_t tokens) {
  int32_t tiles = (tokens + e->kernels->max_tile - 1) / e->kernels->max_tile;
  activations->tokens = tokens;
  activations->tile = tiles ? (tokens + tiles - 1) / tiles : 1;
}

static int32_t run(struct engine *e, int32_t n, const int32_t *tokens, const int32_t *slots, const int32_t *positions,
                   const uint8_t *wants, int32_t threads, float *out, int32_t want_hidden) {
  size_t row = (size_t)(want_hidden ? e->model.hidden : padded(e->model.vocab, PANEL));
  threads = smaller(threads, e->threads);
  for (int32_t from = 0; from < n; from += e->batch) {
    e->n = smaller(n - from, e->batch);
    e->tokens = tokens + from;
    e->slots = slots + from;
    e->positions = positions + from;
    e->wants = wants + from;
    e->want_hidden = want_hidden;
    e->out = out;
    e->n_wanted = 0;
    for (int32_t i = 0; i < e->n; i++) e->n_wanted += e->wants[i] != 0;
    for (int i = 0; i < INPUTS; i++) set_activations(e, &e->activations[i], e->n);
    set_activations(e, &e->head_activations, e->n_wanted);
    plan_attention(e, threads);
    pool_run(e->pool, threads, forward, e);
    out += (size_t)e->n_wanted * row;
  }
  return 0;
}

int32_t bn_step(struct engine *e, int32_t n, const int32_t *tokens, const int32_t *slots, const int32_t *positions,
                const uint8_t *wants, int32_t threads, float *logits) {
  return run(e, n, tokens, slots, positions, wants, threads, logits, 0);
}

int32_t bn_hidden(struct engine *e, int32_t n, const int32_t *tokens, const int32_t *slots, const int32_t *positions,
                  const uint8_t *wants, int32_t threads, float *hidden) {
  return run(e, n, tokens, slots, positions, wants, threads, hidden, 1);
}
