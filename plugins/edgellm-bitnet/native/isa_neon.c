/* NEON of ARMv8.0: every 64-bit ARM processor has it. Cortex-A53, A57, A72 and A73 have nothing newer.

smull and smlal give 8 products in 16 bits. The codes of a step's four columns are at most 2, so the four products add up in
16 bits (at most 4 * 2 * 128 = 1,024). Then addp adds neighbouring sums of two vectors, and sadalp widens the result: 10
operations for 64 products.

The multiplier is the bottleneck: 8 of the 10 operations use it, and A72 has one such pipe. The 6 operations of unpacking
use the other pipe. To shift codes is as cheap here as to mask them: bytes shift separately, and the top field needs no
mask. Codes up to 127 are added in pairs, since 2 * 127 * 128 = 32,512 fits in 16 bits. Full bytes are not, since
2 * (-128)^2 does not fit. */
#include <arm_neon.h>

#include "kernels.h"

enum { TILE = 6, TILE_VECTORS = 2, DOT8_BIAS = 128 };
#define LANES_BY_STEP 1
#include "lanes_neon.inc.h"

IN int8x8_t low_of(vi x) { return vget_low_s8(vreinterpretq_s8_s32(x)); }
IN int8x8_t high_of(vi x) { return vget_high_s8(vreinterpretq_s8_s32(x)); }
IN vi fold(vi acc, int16x8_t low, int16x8_t high) { return vpadalq_s16(acc, vpaddq_s16(low, high)); }

IN vi vi_dot(vi acc, vi u, vi s) {
  return fold(acc, vmull_s8(low_of(u), low_of(s)), vmull_s8(high_of(u), high_of(s)));
}
IN vi vi_dot8(vi acc, vi u, vi s) {
  vi w = veorq_s32(u, vi_set1((int32_t)0x80808080));
  vi low = vpaddlq_s16(vmull_s8(low_of(w), low_of(s))), high = vpaddlq_s16(vmull_s8(high_of(w), high_of(s)));
  return vi_add(acc, vpaddq_s32(low, high));
}
IN vi vi_dot4(vi acc, const vi *codes, const vi *a) {
  int16x8_t low = vmull_s8(low_of(codes[0]), low_of(a[0])), high = vmull_s8(high_of(codes[0]), high_of(a[0]));
  low = vmlal_s8(low, low_of(codes[1]), low_of(a[1]));
  high = vmlal_s8(high, high_of(codes[1]), high_of(a[1]));
  low = vmlal_s8(low, low_of(codes[2]), low_of(a[2]));
  high = vmlal_s8(high, high_of(codes[2]), high_of(a[2]));
  low = vmlal_s8(low, low_of(codes[3]), low_of(a[3]));
  high = vmlal_s8(high, high_of(codes[3]), high_of(a[3]));
  return fold(acc, low, high);
}

typedef vi line;
IN line line_zero(void) { return vi_zero(); }
IN line line_dot(line l, vi codes, vi a0, vi a1, vi a2, vi a3) {
  vi mask = vi_set1(0x03030303);
  vi c[4] = {vi_and(codes, mask), vi_and(vi_shr8(codes, 2), mask), vi_and(vi_shr8(codes, 4), mask), vi_shr8(codes, 6)};
  vi a[4] = {a0, a1, a2, a3};
  return vi_dot4(l, c, a);
}
IN vi line_sum(line l) { return l; }

#include "kernels.inc.h"

KERNELS(neon)
