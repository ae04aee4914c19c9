/* NEON with sdot (ARMv8.2 dotprod): Cortex-A55, A75, A76, Neoverse N1, Apple A13/M1 and later.

sdot adds four s8 * s8 to each of four lanes: 16 products an instruction. A76 and N1 run two of them a cycle, Apple's cores
and X1 four. The codes of all types but Q8 are below 128 and are used as they are. One xor removes the offset of Q8 bytes.

A tile is 2 row vectors x 12 tokens. Its registers are 24 sums, 2 vectors of codes, 3 of activations and a mask. It unpacks
with 4 operations for 24 products, so 96 of its 127 instructions are products. In a decode step they are 32 of 75. No core
was timed. */
#include <arm_neon.h>

#include "kernels.h"

enum { TILE = 12, TILE_VECTORS = 2, DOT8_BIAS = 128 };
#define LANES_BY_STEP 0
#define FOURS_BY_LANE
#include "lanes_neon.inc.h"
#include "lanes_dotprod.inc.h"

#include "kernels.inc.h"

KERNELS(dotprod)
