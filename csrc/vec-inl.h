// Loads, stores and sums over vectors, with bfloat16 and minima by the instruction set's own means.

// bfloat16: round to nearest, ties to even; a NaN stays one.
DISTILRT_INLINE HalfVec to_half(Vec x) { return Isa::to_half(x); }
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

// A NaN in `x` stays.
DISTILRT_INLINE Vec at_least(Vec x, Vec low) { return Isa::at_least(x, low); }
DISTILRT_INLINE Vec at_most(Vec x, Vec high) { return Isa::at_most(x, high); }

// 0 ... n - 1 as a pack, since __builtin_shufflevector wants constants.
template <int... i>
struct Indices {};
template <int n, int... i>
struct IndicesTo : IndicesTo<n - 1, n - 1, i...> {};
template <int... i>
struct IndicesTo<0, i...> : Indices<i...> {};

// Lane i becomes lane i + kStep, around the end.
template <int kStep, int... i>
DISTILRT_INLINE Vec rotate(Vec x, Indices<i...>) {
  return __builtin_shufflevector(x, x, ((i + kStep) % kWidth)...);
}
template <int kStep = kWidth / 2>
DISTILRT_INLINE float sum(Vec x) {
  x += rotate<kStep>(x, IndicesTo<kWidth>{});
  if constexpr (kStep > 1) return sum<kStep / 2>(x);
  return x[0];
}
template <int kStep = kWidth / 2>
DISTILRT_INLINE float max(Vec x) {
  x = at_least(rotate<kStep>(x, IndicesTo<kWidth>{}), x);
  if constexpr (kStep > 1) return max<kStep / 2>(x);
  return x[0];
}
