// softmax(Q K^T * scale) V for one sequence and one attention head, without a mask: packed rows have no padding.
//
// K is transposed into panels and V laid out as a GEMM operand, once; then each block of query rows has its whole score
// row in L2, so softmax is the plain two-pass form (max, then exp and sum) and the division waits until after V. Scores
// and softmax are float32; operands are activations (float32 or bfloat16).

// Rows of Q at a time: whole tiles.
template <class Dot>
constexpr int64_t kQueryBlock = round_up(8 * kTileRows, Isa::template Tile<Dot>::kRows);

// Scratch of one task, in lanes.
template <class Dot>
struct AttentionScratch {
  AttentionScratch(int64_t keys, int64_t head_dim)
      : columns(round_up(keys, kWidth)),
        head_lanes(lanes(head_dim, Dot::kLane)),
        value_width(round_up(head_dim, kWidth)),
        k_panels(0),
        values(k_panels + round_up(keys, kPanel) * head_lanes),
        queries(values + round_up(lanes(keys, Dot::kLane) * value_width, kWidth)),
        scores(queries + round_up(kQueryBlock<Dot> * head_lanes, kWidth)),
        size(scores + kQueryBlock<Dot> * columns) {}

  int64_t columns;      // keys, in whole vectors
  int64_t head_lanes;   // depth of Q K^T
  int64_t value_width;  // columns of V, in whole vectors
  int64_t k_panels, values, queries, scores, size;
};

template <typename T>
static int64_t attention_scratch(int64_t keys, int64_t head_dim) {
  return 4 * AttentionScratch<DotOf<T>>(keys, head_dim).size;
}

// out[rows, width] = A[rows, depth] * B[depth, width] with a tile for `rows`; width is a whole number of vectors, at
// most a panel.
template <class Tile>
static void product(const Tile& tile, int64_t rows, int64_t width, int64_t depth, const Lane* a, int64_t lda,
                    const Lane* b, int64_t ldb, float* out, int64_t ldo) {
  Ahead nothing{nullptr, nullptr, 0};
  const int64_t each = Tile::rows_each(rows);
  for (int64_t p = 0; p < depth; p += kDepth)
    for (int64_t i = 0; i < rows; i += each)
      tile.multiply(min64(rows - i, each), width / kWidth, min64(depth - p, kDepth), a + i * lda + p, lda, b + p * ldb,
                    ldb, nothing, p > 0, out + i * ldo, ldo);
}

// The first n activations of a row as lanes, at most a vector of them; elements past the end are 0.
template <typename T>
DISTILRT_INLINE IntVec load_row(const T* row, int64_t n) {
  constexpr int64_t kLane = 4 / sizeof(T);
  IntVec x{};
  if (n >= kWidth * kLane)
    __builtin_memcpy(&x, row, sizeof(x));
  else if (n > 0)
    __builtin_memcpy(&x, row, static_cast<size_t>(n) * sizeof(T));
  return x;
}

// Swaps the upper right quarters of two rows' squares with the lower left ones.
template <int kStep, int... i>
DISTILRT_INLINE void swap_quarters(IntVec& top, IntVec& bottom, Indices<i...>) {
  const IntVec upper = top, lower = bottom;  // lanes of `lower` count from kWidth on
  top = __builtin_shufflevector(upper, lower, ((i & kStep) == 0 ? i : kWidth + i - kStep)...);
  bottom = __builtin_shufflevector(upper, lower, ((i & kStep) == 0 ? i + kStep : kWidth + i)...);
}

// Transposes a square of lanes in log2(kWidth) rounds; each swaps the off-diagonal quarters of squares of 2 * kStep.
template <int kStep>
DISTILRT_INLINE void transpose(IntVec (&x)[kWidth]) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i)
    if ((i & kStep) == 0) swap_quarters<kStep>(x[i], x[i + kStep], IndicesTo<kWidth>{});
  if constexpr (2 * kStep < kWidth) transpose<2 * kStep>(x);
}

// K [keys, head_dim] as panels of a GEMM operand: lane l of key j lies at l * kPanel + j % kPanel of its panel. Padding
// keys up to whole vectors are 0: their scores are computed, though never read.
template <typename T>
static void transpose_keys(const T* k, int64_t ld, int64_t keys, int64_t head_dim, int64_t head_lanes, Lane* panels) {
  constexpr int64_t kLane = 4 / sizeof(T);
  for (int64_t key = 0; key < keys; key += kWidth) {
    Lane* panel = panels + key / kPanel * kPanel * head_lanes + key % kPanel;
    const int64_t rows = min64(keys - key, kWidth);
    for (int64_t lane = 0; lane < head_lanes; lane += kWidth) {
      IntVec square[kWidth];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kWidth; ++i)
        square[i] = i < rows ? load_row(k + (key + i) * ld + lane * kLane, head_dim - lane * kLane) : IntVec{};
      transpose<1>(square);
      const int64_t kept = min64(head_lanes - lane, kWidth);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kWidth; ++i)
        if (i < kept) store(panel + (lane + i) * kPanel, square[i]);
    }
  }
}

// Rows of V as a GEMM operand: lane d of the result holds element d of Dot::kLane keys, one after the other.
DISTILRT_INLINE void interleave(const float* v, int64_t, int64_t keys, int64_t n, Lane* out, int64_t width) {
  (void)keys;
  for (int64_t d = 0; d < width; d += kWidth) store(out + d, as_ints(load_lanes(v + d, min64(n - d, kWidth))));
}
DISTILRT_INLINE void interleave(const Bf16* v, int64_t ld, int64_t keys, int64_t n, Lane* out, int64_t width) {
  for (int64_t d = 0; d < width; d += kWidth) {
    const int64_t part = min64(n - d, kWidth);
    // Widened to float32 a bfloat16 is the upper half.
    const IntVec even = as_ints(load_lanes(v + d, part));
    const IntVec odd = keys > 1 ? as_ints(load_lanes(v + ld + d, part)) : IntVec{};
    store(out + d, ((even >> 16) & 0xFFFF) | odd);
  }
}

