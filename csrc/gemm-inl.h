// C = epilogue(A * W^T + bias): a register tile of kTileRows x kTileVecs vectors that broadcasts A against packed
// panels of W (the GotoBLAS scheme: Goto and van de Geijn, ACM TOMS 34(3), 2008). A is read where it lies.

// Depth of one pass over a panel: a tile's rows of A stay in L1, a panel's slice in L2. Each slice is summed from 0 and
// then added, which rounds less than one long sum.
constexpr int64_t kDepth = 256;
// Rows of one panel that are summed in a buffer before the epilogue; several tiles reuse a panel slice meanwhile.
constexpr int64_t kBlockRows = 128;

DISTILRT_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

// out[i, j] (+)= sum over p of a[i, p] * b[p, j] for kRows rows and kVecs vectors of columns. Not inlined: inside
// larger functions the compiler spills the accumulators.
template <int kRows, int kVecs>
static __attribute__((noinline)) void tile(int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb,
                                           bool accumulate, float* out, int64_t ldo) {
  Vec acc[kRows][kVecs];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) acc[i][j] = Vec{};
  for (int64_t p = 0; p < depth; ++p, b += ldb) {
    Vec columns[kVecs];
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) columns[j] = load(b + j * kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const Vec broadcast = splat(a[i * lda + p]);
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) acc[i][j] += broadcast * columns[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) {
      float* at = out + i * ldo + j * kWidth;
      store(at, accumulate ? load(at) + acc[i][j] : acc[i][j]);
    }
}

// The same for any number of rows up to kRows, columns up to kVecs vectors.
template <int kRows, int kVecs>
DISTILRT_INLINE void multiply(int64_t rows, int64_t vecs, int64_t depth, const float* a, int64_t lda, const float* b,
                              int64_t ldb, bool accumulate, float* out, int64_t ldo) {
  if constexpr (kVecs > 1) {
    if (vecs < kVecs) return multiply<kRows, kVecs - 1>(rows, vecs, depth, a, lda, b, ldb, accumulate, out, ldo);
  }
  if constexpr (kRows > 1) {
    if (rows < kRows) return multiply<kRows - 1, kVecs>(rows, vecs, depth, a, lda, b, ldb, accumulate, out, ldo);
  }
  tile<kRows, kVecs>(depth, a, lda, b, ldb, accumulate, out, ldo);
}

template <Epilogue kEpilogue>
DISTILRT_INLINE Vec finish(Vec x, Vec residual) {
  if constexpr (kEpilogue == Epilogue::kBiasGelu) return gelu(x);
  if constexpr (kEpilogue == Epilogue::kBiasGeluTanh) return gelu_tanh(x);
  if constexpr (kEpilogue == Epilogue::kBiasRelu) return relu(x);
  if constexpr (kEpilogue == Epilogue::kBiasSilu) return silu(x);
  if constexpr (kEpilogue == Epilogue::kBiasResidual) return x + residual;
  return x;
}

// Moves `rows` finished sums of one panel, row stride kPanel, into C.
template <Epilogue kEpilogue>
static void epilogue(const GemmArgs& g, const float* sums, int64_t row, int64_t rows, int64_t column) {
  constexpr bool kAdds = kEpilogue == Epilogue::kBiasResidual;
  const int64_t columns = min64(g.n - column, kPanel);
  for (int64_t i = 0; i < rows; ++i) {
    const float* from = sums + i * kPanel;
    const int64_t at = (row + i) * g.ldc + column;
    int64_t j = 0;
    for (; j + kWidth <= columns; j += kWidth) {
      const Vec x = load(from + j) + load(g.bias + column + j);
      store(g.c + at + j, finish<kEpilogue>(x, kAdds ? load(g.residual + at + j) : Vec{}));
    }
    if (const int64_t rest = columns - j; rest > 0) {
      const Vec x = load(from + j) + load_part(g.bias + column + j, rest);
      store_part(g.c + at + j, finish<kEpilogue>(x, kAdds ? load_part(g.residual + at + j, rest) : Vec{}), rest);
    }
  }
}

static void run_epilogue(const GemmArgs& g, const float* sums, int64_t row, int64_t rows, int64_t column) {
  switch (g.epilogue) {
    case Epilogue::kBias: return epilogue<Epilogue::kBias>(g, sums, row, rows, column);
    case Epilogue::kBiasGelu: return epilogue<Epilogue::kBiasGelu>(g, sums, row, rows, column);
    case Epilogue::kBiasGeluTanh: return epilogue<Epilogue::kBiasGeluTanh>(g, sums, row, rows, column);
    case Epilogue::kBiasRelu: return epilogue<Epilogue::kBiasRelu>(g, sums, row, rows, column);
    case Epilogue::kBiasSilu: return epilogue<Epilogue::kBiasSilu>(g, sums, row, rows, column);
    case Epilogue::kBiasResidual: return epilogue<Epilogue::kBiasResidual>(g, sums, row, rows, column);
  }
}

// Up to kBlockRows rows of one panel. Rows are dealt out evenly, so 128 rows are 22 tiles of 5 or 6 and no tile of 2.
static void gemm_block(const GemmArgs& g, int64_t m0, int64_t m1, int64_t column, const float* panel) {
  alignas(64) float sums[kBlockRows * kPanel];
  const int64_t vecs = (min64(g.n - column, kPanel) + kWidth - 1) / kWidth;
  const int64_t tiles = (m1 - m0 + kTileRows - 1) / kTileRows;
  for (int64_t p0 = 0; p0 < g.k; p0 += kDepth) {
    const int64_t p1 = min64(p0 + kDepth, g.k);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t row = (m1 - m0) * t / tiles;
      const int64_t rows = (m1 - m0) * (t + 1) / tiles - row;
      float* out = sums + row * kPanel;
      multiply<kTileRows, kTileVecs>(rows, vecs, p1 - p0, g.a + (m0 + row) * g.lda + p0, g.lda, panel + p0 * kPanel,
                                     kPanel, p0 > 0, out, kPanel);
      if (p1 == g.k) run_epilogue(g, out, m0 + row, rows, column);
    }
  }
}

static void gemm(const GemmArgs& g, int64_t m0, int64_t m1, int64_t first, int64_t last) {
  for (int64_t row = m0; row < m1; row += kBlockRows)
    for (int64_t p = first; p < last; ++p)
      gemm_block(g, row, min64(row + kBlockRows, m1), p * kPanel, g.panels + p * kPanel * g.k);
}

static int64_t packed_size(int64_t n, int64_t k) { return (n + kPanel - 1) / kPanel * kPanel * k; }

// Panel p holds columns p * kPanel ... of W^T, depth-major.
static void pack(const float* rows, int64_t k, int64_t first, int64_t count, float* panels) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t column = first + i;
    float* to = panels + column / kPanel * kPanel * k + column % kPanel;
    for (int64_t d = 0; d < k; ++d) to[d * kPanel] = rows[i * k + d];
  }
}
