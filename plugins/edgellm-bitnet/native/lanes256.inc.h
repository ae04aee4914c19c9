/* 256-bit vectors of AVX2, FMA and F16C: what isa_avx2.c and isa_avxvnni.c have in common. */
#define VB 32
typedef __m256i vi;
typedef __m256 vf;

#define IN static inline __attribute__((always_inline))
IN vi vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
IN vi vi_zero(void) { return _mm256_setzero_si256(); }
IN vi vi_set1(int32_t x) { return _mm256_set1_epi32(x); }
IN vi vi_bcast4(const void *p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return _mm256_set1_epi32(x);
}
IN vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
IN vi vi_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
IN vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
IN vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
IN vi vi_shr(vi a, int n) { return _mm256_srli_epi32(a, n); }
IN vi vi_shl(vi a, int n) { return _mm256_slli_epi32(a, n); }

IN vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
IN void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
IN vf vf_zero(void) { return _mm256_setzero_ps(); }
IN vf vf_set1(float x) { return _mm256_set1_ps(x); }
IN vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
IN vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
IN vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
IN vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
IN vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
IN vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
IN vf vf_from_i(vi x) { return _mm256_cvtepi32_ps(x); }
IN vi vi_from_f(vf x) { return _mm256_cvtps_epi32(x); }
IN vf vf_pow2(vi n) { return _mm256_castsi256_ps(vi_shl(vi_add(n, vi_set1(127)), 23)); }
IN vf vf_half(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
IN void vf_put_half(uint16_t *p, vf x) { _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, 0)); }
IN vf vf_bf16(const uint16_t *p) {
  return _mm256_castsi256_ps(vi_shl(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
IN vf vf_s8(const int8_t *p) { return vf_from_i(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p))); }
IN void vi_put_s8(int8_t *p, vi x) {
  __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(words, words));
}
IN float vf_sum(vf x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
IN float vf_peak(vf x) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
