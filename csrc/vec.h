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
constexpr int kPanel = kWidth * kTileVecs;

typedef float Vec __attribute__((vector_size(4 * kWidth), may_alias));
typedef float VecUnaligned __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(4 * kWidth), may_alias));

// Not Vec{} + x: that is not x for -0.0, so the compiler would keep the addition.
DISTILRT_INLINE Vec splat(float x) { return x - Vec{}; }
DISTILRT_INLINE Vec load(const float* p) { return *reinterpret_cast<const VecUnaligned*>(p); }
DISTILRT_INLINE void store(float* p, Vec x) { *reinterpret_cast<VecUnaligned*>(p) = x; }

// The first n lanes; the others are 0.
DISTILRT_INLINE Vec load_part(const float* p, int64_t n) {
  Vec x{};
  __builtin_memcpy(&x, p, static_cast<size_t>(n) * sizeof(float));
  return x;
}
DISTILRT_INLINE void store_part(float* p, Vec x, int64_t n) {
  __builtin_memcpy(p, &x, static_cast<size_t>(n) * sizeof(float));
}

// A NaN in `x` stays: comparisons with it are false.
DISTILRT_INLINE Vec at_least(Vec x, Vec low) { return x < low ? low : x; }
DISTILRT_INLINE Vec at_most(Vec x, Vec high) { return x > high ? high : x; }

DISTILRT_INLINE float sum(Vec x) {
  float lanes[kWidth];
  __builtin_memcpy(lanes, &x, sizeof(x));
  for (int step = kWidth / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) lanes[i] += lanes[i + step];
  return lanes[0];
}
DISTILRT_INLINE float max(Vec x) {
  float lanes[kWidth];
  __builtin_memcpy(lanes, &x, sizeof(x));
  for (int step = kWidth / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) lanes[i] = lanes[i + step] > lanes[i] ? lanes[i + step] : lanes[i];
  return lanes[0];
}