// exp(scale * (x - top)), to the precision of T.
template <typename T>
DISTILRT_INLINE Vec weight_of(Vec x, float top, float scale) {
  if constexpr (sizeof(T) == sizeof(Bf16))
    return exp2_bf16(x * (scale * 1.44269504f) - top * (scale * 1.44269504f));
  else
    return exp((x - top) * scale);
}

// Turns a row of scores into exp(scale * (score - max)) in T, in place, followed by zeros to a whole lane; returns
// their sum.
template <typename T>
DISTILRT_INLINE float softmax_row(float* scores, int64_t n, float scale) {
  Vec highest = splat(scores[0]);
  const int64_t whole = n - n % kWidth;
  for (int64_t i = 0; i < whole; i += kWidth) highest = at_least(highest, load(scores + i));
  float top = max(highest);
  for (int64_t i = whole; i < n; ++i) top = scores[i] > top ? scores[i] : top;
  // T is no wider than float, so what is written lies behind what is still to be read.
  T* out = reinterpret_cast<T*>(scores);
  Vec total{};
  for (int64_t i = 0; i < whole; i += kWidth) {
    const Vec e = weight_of<T>(load(scores + i), top, scale);
    store(out + i, e);
    total += e;
  }
  if (const int64_t rest = n - whole; rest > 0) {
    float last[kWidth];
    const Vec e = weight_of<T>(load_part(scores + whole, rest), top, scale);
    __builtin_memcpy(last, &e, sizeof(e));
    for (int64_t i = rest; i < kWidth; ++i) last[i] = 0.0f;
    store_lanes(out + whole, load(last), round_up(rest, 4 / sizeof(T)));
    total += load(last);
  }
  return sum(total);
}

template <typename T>
static void attention(const AttentionArgs& g) {
  using Dot = DotOf<T>;
  if (g.keys == 0) {  // as in the reference: what attends to nothing gets zeros
    for (int64_t i = 0; i < g.queries; ++i)
      __builtin_memset(static_cast<T*>(g.out) + i * g.ldo, 0, static_cast<size_t>(g.head_dim) * sizeof(T));
    return;
  }
  const AttentionScratch<Dot> at(g.keys, g.head_dim);
  Lane* scratch = static_cast<Lane*>(g.scratch);
  Lane *k_panels = scratch + at.k_panels, *values = scratch + at.values, *queries = scratch + at.queries;
  float* scores = reinterpret_cast<float*>(scratch + at.scores);

  const T *q = static_cast<const T*>(g.q), *k = static_cast<const T*>(g.k), *v = static_cast<const T*>(g.v);
  transpose_keys(k, g.ldk, g.keys, g.head_dim, at.head_lanes, k_panels);
  for (int64_t key = 0; key < g.keys; key += Dot::kLane)
    interleave(v + key * g.ldv, g.ldv, min64(g.keys - key, Dot::kLane), g.head_dim,
               values + key / Dot::kLane * at.value_width, at.value_width);

  // Rows of Q are a GEMM operand as they lie, if they start at lanes and the last lane needs no 0 at its end.
  const bool whole_lanes =
      g.head_dim % Dot::kLane == 0 && g.ldq % Dot::kLane == 0 && reinterpret_cast<uintptr_t>(q) % sizeof(Lane) == 0;
  for (int64_t q0 = 0; q0 < g.queries; q0 += kQueryBlock<Dot>) {
    const int64_t rows = min64(g.queries - q0, kQueryBlock<Dot>);
    const typename Isa::template Tile<Dot> tile(rows);
    const Lane* a = reinterpret_cast<const Lane*>(q + q0 * g.ldq);
    int64_t lda = g.ldq / Dot::kLane;
    if (!whole_lanes) {
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t lane = 0; lane < at.head_lanes; lane += kWidth)
          store_lanes(queries + i * at.head_lanes + lane,
                      load_row(q + (q0 + i) * g.ldq + lane * Dot::kLane, g.head_dim - lane * Dot::kLane),
                      min64(at.head_lanes - lane, kWidth));
      a = queries;
      lda = at.head_lanes;
    }
    for (int64_t key = 0; key < g.keys; key += kPanel)
      product(tile, rows, min64(at.columns - key, kPanel), at.head_lanes, a, lda, k_panels + key * at.head_lanes,
              kPanel, scores + key, at.columns);
    float inverse[kQueryBlock<Dot>];
    for (int64_t i = 0; i < rows; ++i) inverse[i] = 1.0f / softmax_row<T>(scores + i * at.columns, g.keys, g.scale);

    for (int64_t d = 0; d < at.value_width; d += kPanel) {
      const int64_t width = min64(at.value_width - d, kPanel);
      float weighted[kQueryBlock<Dot> * kPanel];
      product(tile, rows, width, lanes(g.keys, Dot::kLane), reinterpret_cast<const Lane*>(scores), at.columns,
              values + d, at.value_width, weighted, kPanel);
      const int64_t kept = min64(g.head_dim - d, kPanel);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < kept; j += kWidth)
          store_lanes(static_cast<T*>(g.out) + (q0 + i) * g.ldo + d + j, load(weighted + i * kPanel + j) * inverse[i],
                      min64(kept - j, kWidth));
    }
  }
}
