// What the header of an instruction set starts from: vectors of its kWidth floats, in the compiler's own vector
// extension, and what is right on any CPU. Included inside the per-ISA anonymous namespace.
//
// Per-ISA code uses no std:: containers or templates: the linker could keep their AVX-512 copy for the whole program.
#pragma once

#define DISTILRT_INLINE static inline __attribute__((always_inline))

// Columns of a panel of packed weights, the same on every ISA, so that packed files are too. A register tile takes
// kTileVecs vectors of them.
constexpr int kPanel = 64;

typedef float Vec __attribute__((vector_size(4 * kWidth), may_alias));
typedef float VecUnaligned __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(4 * kWidth), may_alias));
typedef int32_t IntVecUnaligned __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));
typedef uint16_t HalfVec __attribute__((vector_size(2 * kWidth), may_alias));
typedef int32_t Lane __attribute__((may_alias));   // 4 bytes of a GEMM operand
typedef uint16_t Bf16 __attribute__((may_alias));  // the upper half of a float32
typedef uint8_t Byte __attribute__((may_alias));

DISTILRT_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
DISTILRT_INLINE constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Not Vec{} + x: that is not x for -0.0, so the compiler would keep the addition.
DISTILRT_INLINE Vec splat(float x) { return x - Vec{}; }
DISTILRT_INLINE IntVec splat(int32_t x) { return x - IntVec{}; }
DISTILRT_INLINE Vec as_floats(IntVec x) { return reinterpret_cast<const Vec&>(x); }
DISTILRT_INLINE IntVec as_ints(Vec x) { return reinterpret_cast<const IntVec&>(x); }

DISTILRT_INLINE Vec load(const float* p) { return *reinterpret_cast<const VecUnaligned*>(p); }
DISTILRT_INLINE IntVec load(const Lane* p) { return *reinterpret_cast<const IntVecUnaligned*>(p); }
DISTILRT_INLINE void store(float* p, Vec x) { *reinterpret_cast<VecUnaligned*>(p) = x; }
DISTILRT_INLINE void store(Lane* p, IntVec x) { *reinterpret_cast<IntVecUnaligned*>(p) = x; }

// A bfloat16 is the upper half of a float32.
DISTILRT_INLINE Vec from_half(HalfVec x) { return as_floats(__builtin_convertvector(x, IntVec) << 16); }

// Depth of one pass over a panel, in lanes: a tile's rows of A stay in L1, a panel's slice in L2. Each slice is summed
// from 0 and then added, which rounds less than one long sum; AMX's tiles go on with the sums there are.
constexpr int64_t kDepth = 256;
constexpr int64_t kLine = 16;  // lanes of a cache line
constexpr int kGroup = 8;      // lanes of the depth that are summed before weights are asked for again

// Weights to ask for while tiles are summed: `lines` cache lines every kGroup lanes of depth, from `at` until `end`.
struct Ahead {
  const Lane* at;
  const Lane* end;
  int64_t lines;
};

// Which lane of a vector an instruction takes for all.
template <int kLane>
struct Element {
  static constexpr int value = kLane;
};

// The inner loop of every product, in gemm-inl.h. An instruction set may name another template as its Tile: its
// constructor takes a number of rows, and it has kRows, kBlockRows, rows_each(), slice() and multiply().
template <class Dot>
struct RegisterTile;
template <class Dot, class Unit, int kLane = Dot::kLane>
class AmxTile;

// An instruction set is a struct derived from this one, which replaces what it has instructions for.
struct Portable {
  // What activations of bfloat16 and int8 models are: float, or Bf16 where to_half and dot_bf16 are instructions.
  using Activation = float;
  template <class Dot>
  using Tile = RegisterTile<Dot>;
  // What the bytes of int8 models' activations are stored less: 128 where products are of signed bytes only.
  static constexpr int32_t kByteZero = 0;

  // A NaN in `x` stays, since a comparison with it is false.
  DISTILRT_INLINE Vec at_least(Vec x, Vec low) { return x < low ? low : x; }
  DISTILRT_INLINE Vec at_most(Vec x, Vec high) { return x > high ? high : x; }

  // Rounds to nearest, ties to even; a NaN stays one.
  DISTILRT_INLINE HalfVec to_half(Vec x) {
    const IntVec bits = as_ints(x);
    const IntVec rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(x == x ? rounded : IntVec{} + 0x7FC0, HalfVec);
  }

  // acc plus the two products of each lane's bfloat16, in float32.
  DISTILRT_INLINE Vec dot_bf16(Vec acc, IntVec a, IntVec b) {
    constexpr int32_t kUpper = ~0xFFFF;
    return acc + as_floats(a << 16) * as_floats(b << 16) + as_floats(a & kUpper) * as_floats(b & kUpper);
  }

  // Whether dot_int8 takes two lanes too, and weights as narrow() leaves them.
  static constexpr bool kInt8Pairs = false;
  // acc plus the four products of each lane's bytes, of which a's are unsigned (signed for a kByteZero) and b's signed;
  // exact.
  DISTILRT_INLINE IntVec dot_int8(IntVec acc, IntVec a, IntVec b) {
    for (int byte = 0; byte < 4; ++byte) acc += ((a >> (8 * byte)) & 255) * ((b << (24 - 8 * byte)) >> 24);
    return acc;
  }
};
