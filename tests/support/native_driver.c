/* Computes with the native libraries of a wheel where there is no Python for the machine: under wine, under musl's loader,
under qemu. It opens them as Python does, and writes float32 logits.

    driver llama FOLDER MODEL.gguf FILE     200 tokens; says which library computed, or ends with 3: none has code for this processor
    driver ternary LIBRARY FILE             a small model of its own, on each instruction set that runs here; says which

Compiled by native_driver.py for each target, against the headers of llama.cpp and of the ternary engine. */
#define _GNU_SOURCE
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitnet.h"
#include "ggml-backend.h"
#include "llama.h"

#if defined(_WIN32)
#include <windows.h>
#define FILE_NAME(base) base ".dll"
static void *load(const char *path) {
  char full[4096]; /* with a drive and backslashes: else nothing is looked for beside it */
  if (!GetFullPathNameA(path, sizeof full, full, NULL)) return NULL;
  return (void *)LoadLibraryExA(full, NULL, LOAD_LIBRARY_SEARCH_DEFAULT_DIRS | LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR);
}
static void *find(void *library, const char *name) { return (void *)GetProcAddress((HMODULE)library, name); }
static const char *file_of(void *address) {
  static char name[4096];
  HMODULE module = NULL;
  GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT, address, &module);
  return GetModuleFileNameA(module, name, sizeof name) ? name : "";
}
#else
#include <dlfcn.h>
#define FILE_NAME(base) "lib" base ".so"
static void *load(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) fprintf(stderr, "%s\n", dlerror());
  return library;
}
static void *find(void *library, const char *name) { return dlsym(library, name); }
static const char *file_of(void *address) {
  Dl_info about = {0};
  return dladdr(address, &about) && about.dli_fname ? about.dli_fname : "";
}
#endif

enum { PARTS = 14, ROOM = 256, NOTHING_COMPUTES = 3 };
static const int parts[PARTS] = {32, 32, 32, 32, 32, 32, 1, 1, 1, 1, 1, 1, 1, 1}; /* as a prompt comes, then an answer */

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static void *opened(const char *folder, const char *name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return load(path);
}

/* libllama's handle finds what it needs on Linux; on Windows each library tells of its own functions alone. */
static void *libraries[3];

static void *function(const char *name) {
  for (int i = 0; i < 3; i++) {
    void *address = libraries[i] ? find(libraries[i], name) : NULL;
    if (address) return address;
  }
  fail(name);
  return NULL;
}
#define OF(name) ((__typeof__(&name))function(#name))

static uint32_t state = 1;
static uint32_t number(void) { return (state = state * 1664525u + 1013904223u) >> 8; } /* 24 bits; Numerical Recipes */
static float real(void) { return (float)number() / 8388608.0f - 1; }                   /* in [-1, 1) */

static void write_rows(FILE *file, const float *rows, size_t n) {
  if (fwrite(rows, sizeof *rows, n, file) != n) fail("cannot write");
}

