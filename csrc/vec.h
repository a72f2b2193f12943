// One vector of floats, in the compiler's own vector extension: the same text becomes SSE2 or NEON (4 floats), AVX2
// (8) or AVX-512 (16) by the flags that kernels.cpp is compiled with. Included inside the per-ISA anonymous namespace.
//
// Per-ISA code uses no std:: containers or templates: the linker could keep their AVX-512 copy for the whole program.

#define DISTILRT_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int kWidth = 16;
constexpr int kTileRows = 6, kTileVecs = 4;  // 24 accumulators, 4 of B and 1 of A in 32 registers
#elif defined(__AVX2__)
constexpr int kWidth = 8;
constexpr int kTileRows = 6, kTileVecs = 2;  // 12 accumulators, 2 of B and 1 of A in 16 registers
#else
constexpr int kWidth = 4;
constexpr int kTileRows = 4, kTileVecs = 2;  // without FMA the product needs a register of its own
#endif
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
DISTILRT_INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Not Vec{} + x: that is not x for -0.0, so the compiler would keep the addition.
DISTILRT_INLINE Vec splat(float x) { return x - Vec{}; }
DISTILRT_INLINE IntVec splat(int32_t x) { return x - IntVec{}; }
DISTILRT_INLINE Vec as_floats(IntVec x) { return reinterpret_cast<const Vec&>(x); }
DISTILRT_INLINE IntVec as_ints(Vec x) { return reinterpret_cast<const IntVec&>(x); }

DISTILRT_INLINE Vec load(const float* p) { return *reinterpret_cast<const VecUnaligned*>(p); }
DISTILRT_INLINE IntVec load(const Lane* p) { return *reinterpret_cast<const IntVecUnaligned*>(p); }
DISTILRT_INLINE void store(float* p, Vec x) { *reinterpret_cast<VecUnaligned*>(p) = x; }
DISTILRT_INLINE void store(Lane* p, IntVec x) { *reinterpret_cast<IntVecUnaligned*>(p) = x; }

// bfloat16: round to nearest, ties to even; a NaN stays one.
DISTILRT_INLINE HalfVec to_half(Vec x) {
#if defined(__AVX512BF16__)
  const __m256bh y = _mm512_cvtneps_pbh(reinterpret_cast<const __m512&>(x));
  return reinterpret_cast<const HalfVec&>(y);
#else
  const IntVec bits = as_ints(x);
  const IntVec rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return __builtin_convertvector(x == x ? rounded : IntVec{} + 0x7FC0, HalfVec);
#endif
}
DISTILRT_INLINE Vec from_half(HalfVec x) { return as_floats(__builtin_convertvector(x, IntVec) << 16); }
DISTILRT_INLINE Vec load(const Bf16* p) {
  HalfVec x;
  __builtin_memcpy(&x, p, sizeof(x));
  return from_half(x);
}
DISTILRT_INLINE void store(Bf16* p, Vec x) {
  const HalfVec y = to_half(x);
  __builtin_memcpy(p, &y, sizeof(y));
}

// The first n lanes; the others are 0.
DISTILRT_INLINE Vec load_part(const float* p, int64_t n) {
  Vec x{};
  __builtin_memcpy(&x, p, static_cast<size_t>(n) * sizeof(float));
  return x;
}
DISTILRT_INLINE Vec load_part(const Bf16* p, int64_t n) {
  HalfVec x{};
  __builtin_memcpy(&x, p, static_cast<size_t>(n) * sizeof(Bf16));
  return from_half(x);
}
DISTILRT_INLINE IntVec load_part(const Lane* p, int64_t n) {
  IntVec x{};
  __builtin_memcpy(&x, p, static_cast<size_t>(n) * sizeof(Lane));
  return x;
}
DISTILRT_INLINE void store_part(Lane* p, IntVec x, int64_t n) {
  __builtin_memcpy(p, &x, static_cast<size_t>(n) * sizeof(Lane));
}
DISTILRT_INLINE void store_part(float* p, Vec x, int64_t n) {
  __builtin_memcpy(p, &x, static_cast<size_t>(n) * sizeof(float));
}
DISTILRT_INLINE void store_part(Bf16* p, Vec x, int64_t n) {
  const HalfVec y = to_half(x);
  __builtin_memcpy(p, &y, static_cast<size_t>(n) * sizeof(Bf16));
}
template <typename T>
DISTILRT_INLINE auto load_lanes(const T* p, int64_t n) {
  return n >= kWidth ? load(p) : load_part(p, n);
}
template <typename T, typename V>
DISTILRT_INLINE void store_lanes(T* p, V x, int64_t n) {
  if (n >= kWidth)
    store(p, x);
  else
    store_part(p, x, n);
}

// A NaN in `x` stays: where a comparison with it is false, so is the instruction, which then takes its second operand.
#if defined(__AVX512F__)
DISTILRT_INLINE Vec at_least(Vec x, Vec low) {
  const __m512 y = _mm512_max_ps(reinterpret_cast<const __m512&>(low), reinterpret_cast<const __m512&>(x));
  return reinterpret_cast<const Vec&>(y);
}
DISTILRT_INLINE Vec at_most(Vec x, Vec high) {
  const __m512 y = _mm512_min_ps(reinterpret_cast<const __m512&>(high), reinterpret_cast<const __m512&>(x));
  return reinterpret_cast<const Vec&>(y);
}
#else
DISTILRT_INLINE Vec at_least(Vec x, Vec low) { return x < low ? low : x; }
DISTILRT_INLINE Vec at_most(Vec x, Vec high) { return x > high ? high : x; }
#endif

// Lane i becomes lane i + kStep, around the end.
template <int kStep>
DISTILRT_INLINE Vec rotate(Vec x) {
  IntVec from;
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) from[i] = (i + kStep) % kWidth;
  return __builtin_shuffle(x, from);
}
template <int kStep = kWidth / 2>
DISTILRT_INLINE float sum(Vec x) {
  x += rotate<kStep>(x);
  if constexpr (kStep > 1) return sum<kStep / 2>(x);
  return x[0];
}
template <int kStep = kWidth / 2>
DISTILRT_INLINE float max(Vec x) {
  x = at_least(rotate<kStep>(x), x);
  if constexpr (kStep > 1) return max<kStep / 2>(x);
  return x[0];
}
