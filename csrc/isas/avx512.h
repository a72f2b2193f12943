// AVX-512 F and BW: sixteen floats, 32 registers.
#pragma once

constexpr int kWidth = 16;
constexpr int kTileRows = 6, kTileVecs = 4;  // 24 accumulators, 4 of B and 1 of A

#include "../vec.h"

struct avx512 : Portable {
  // Where one operand is a NaN, the instruction takes its second.
  DISTILRT_INLINE Vec at_least(Vec x, Vec low) {
    const __m512 y = _mm512_max_ps(reinterpret_cast<const __m512&>(low), reinterpret_cast<const __m512&>(x));
    return reinterpret_cast<const Vec&>(y);
  }
  DISTILRT_INLINE Vec at_most(Vec x, Vec high) {
    const __m512 y = _mm512_min_ps(reinterpret_cast<const __m512&>(high), reinterpret_cast<const __m512&>(x));
    return reinterpret_cast<const Vec&>(y);
  }

  // Unsigned times signed pairs would saturate at 16 bits (255 * 127 * 2), so bytes widen to 16 bits first.
  DISTILRT_INLINE IntVec dot_int8(IntVec acc, IntVec a, IntVec b) {
    const __m512i x = reinterpret_cast<const __m512i&>(a), w = reinterpret_cast<const __m512i&>(b);
    const __m512i even =
        _mm512_madd_epi16(_mm512_and_si512(x, _mm512_set1_epi16(255)), _mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8));
    const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(x, 8), _mm512_srai_epi16(w, 8));
    const __m512i both = _mm512_add_epi32(even, odd);
    return acc + reinterpret_cast<const IntVec&>(both);
  }
};
