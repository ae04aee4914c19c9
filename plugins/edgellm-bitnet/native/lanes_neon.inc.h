/* 128-bit vectors of ARMv8.0: what the three ARM files have in common. Conversions between half and float are in the
base architecture; arithmetic on halves is not, and none is used. */
#define VB 16
typedef int32x4_t vi;
typedef float32x4_t vf;

#define IN static inline __attribute__((always_inline))
IN vi vi_load(const void *p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
IN vi vi_zero(void) { return vdupq_n_s32(0); }
IN vi vi_set1(int32_t x) { return vdupq_n_s32(x); }
IN vi vi_bcast4(const void *p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return vdupq_n_s32(x);
}
IN vi vi_add(vi a, vi b) { return vaddq_s32(a, b); }
IN vi vi_sub(vi a, vi b) { return vsubq_s32(a, b); }
IN vi vi_and(vi a, vi b) { return vandq_s32(a, b); }
IN vi vi_or(vi a, vi b) { return vorrq_s32(a, b); }
/* Operators: the intrinsics need a constant count, and the loops are unrolled only later. */
IN vi vi_shr(vi a, int n) { return (vi)((uint32x4_t)a >> n); }
IN vi vi_shl(vi a, int n) { return (vi)((uint32x4_t)a << n); }
IN vi vi_shr8(vi a, int n) { return (vi)((uint8x16_t)a >> n); }

IN vf vf_load(const float *p) { return vld1q_f32(p); }
IN void vf_store(float *p, vf x) { vst1q_f32(p, x); }
IN vf vf_zero(void) { return vdupq_n_f32(0); }
IN vf vf_set1(float x) { return vdupq_n_f32(x); }
IN vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
IN vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
IN vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
IN vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
IN vf vf_max(vf a, vf b) { return vmaxnmq_f32(a, b); } /* of a number and NaN, the number, as in the scalar kernels */
IN vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
IN vf vf_from_i(vi x) { return vcvtq_f32_s32(x); }
IN vi vi_from_f(vf x) { return vcvtnq_s32_f32(x); }
IN vf vf_pow2(vi n) { return vreinterpretq_f32_s32(vi_shl(vi_add(n, vi_set1(127)), 23)); }
IN vf vf_half(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
IN void vf_put_half(uint16_t *p, vf x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
IN vf vf_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
IN vf vf_s8(const int8_t *p) {
  int8x8_t bytes = vreinterpret_s8_s32(vget_low_s32(vi_bcast4(p)));
  return vf_from_i(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
}
IN void vi_put_s8(int8_t *p, vi x) {
  int16x4_t words = vqmovn_s32(x);
  int32_t bytes = vget_lane_s32(vreinterpret_s32_s8(vqmovn_s16(vcombine_s16(words, words))), 0);
  __builtin_memcpy(p, &bytes, 4);
}
IN float vf_sum(vf x) { return vaddvq_f32(x); } /* (x0 + x1) + (x2 + x3) */
IN float vf_peak(vf x) { return vmaxnmvq_f32(x); }
