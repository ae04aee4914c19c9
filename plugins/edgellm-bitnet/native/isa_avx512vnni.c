/* AVX-512 with VNNI (Ice Lake, Zen 4 and later). Needs avx512f, avx512bw, avx512vl, avx512vnni.

vpdpbusd adds four u8 * s8 to a lane, so one instruction does 64 products. Zen 4 runs one a cycle, Zen 5 and Intel two. The
32 registers hold a tile of 2 x 12 accumulators. On Intel the masking instructions share two ports with the products,
which costs about 13 %. */
#include <immintrin.h>

#include "kernels.h"

enum { TILE = 12, TILE_VECTORS = 2, DOT8_BIAS = 0 };
#define VB 64
#define LANES_BY_STEP 0
typedef __m512i vi;
typedef __m512 vf;

#define IN static inline __attribute__((always_inline))
IN vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
IN vi vi_zero(void) { return _mm512_setzero_si512(); }
IN vi vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
IN vi vi_bcast4(const void *p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return _mm512_set1_epi32(x);
}
IN vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
IN vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
IN vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
IN vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
IN vi vi_shr(vi a, int n) { return _mm512_srli_epi32(a, n); }
IN vi vi_shl(vi a, int n) { return _mm512_slli_epi32(a, n); }
IN vi vi_dot(vi acc, vi u, vi s) { return _mm512_dpbusd_epi32(acc, u, s); }
IN vi vi_dot8(vi acc, vi u, vi s) { return _mm512_dpbusd_epi32(acc, u, s); }

typedef struct {
  vi a[4];
} line;
IN line line_zero(void) { return (line){{vi_zero(), vi_zero(), vi_zero(), vi_zero()}}; }
IN line line_dot(line l, vi codes, vi a0, vi a1, vi a2, vi a3) {
  l.a[0] = vi_dot(l.a[0], vi_and(codes, vi_set1(0x03030303)), a0);
  l.a[1] = vi_dot(l.a[1], vi_and(codes, vi_set1(0x0c0c0c0c)), a1);
  l.a[2] = vi_dot(l.a[2], vi_and(codes, vi_set1(0x30303030)), a2);
  l.a[3] = vi_dot(l.a[3], vi_and(codes, vi_set1((int32_t)0xc0c0c0c0)), a3);
  return l;
}
IN vi line_sum(line l) {
  return vi_add(vi_add(l.a[0], _mm512_srai_epi32(l.a[1], 2)),
                vi_add(_mm512_srai_epi32(l.a[2], 4), _mm512_srai_epi32(l.a[3], 6)));
}

IN vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
IN void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
IN vf vf_zero(void) { return _mm512_setzero_ps(); }
IN vf vf_set1(float x) { return _mm512_set1_ps(x); }
IN vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
IN vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
IN vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
IN vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
IN vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
IN vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
IN vf vf_from_i(vi x) { return _mm512_cvtepi32_ps(x); }
IN vi vi_from_f(vf x) { return _mm512_cvtps_epi32(x); }
IN vf vf_pow2(vi n) { return _mm512_castsi512_ps(vi_shl(vi_add(n, vi_set1(127)), 23)); }
IN vf vf_half(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
IN void vf_put_half(uint16_t *p, vf x) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, 0)); }
IN vf vf_bf16(const uint16_t *p) {
  return _mm512_castsi512_ps(vi_shl(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
IN vf vf_s8(const int8_t *p) { return vf_from_i(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p))); }
IN void vi_put_s8(int8_t *p, vi x) { _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(x)); }
IN float vf_sum(vf x) { return _mm512_reduce_add_ps(x); }
IN float vf_peak(vf x) { return _mm512_reduce_max_ps(x); }

#include "kernels.inc.h"

KERNELS(avx512vnni)
