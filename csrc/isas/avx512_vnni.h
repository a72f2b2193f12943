// AVX-512 with 8-bit products.
#pragma once

#include "avx512.h"

struct avx512_vnni : avx512 {
  DISTILRT_INLINE IntVec dot_int8(IntVec acc, IntVec a, IntVec b) {
    const __m512i y = _mm512_dpbusd_epi32(reinterpret_cast<const __m512i&>(acc), reinterpret_cast<const __m512i&>(a),
                                          reinterpret_cast<const __m512i&>(b));
    return reinterpret_cast<const IntVec&>(y);
  }
};
