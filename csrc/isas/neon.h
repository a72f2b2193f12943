// NEON, which every 64-bit ARM CPU has: four floats, 32 registers.
#pragma once

constexpr int kWidth = 4;
constexpr int kTileRows = 6, kTileVecs = 4;  // 24 accumulators, 4 of B and 1 of A

#include "../vec.h"

struct neon : Portable {
  // The instructions keep a NaN of either operand.
  DISTILRT_INLINE Vec at_least(Vec x, Vec low) { return vmaxq_f32(x, low); }
  DISTILRT_INLINE Vec at_most(Vec x, Vec high) { return vminq_f32(x, high); }
};
