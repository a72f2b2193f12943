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
};
