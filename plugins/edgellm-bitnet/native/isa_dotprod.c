/* NEON with sdot (ARMv8.2 dotprod): Cortex-A55, A75, A76, Neoverse N1, Apple A13/M1 and later.

sdot adds four s8 * s8 to each of four lanes: 16 products an instruction, two of them a cycle on A76 and N1, four on
Apple's and on X1. All code types but Q8 are below 128 and go in as they are; Q8 bytes lose their offset by one xor.
A tile is 2 row vectors x 12 tokens: 24 sums, 2 vectors of codes, 3 of activations and a mask, so that 24 products cost
4 operations of unpacking: 96 of 127 instructions. A decode step has 32 of 75. No core was timed. */
#include <arm_neon.h>

#include "kernels.h"

enum { TILE = 12, TILE_VECTORS = 2, DOT8_BIAS = 128 };
#define LANES_BY_STEP 0
#define FOURS_BY_LANE
#include "lanes_neon.inc.h"
#include "lanes_dotprod.inc.h"

#include "kernels.inc.h"

KERNELS(dotprod)
