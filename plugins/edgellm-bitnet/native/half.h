/* IEEE half to float and back, for code that runs on every processor. Source: IEEE 754-2008, section 3.6. */
#ifndef EDGELLM_BITNET_HALF_H
#define EDGELLM_BITNET_HALF_H

#include <stdint.h>
#include <string.h>

static inline float half_to_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff, bits;
  float value;
  if (rest >= 0x7c00) { /* infinity, NaN */
    bits = sign | 0x7f800000 | (rest & 0x3ff) << 13;
  } else if (rest >= 0x400) {
    bits = sign | ((rest << 13) + (112u << 23));
  } else { /* zero and subnormal: rest * 2^-24, exact */
    value = (float)rest * 5.9604644775390625e-8f;
    memcpy(&bits, &value, 4);
    bits |= sign;
  }
  memcpy(&value, &bits, 4);
  return value;
}

/* Round half to even. */
static inline uint16_t float_to_half(float value) {
  uint32_t bits, sign, rest;
  memcpy(&bits, &value, 4);
  sign = bits >> 16 & 0x8000;
  rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
  if (rest < 0x38800000) { /* below 2^-14: let the addition round at 2^-24 */
    float small;
    memcpy(&small, &rest, 4);
    small += 0.5f;
    memcpy(&rest, &small, 4);
    return (uint16_t)(sign | (rest - 0x3f000000));
  }
  rest += 0xfff + (rest >> 13 & 1);
  return (uint16_t)(sign | (rest - (112u << 23)) >> 13);
}

static inline float bf16_to_float(uint16_t h) {
  uint32_t bits = (uint32_t)h << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

#endif
