// Any CPU: four floats, as SSE2 and NEON have.
#pragma once

constexpr int kWidth = 4;
constexpr int kTileRows = 4, kTileVecs = 2;  // without FMA the product needs a register of its own

#include "../vec.h"

struct generic : Portable {};
