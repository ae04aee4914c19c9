#ifndef EDGELLM_BITNET_DISPATCH_H
#define EDGELLM_BITNET_DISPATCH_H

#include "kernels.h"

/* Kernels of instruction set number `isa`; NULL where there is no such number or this processor cannot run them. */
const struct kernels *isa_kernels(int32_t isa);

#endif
