// AVX2 and FMA: eight floats, 16 registers.
#pragma once

constexpr int kWidth = 8;
constexpr int kTileRows = 6, kTileVecs = 2;  // 12 accumulators, 2 of B and 1 of A

#include "../vec.h"

struct avx2 : Portable {
  // Unsigned times signed pairs would saturate at 16 bits (255 * 127 * 2), so bytes widen to 16 bits first.
  DISTILRT_INLINE IntVec dot_int8(IntVec acc, IntVec a, IntVec b) {
    const __m256i x = reinterpret_cast<const __m256i&>(a), w = reinterpret_cast<const __m256i&>(b);
    const __m256i even =
        _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(w, 8));
    const __m256i both = _mm256_add_epi32(even, odd);
    return acc + reinterpret_cast<const IntVec&>(both);
  }
};
