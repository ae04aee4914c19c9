/* Which kernels this processor and operating system can run. This is the only list of them. */
#include "dispatch.h"

#include <stdlib.h>

#include "bitnet.h"

struct isa {
  const struct kernels *kernels;
  int (*usable)(void);
};

static int always(void) { return 1; }

extern const struct kernels scalar_kernels;

#if defined(__x86_64__)
#include <cpuid.h>

extern const struct kernels avx512vnni_kernels, avxvnni_kernels, avx2_kernels, sse41_kernels;

/* Bits of CPUID leaves, and XCR0. A register that the operating system does not save must not be used. */
struct cpuid {
  unsigned c1, b7, c7, a71;
  uint64_t xcr0;
};

static struct cpuid cpuid(void) {
  struct cpuid id = {0};
  unsigned a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d)) id.c1 = c;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    id.b7 = b;
    id.c7 = c;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) id.a71 = a;
  }
  if (id.c1 >> 27 & 1) { /* OSXSAVE: xgetbv exists */
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    id.xcr0 = (uint64_t)high << 32 | low;
  }
  return id;
}

static int has_sse41(void) {
  struct cpuid id = cpuid();
  return (id.c1 >> 9 & 1) && (id.c1 >> 19 & 1); /* SSSE3, SSE4.1 */
}

static int has_avx2(void) {
  struct cpuid id = cpuid();
  int fma = id.c1 >> 12 & 1, f16c = id.c1 >> 29 & 1, avx = id.c1 >> 28 & 1, avx2 = id.b7 >> 5 & 1;
  return avx && avx2 && fma && f16c && (id.xcr0 & 6) == 6; /* XMM and YMM state */
}

static int has_avx512vnni(void) {
  struct cpuid id = cpuid();
  unsigned wanted = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
  return has_avx2() && (id.b7 & wanted) == wanted && (id.c7 >> 11 & 1) && (id.xcr0 & 0xe6) == 0xe6;
}

#ifdef EVEX_ENCODING
static int has_avxvnni(void) { return has_avx512vnni(); }
#else
static int has_avxvnni(void) { return has_avx2() && (cpuid().a71 >> 4 & 1); }
#endif

static const struct isa isas[] = {
    {&avx512vnni_kernels, has_avx512vnni}, {&avxvnni_kernels, has_avxvnni}, {&avx2_kernels, has_avx2},
    {&sse41_kernels, has_sse41},           {&scalar_kernels, always},
};

#elif defined(__aarch64__)

extern const struct kernels i8mm_kernels, dotprod_kernels, neon_kernels;

#if defined(__linux__)
#include <sys/auxv.h>
static int has_dotprod(void) { return getauxval(AT_HWCAP) >> 20 & 1; }                  /* HWCAP_ASIMDDP */
static int has_i8mm(void) { return has_dotprod() && (getauxval(AT_HWCAP2) >> 13 & 1); } /* HWCAP2_I8MM */
#elif defined(__APPLE__)
#include <sys/sysctl.h>
static int feature(const char *name) {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value;
}
static int has_dotprod(void) { return feature("hw.optional.arm.FEAT_DotProd"); }
static int has_i8mm(void) { return has_dotprod() && feature("hw.optional.arm.FEAT_I8MM"); }
#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#ifndef PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE
#define PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE 66 /* missing in Microsoft's headers before those of Windows 11 24H2 */
#endif
static int has_dotprod(void) { return IsProcessorFeaturePresent(PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE); }
static int has_i8mm(void) { return has_dotprod() && IsProcessorFeaturePresent(PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE); }
#else
static int has_dotprod(void) { return 0; }
static int has_i8mm(void) { return 0; }
#endif

static const struct isa isas[] = {
    {&i8mm_kernels, has_i8mm}, {&dotprod_kernels, has_dotprod}, {&neon_kernels, always}, {&scalar_kernels, always},
};

#else
static const struct isa isas[] = {{&scalar_kernels, always}};
#endif

int32_t bn_abi(void) { return BN_ABI; }
int32_t bn_isa_count(void) { return sizeof isas / sizeof *isas; }

static const struct isa *at(int32_t isa) { return isa < 0 || isa >= bn_isa_count() ? NULL : &isas[isa]; }

const char *bn_isa_name(int32_t isa) { return at(isa) ? at(isa)->kernels->name : NULL; }
int32_t bn_isa_usable(int32_t isa) { return at(isa) && at(isa)->usable(); }
int32_t bn_isa_tile(int32_t isa) { return at(isa) ? at(isa)->kernels->max_tile : 0; }
const struct kernels *isa_kernels(int32_t isa) { return bn_isa_usable(isa) ? at(isa)->kernels : NULL; }
