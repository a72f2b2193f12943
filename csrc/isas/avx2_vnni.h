// AVX2 with the 8-bit products of AVX-VNNI.
#pragma once

#include "avx2.h"

struct avx2_vnni : avx2 {
  static constexpr bool kInt8Pairs = false;
  DISTILRT_INLINE IntVec dot_int8(IntVec acc, IntVec a, IntVec b) {
    const __m256i y = _mm256_dpbusd_avx_epi32(reinterpret_cast<const __m256i&>(acc),
                                              reinterpret_cast<const __m256i&>(a), reinterpret_cast<const __m256i&>(b));
    return reinterpret_cast<const IntVec&>(y);
  }
};
