/* SSSE3 and SSE4.1: processors before Haswell, and Atom and Celeron. There is no FMA, so a product and a sum round twice.
There is no conversion of half precision, so it is done with integer operations. Products are computed as in isa_avx2.c. */
#include <smmintrin.h>
#include <tmmintrin.h>

#include "kernels.h"

enum { TILE = 6, TILE_VECTORS = 1, DOT8_BIAS = 128 };
#define VB 16
#define LANES_BY_STEP 1
typedef __m128i vi;
typedef __m128 vf;

#define IN static inline __attribute__((always_inline))
IN vi vi_load(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
IN vi vi_zero(void) { return _mm_setzero_si128(); }
IN vi vi_set1(int32_t x) { return _mm_set1_epi32(x); }
IN vi vi_bcast4(const void *p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return _mm_set1_epi32(x);
}
IN vi vi_add(vi a, vi b) { return _mm_add_epi32(a, b); }
IN vi vi_sub(vi a, vi b) { return _mm_sub_epi32(a, b); }
IN vi vi_and(vi a, vi b) { return _mm_and_si128(a, b); }
IN vi vi_or(vi a, vi b) { return _mm_or_si128(a, b); }
IN vi vi_shr(vi a, int n) { return _mm_srli_epi32(a, n); }
IN vi vi_shl(vi a, int n) { return _mm_slli_epi32(a, n); }
IN vi widen(vi pairs) { return _mm_madd_epi16(pairs, _mm_set1_epi16(1)); }
IN vi vi_dot(vi acc, vi u, vi s) { return vi_add(acc, widen(_mm_maddubs_epi16(u, s))); }
IN vi vi_dot8(vi acc, vi u, vi s) {
  vi w = _mm_xor_si128(u, _mm_set1_epi8(-128));
  vi even = _mm_madd_epi16(_mm_srai_epi16(_mm_slli_epi16(w, 8), 8), _mm_srai_epi16(_mm_slli_epi16(s, 8), 8));
  return vi_add(acc, vi_add(even, _mm_madd_epi16(_mm_srai_epi16(w, 8), _mm_srai_epi16(s, 8))));
}
IN vi vi_dot4(vi acc, const vi *codes, const vi *a) {
  vi low = _mm_add_epi16(_mm_maddubs_epi16(codes[0], a[0]), _mm_maddubs_epi16(codes[1], a[1]));
  vi high = _mm_add_epi16(_mm_maddubs_epi16(codes[2], a[2]), _mm_maddubs_epi16(codes[3], a[3]));
  return vi_add(acc, widen(_mm_add_epi16(low, high)));
}

typedef vi line; /* four times the sum */
IN line line_zero(void) { return vi_zero(); }
IN line line_dot(line l, vi codes, vi a0, vi a1, vi a2, vi a3) {
  vi up = _mm_srli_epi16(codes, 4), low = vi_set1(0x03030303), high = vi_set1(0x0c0c0c0c);
  vi ones = _mm_add_epi16(_mm_maddubs_epi16(vi_and(codes, low), a0), _mm_maddubs_epi16(vi_and(up, low), a2));
  vi fours = _mm_add_epi16(_mm_maddubs_epi16(vi_and(codes, high), a1), _mm_maddubs_epi16(vi_and(up, high), a3));
  return vi_add(l, widen(_mm_add_epi16(_mm_slli_epi16(ones, 2), fours)));
}
IN vi line_sum(line l) { return _mm_srai_epi32(l, 2); }

IN vf vf_load(const float *p) { return _mm_loadu_ps(p); }
IN void vf_store(float *p, vf x) { _mm_storeu_ps(p, x); }
IN vf vf_zero(void) { return _mm_setzero_ps(); }
IN vf vf_set1(float x) { return _mm_set1_ps(x); }
IN vf vf_add(vf a, vf b) { return _mm_add_ps(a, b); }
IN vf vf_sub(vf a, vf b) { return _mm_sub_ps(a, b); }
IN vf vf_mul(vf a, vf b) { return _mm_mul_ps(a, b); }
IN vf vf_div(vf a, vf b) { return _mm_div_ps(a, b); }
IN vf vf_max(vf a, vf b) { return _mm_max_ps(a, b); }
IN vf vf_fma(vf a, vf b, vf c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
IN vf vf_from_i(vi x) { return _mm_cvtepi32_ps(x); }
IN vi vi_from_f(vf x) { return _mm_cvtps_epi32(x); }
IN vf vf_pow2(vi n) { return _mm_castsi128_ps(vi_shl(vi_add(n, vi_set1(127)), 23)); }

/* A product moves the exponent, which also makes subnormal halves normal. Infinity and NaN keep their exponent. */
IN vf vf_half(const uint16_t *p) {
  vi h = _mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)p)), rest = vi_and(h, vi_set1(0x7fff));
  vf scaled = vf_mul(_mm_castsi128_ps(vi_shl(rest, 13)), _mm_castsi128_ps(vi_set1((254 - 15) << 23)));
  vi special = vi_and(_mm_cmpgt_epi32(rest, vi_set1(0x7bff)), vi_set1(0xff << 23));
  return _mm_castsi128_ps(vi_or(vi_or(_mm_castps_si128(scaled), special), vi_shl(vi_and(h, vi_set1(0x8000)), 16)));
}
/* A power of two is added that is so large that the sum is rounded at the last bit of the half. */
IN void vf_put_half(uint16_t *p, vf x) {
  vi bits = _mm_castps_si128(x), sign = vi_and(vi_shr(bits, 16), vi_set1(0x8000)), rest = vi_and(bits, vi_set1(0x7fffffff));
  vi odd = vi_and(vi_shr(rest, 13), vi_set1(1));
  vi normal = vi_shr(vi_sub(vi_add(vi_add(rest, vi_set1(0xfff)), odd), vi_set1(112 << 23)), 13);
  vi small = vi_sub(_mm_castps_si128(vf_add(_mm_castsi128_ps(rest), vf_set1(0.5f))), vi_set1(0x3f000000));
  vi infinite = vi_set1(0x7c00);
  vi half = _mm_blendv_epi8(normal, small, _mm_cmplt_epi32(rest, vi_set1(0x38800000)));
  half = _mm_blendv_epi8(half, infinite, _mm_cmpgt_epi32(rest, vi_set1(0x477fefff)));
  half = _mm_blendv_epi8(half, vi_set1(0x7e00), _mm_cmpgt_epi32(rest, vi_set1(0x7f800000)));
  half = vi_or(half, sign);
  _mm_storel_epi64((__m128i *)p, _mm_packus_epi32(half, half));
}
IN vf vf_bf16(const uint16_t *p) {
  return _mm_castsi128_ps(vi_shl(_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)p)), 16));
}
IN vf vf_s8(const int8_t *p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return vf_from_i(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(x)));
}
IN void vi_put_s8(int8_t *p, vi x) {
  vi words = _mm_packs_epi32(x, x);
  int32_t bytes = _mm_cvtsi128_si32(_mm_packs_epi16(words, words));
  __builtin_memcpy(p, &bytes, 4);
}
IN float vf_sum(vf x) {
  x = vf_add(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
IN float vf_peak(vf x) {
  x = vf_max(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}

#include "kernels.inc.h"

KERNELS(sse41)
