// NEON with products of signed bytes.
#pragma once

#include "neon.h"

struct neon_dotprod : neon {
  static constexpr int32_t kByteZero = 128;

  DISTILRT_INLINE IntVec dot_int8(IntVec acc, IntVec a, IntVec b) {
    return vdotq_s32(acc, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b));
  }
};
