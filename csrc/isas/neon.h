// NEON, which every 64-bit ARM CPU has: four floats, 32 registers.
#pragma once

constexpr int kWidth = 4;
constexpr int kTileRows = 6, kTileVecs = 4;  // 24 accumulators, 4 of B and 1 of A

#include "../vec.h"

struct neon : Portable {
  // The instructions keep a NaN of either operand.
  DISTILRT_INLINE Vec at_least(Vec x, Vec low) { return vmaxq_f32(x, low); }
  DISTILRT_INLINE Vec at_most(Vec x, Vec high) { return vminq_f32(x, high); }

  // acc plus each product of a lane of b with one of a. For the intrinsic g++ copies that lane to a whole vector first.
  template <int kLane>
  DISTILRT_INLINE Vec dot_f32(Vec acc, IntVec a, IntVec b, Element<kLane>) {
    asm("fmla %0.4s, %1.4s, %2.s[%3]" : "+w"(acc) : "w"(b), "w"(a), "i"(kLane));
    return acc;
  }

  // Bytes of both signs, as products are of signed bytes alone. Sums of two products are exact in 16 bits, since
  // weights are at least -127 (2 * 128 * 127 < 2^15).
  static constexpr int32_t kByteZero = 128;
  DISTILRT_INLINE IntVec dot_int8(IntVec acc, IntVec a, IntVec b) {
    const int8x16_t x = vreinterpretq_s8_s32(a), y = vreinterpretq_s8_s32(b);
    int16x8_t first = vmull_s8(vget_low_s8(x), vget_low_s8(y)), second;
    asm("smull2 %0.8h, %1.16b, %2.16b" : "=w"(second) : "w"(x), "w"(y));  // for its intrinsic clang spills sums
    return vpadalq_s16(acc, vpaddq_s16(first, second));
  }
};
