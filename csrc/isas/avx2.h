// AVX2 and FMA: eight floats, 16 registers.
#pragma once

constexpr int kWidth = 8;
constexpr int kTileRows = 6, kTileVecs = 2;  // 12 accumulators, 2 of B and 1 of A

#include "../vec.h"

struct avx2 : Portable {
  // Sums of products in 16 bits are exact if weights on one side of 0 add up to 128 at most (128 * 255 < 2^15).
  static constexpr bool kInt8Pairs = true;
  DISTILRT_INLINE IntVec dot_int8(IntVec acc, IntVec a, IntVec b) { return acc + widened(products(a, b)); }
  DISTILRT_INLINE IntVec dot_int8(IntVec acc, const IntVec (&a)[2], const IntVec (&b)[2]) {
    return acc + widened(_mm256_add_epi16(products(a[0], b[0]), products(a[1], b[1])));
  }

 private:
  DISTILRT_INLINE __m256i products(IntVec a, IntVec b) {
    return _mm256_maddubs_epi16(reinterpret_cast<const __m256i&>(a), reinterpret_cast<const __m256i&>(b));
  }
  DISTILRT_INLINE IntVec widened(__m256i x) {
    const __m256i y = _mm256_madd_epi16(x, _mm256_set1_epi16(1));
    return reinterpret_cast<const IntVec&>(y);
  }
};
