// AVX-512 with 8-bit and bfloat16 products.
#pragma once

#include "avx512_vnni.h"

struct avx512_bf16 : avx512_vnni {
  using Activation = Bf16;

  DISTILRT_INLINE HalfVec to_half(Vec x) {
    const __m256bh y = _mm512_cvtneps_pbh(reinterpret_cast<const __m512&>(x));
    return reinterpret_cast<const HalfVec&>(y);
  }

  // The instruction flushes denormals.
  DISTILRT_INLINE Vec dot_bf16(Vec acc, IntVec a, IntVec b) {
    const __m512 y = _mm512_dpbf16_ps(reinterpret_cast<const __m512&>(acc), reinterpret_cast<const __m512bh&>(a),
                                      reinterpret_cast<const __m512bh&>(b));
    return reinterpret_cast<const Vec&>(y);
  }
};
