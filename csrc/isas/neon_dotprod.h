// NEON with products of signed bytes.
#pragma once

#include "neon.h"

struct neon_dotprod : neon {
  template <int kLane = 0>
  DISTILRT_INLINE IntVec dot_int8(IntVec acc, IntVec a, IntVec b, Element<kLane> = {}) {
    return vdotq_laneq_s32(acc, vreinterpretq_s8_s32(b), vreinterpretq_s8_s32(a), kLane);
  }
};