static void quiet(enum ggml_log_level level, const char *text, void *data) {
  (void)data;
  if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static void llama(const char *folder, const char *model_path, const char *target) {
  libraries[0] = opened(folder, FILE_NAME("llama"));
  if (!libraries[0]) libraries[0] = opened(folder, "libllama.dll"); /* as MinGW calls it */
  libraries[1] = opened(folder, FILE_NAME("ggml"));
  libraries[2] = opened(folder, FILE_NAME("ggml-base"));
  OF(llama_log_set)(quiet, NULL);
  OF(llama_backend_init)();
  OF(ggml_backend_load_all_from_path)(folder);
  ggml_backend_dev_t cpu = OF(ggml_backend_dev_by_type)(GGML_BACKEND_DEVICE_TYPE_CPU);
  if (!cpu) exit(NOTHING_COMPUTES);
  void *of_cpu = OF(ggml_backend_reg_get_proc_address)(OF(ggml_backend_dev_backend_reg)(cpu), "ggml_backend_get_features");
  struct llama_model_params model_params = OF(llama_model_default_params)();
  struct llama_model *model = OF(llama_model_load_from_file)(model_path, model_params);
  if (!model) fail("the model does not load");
  struct llama_context_params params = OF(llama_context_default_params)();
  params.n_ctx = ROOM;
  params.n_threads = params.n_threads_batch = 2;
  struct llama_context *context = OF(llama_init_from_model)(model, params);
  if (!context) fail("no context");
  int vocab = OF(llama_vocab_n_tokens)(OF(llama_model_get_vocab)(model)), position = 0;
  struct llama_batch batch = OF(llama_batch_init)(32, 0, 1);
  FILE *file = fopen(target, "wb");
  if (!file) fail(target);
  for (int part = 0; part < PARTS; part++) {
    batch.n_tokens = parts[part];
    for (int i = 0; i < parts[part]; i++, position++) {
      batch.token[i] = (llama_token)(number() % (uint32_t)vocab);
      batch.pos[i] = position;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = 1;
    }
    if (OF(llama_decode)(context, batch)) fail("llama_decode failed");
    for (int i = 0; i < parts[part]; i++) write_rows(file, OF(llama_get_logits_ith)(context, i), (size_t)vocab);
  }
  fclose(file);
  OF(llama_batch_free)(batch);
  OF(llama_free)(context);
  OF(llama_model_free)(model);
  puts(file_of(of_cpu));
}

enum { LAYERS = 2, HIDDEN = 256, FFN = 512, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 64, VOCAB = 512 };

static void *room(size_t bytes) {
  void *memory = OF(bn_memory_new)(bytes);
  if (!memory) fail("out of memory");
  return memory;
}

static struct matrix ternary_matrix(int32_t rows, int32_t cols) {
  struct matrix m = {TERNARY, rows, cols, 0, NULL, NULL, NULL};
  m.data = room(panel_bytes(&m) * (size_t)(padded(rows, PANEL) / PANEL));
  m.scales = room((size_t)padded(rows, PANEL) * sizeof(float));
  uint8_t *codes = malloc((size_t)rows * (size_t)cols);
  for (int32_t i = 0; i < rows * cols; i++) codes[i] = (uint8_t)(number() % 3);
  if (OF(bn_pack_ternary)(SRC_CODES, codes, rows, cols, &m, 0, 0.0625f, 2)) fail("a code that is none");
  free(codes);
  return m;
}

static float *reals(size_t n, float around, float by) {
  float *values = room(n * sizeof *values);
  for (size_t i = 0; i < n; i++) values[i] = around + by * real();
  return values;
}

/* Turns by an angle whose cosine and sine are exact: no C library computes them. */
static float *turns(void) {
  float *table = room(ROOM * HEAD_DIM * sizeof *table);
  for (int position = 0; position < ROOM; position++)
    for (int i = 0; i < HEAD_DIM / 2; i++) {
      int turned = (position >> i % 8) & 1;
      table[position * HEAD_DIM + 2 * i] = turned ? 0.75f : 1;
      table[position * HEAD_DIM + 2 * i + 1] = turned ? 0.625f : 0;
    }
  return table;
}

static void ternary(const char *path, const char *target) {
  libraries[0] = load(path);
  if (!libraries[0]) fail(path);
  struct layer layers[LAYERS] = {0};
  float *rope = turns();
  for (int i = 0; i < LAYERS; i++) {
    layers[i].attn_norm = reals(HIDDEN, 1, 0.25f);
    layers[i].ffn_norm = reals(HIDDEN, 1, 0.25f);
    layers[i].attn_sub_norm = reals(HEADS * HEAD_DIM, 1, 0.25f);
    layers[i].ffn_sub_norm = reals(FFN, 1, 0.25f);
    layers[i].rope = rope;
    layers[i].qkv = ternary_matrix((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN);
    layers[i].output = ternary_matrix(HIDDEN, HEADS * HEAD_DIM);
    layers[i].gate_up = ternary_matrix(2 * FFN, HIDDEN);
    layers[i].down = ternary_matrix(HIDDEN, FFN);
  }
  struct matrix head = {F32, VOCAB, HIDDEN, 0, (uint8_t *)reals(VOCAB * HIDDEN, 0, 1), NULL, NULL};
  struct model model = {
      .layers = LAYERS, .hidden = HIDDEN, .ffn = FFN, .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = HEAD_DIM,
      .vocab = VOCAB, .rope_dim = HEAD_DIM, .gate = RELU2, .eps = 1e-5f, .query_scale = 0.125f, .embed_scale = 1,
      .layer = layers, .embed = head, .head = head, .output_norm = reals(HIDDEN, 1, 0.25f),
  };
  int32_t tokens[200], slots[200] = {0}, positions[200];
  uint8_t wants[200];
  for (int i = 0; i < 200; i++) {
    tokens[i] = (int32_t)(number() % VOCAB);
    positions[i] = i;
    wants[i] = 1;
  }
  FILE *file = fopen(target, "wb");
  if (!file) fail(target);
  float *logits = malloc(32 * VOCAB * sizeof *logits);
  for (int32_t isa = 0; isa < OF(bn_isa_count)(); isa++) {
    if (!OF(bn_isa_usable)(isa)) continue;
    struct cache cache = {KV_F16, 1, ROOM, NULL};
    size_t bytes = OF(bn_cache_bytes)(&model, cache.type, cache.slots, cache.context);
    cache.memory = room(bytes);
    struct engine *engine = OF(bn_engine_new)(&model, &cache, isa, 32, 2);
    if (!engine) fail("no engine");
    for (int part = 0, at = 0; part < PARTS; at += parts[part++]) {
      OF(bn_step)(engine, parts[part], tokens + at, slots + at, positions + at, wants, 2, logits);
      write_rows(file, logits, (size_t)parts[part] * VOCAB);
    }
    OF(bn_engine_free)(engine);
    OF(bn_memory_free)(cache.memory, bytes);
    printf("%s ", OF(bn_isa_name)(isa));
  }
  puts("");
  fclose(file);
}

int main(int count, char **arguments) {
  if (count == 5 && !strcmp(arguments[1], "llama"))
    llama(arguments[2], arguments[3], arguments[4]);
  else if (count == 4 && !strcmp(arguments[1], "ternary"))
    ternary(arguments[2], arguments[3]);
  else
    fail("driver llama FOLDER MODEL.gguf FILE | driver ternary LIBRARY FILE");
  return 0;
}
