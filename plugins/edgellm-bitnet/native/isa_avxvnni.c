/* AVX-VNNI: vpdpbusd on 256-bit vectors for processors without AVX-512 (Alder Lake and later, Zen 5).

With EVEX_ENCODING the same source uses the 256-bit instructions of AVX-512 VNNI, which compute the same. So the arithmetic
can be tested on processors that have AVX-512 VNNI only. */
#include <immintrin.h>

#include "kernels.h"

enum { TILE = 6, TILE_VECTORS = 2, DOT8_BIAS = 0 };
#define LANES_BY_STEP 0
#include "lanes256.inc.h"

#ifdef EVEX_ENCODING
#define DPBUSD _mm256_dpbusd_epi32
#else
#define DPBUSD _mm256_dpbusd_avx_epi32
#endif
IN vi vi_dot(vi acc, vi u, vi s) { return DPBUSD(acc, u, s); }
IN vi vi_dot8(vi acc, vi u, vi s) { return DPBUSD(acc, u, s); }

typedef struct {
  vi ones, fours;
} line;
IN line line_zero(void) { return (line){vi_zero(), vi_zero()}; }
IN line line_dot(line l, vi codes, vi a0, vi a1, vi a2, vi a3) {
  vi up = vi_shr(codes, 4), low = vi_set1(0x03030303), high = vi_set1(0x0c0c0c0c);
  l.ones = vi_dot(l.ones, vi_and(codes, low), a0);
  l.fours = vi_dot(l.fours, vi_and(codes, high), a1);
  l.ones = vi_dot(l.ones, vi_and(up, low), a2);
  l.fours = vi_dot(l.fours, vi_and(up, high), a3);
  return l;
}
IN vi line_sum(line l) { return vi_add(l.ones, _mm256_srai_epi32(l.fours, 2)); }

#include "kernels.inc.h"

KERNELS(avxvnni)
