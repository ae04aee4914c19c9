/* Products by sdot: what isa_dotprod.c has, and isa_i8mm.c for one token and for matrices other than ternary.

sdot takes its second operand from a quarter of a register, and activations of neighbouring tokens (or, for one token,
of neighbouring columns) lie beside each other, so one load serves four products and nothing is broadcast: ld1r would
take a slot of the pipes that sdot needs. */
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
/* Fours i / 4 * 4 and on, of n at q: no byte beyond them is read. */
IN vi vi_fours(const int8_t *q, int i, int n) {
  int first = i / 4 * 4, count = n - first;
  if (count >= 4) return vi_load(q + 4 * first);
  if (count == 1) return vi_bcast4(q + 4 * first);
  int64_t two;
  __builtin_memcpy(&two, q + 4 * first, 8);
  vi loaded = vreinterpretq_s32_s64(vdupq_n_s64(two));
  return count == 2 ? loaded : vsetq_lane_s32(vgetq_lane_s32(vi_bcast4(q + 4 * first + 8), 0), loaded, 2);
}

/* Fields 0 and 3 as they are, 1 and 2 masked where they stand: 4 operations of unpacking for 4 products, and 3 sums for
each of 8 row vectors, 24 of the 32 registers. Field 2 is at most 32 there; field 3 would be 128, which is no int8. */
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
