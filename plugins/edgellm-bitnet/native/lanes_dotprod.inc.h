/* Products by sdot, for isa_dotprod.c, and isa_i8mm.c for one token and for matrices other than ternary.

sdot can take its second operand from a quarter of a register. Activations of neighbouring tokens lie beside each other, as
do those of neighbouring columns of one token. So one load serves four products, and nothing is broadcast: ld1r would use
the pipes that sdot needs. */
IN vi vi_dot_lane(vi acc, vi codes, vi a, int lane) {
  int8x16_t c = vreinterpretq_s8_s32(codes), s = vreinterpretq_s8_s32(a);
  switch (lane) {
    case 0: return vdotq_laneq_s32(acc, c, s, 0);
    case 1: return vdotq_laneq_s32(acc, c, s, 1);
    case 2: return vdotq_laneq_s32(acc, c, s, 2);
    default: return vdotq_laneq_s32(acc, c, s, 3);
  }
}
IN vi vi_dot8_lane(vi acc, vi codes, vi a, int lane) {
  return vi_dot_lane(acc, veorq_s32(codes, vi_set1((int32_t)0x80808080)), a, lane);
}
IN vi vi_dot8(vi acc, vi codes, vi a) {
  return vdotq_s32(acc, vreinterpretq_s8_s32(veorq_s32(codes, vi_set1((int32_t)0x80808080))), vreinterpretq_s8_s32(a));
}
/* Four groups of four activations from group i / 4 * 4 on, of n groups at q. No byte beyond them is read. */
IN vi vi_fours(const int8_t *q, int i, int n) {
  int first = i / 4 * 4, count = n - first;
  if (count >= 4) return vi_load(q + 4 * first);
  if (count == 1) return vi_bcast4(q + 4 * first);
  int64_t two;
  __builtin_memcpy(&two, q + 4 * first, 8);
  vi loaded = vreinterpretq_s32_s64(vdupq_n_s64(two));
  return count == 2 ? loaded : vsetq_lane_s32(vgetq_lane_s32(vi_bcast4(q + 4 * first + 8), 0), loaded, 2);
}

/* A mask and a shift give fields 0 and 3 their values. Fields 1 and 2 are masked in place: they count 4 and 16 times as much,
which line_sum corrects. That is 4 operations of unpacking for 4 products. The 3 sums for each of 8 row vectors take 24 of
the 32 registers. In place, field 2 is at most 32; field 3 would be 128, which is no int8. */
typedef struct {
  vi ones, fours, sixteens;
} line;
IN line line_zero(void) { return (line){vi_zero(), vi_zero(), vi_zero()}; }
IN line line_dot(line l, vi codes, vi a0, vi a1, vi a2, vi a3) {
  l.ones = vi_dot_lane(l.ones, vi_and(codes, vi_set1(0x03030303)), a0, 0);
  l.fours = vi_dot_lane(l.fours, vi_and(codes, vi_set1(0x0c0c0c0c)), a1, 1);
  l.sixteens = vi_dot_lane(l.sixteens, vi_and(codes, vi_set1(0x30303030)), a2, 2);
  l.ones = vi_dot_lane(l.ones, vi_shr8(codes, 6), a3, 3);
  return l;
}
IN vi line_sum(line l) { return vi_add(l.ones, vi_add(vshrq_n_s32(l.fours, 2), vshrq_n_s32(l.sixteens, 4))); }
