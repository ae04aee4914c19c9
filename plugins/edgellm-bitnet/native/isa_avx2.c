/* AVX2, with FMA and F16C: every x86 processor from Haswell and Zen on.

vpmaddubsw adds pairs of u8 * s8 in 16 bits, and saturates. With codes up to 2 a pair is at most 2 * 2 * 128 = 512. The
pairs of a step's four columns add up to at most 2,048, so all four are added in 16 bits before vpmaddwd widens them. That
takes 9 operations for 128 products; widening each of the four would take 12. Full bytes (Q8) could saturate, so they are
widened first. */
#include <immintrin.h>

#include "kernels.h"

enum { TILE = 6, TILE_VECTORS = 1, DOT8_BIAS = 128 };
#define LANES_BY_STEP 1
#include "lanes256.inc.h"

IN vi widen(vi pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }
IN vi vi_dot(vi acc, vi u, vi s) { return vi_add(acc, widen(_mm256_maddubs_epi16(u, s))); }
IN vi vi_dot8(vi acc, vi u, vi s) {
  vi w = _mm256_xor_si256(u, _mm256_set1_epi8(-128));
  vi even = _mm256_madd_epi16(_mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), _mm256_srai_epi16(_mm256_slli_epi16(s, 8), 8));
  return vi_add(acc, vi_add(even, _mm256_madd_epi16(_mm256_srai_epi16(w, 8), _mm256_srai_epi16(s, 8))));
}
IN vi vi_dot4(vi acc, const vi *codes, const vi *a) {
  vi low = _mm256_add_epi16(_mm256_maddubs_epi16(codes[0], a[0]), _mm256_maddubs_epi16(codes[1], a[1]));
  vi high = _mm256_add_epi16(_mm256_maddubs_epi16(codes[2], a[2]), _mm256_maddubs_epi16(codes[3], a[3]));
  return vi_add(acc, widen(_mm256_add_epi16(low, high)));
}

typedef vi line; /* four times the sum */
IN line line_zero(void) { return vi_zero(); }
IN line line_dot(line l, vi codes, vi a0, vi a1, vi a2, vi a3) {
  vi up = _mm256_srli_epi16(codes, 4), low = vi_set1(0x03030303), high = vi_set1(0x0c0c0c0c);
  vi ones = _mm256_add_epi16(_mm256_maddubs_epi16(vi_and(codes, low), a0), _mm256_maddubs_epi16(vi_and(up, low), a2));
  vi fours = _mm256_add_epi16(_mm256_maddubs_epi16(vi_and(codes, high), a1), _mm256_maddubs_epi16(vi_and(up, high), a3));
  return vi_add(l, widen(_mm256_add_epi16(_mm256_slli_epi16(ones, 2), fours)));
}
IN vi line_sum(line l) { return _mm256_srai_epi32(l, 2); }

#include "kernels.inc.h"

KERNELS(avx2)
