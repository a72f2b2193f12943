// NEON with products of unsigned by signed bytes, and of bfloat16.
#pragma once

#include "neon.h"

struct neon_i8mm_bf16 : neon {
  using Activation = Bf16;

  DISTILRT_INLINE HalfVec to_half(Vec x) { return vreinterpret_u16_bf16(vcvt_bf16_f32(x)); }

  DISTILRT_INLINE IntVec dot_int8(IntVec acc, IntVec a, IntVec b) {
    return vusdotq_s32(acc, vreinterpretq_u8_s32(a), vreinterpretq_s8_s32(b));
  }

  // The instruction flushes denormals.
  DISTILRT_INLINE Vec dot_bf16(Vec acc, IntVec a, IntVec b) {
    return vbfdotq_f32(acc, vreinterpretq_bf16_s32(a), vreinterpretq_bf16_s32(b));
  }
};
