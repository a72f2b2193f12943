// C = epilogue(A * W^T + bias): a register tile of kTileRows x kTileVecs vectors that broadcasts A against packed
// panels of W (the GotoBLAS scheme: Goto and van de Geijn, ACM TOMS 34(3), 2008). A is read where it lies.

// Sums of products by tiles of registers: the Tile of an instruction set that names no better one.
template <class Dot>
struct RegisterTile {
  using Sum = typename Dot::Sum;
  static constexpr int64_t kRows = kTileRows;  // of A that one call of multiply() takes, at most
  static constexpr int64_t kBlockRows = 128;   // of A for which a panel is read once, at most

  // For `rows` rows, of which each call should take so many.
  explicit RegisterTile(int64_t) {}
  static int64_t rows_each(int64_t) { return kRows; }
  // The depth of a slice of a panel, which all rows use before the next one.
  static constexpr int64_t slice() { return kDepth; }

  // out[i, j] (+)= sum over p of a[i, p] * b[p, j] for up to kRows rows and any number of vectors of columns.
  DISTILRT_INLINE void multiply(int64_t rows, int64_t vecs, int64_t depth, const Lane* a, int64_t lda, const Lane* b,
                                int64_t ldb, Ahead& ahead, bool accumulate, Sum* out, int64_t ldo) {
    for (int64_t j = 0; j < vecs; j += kTileVecs)
      tile_of<kTileRows, kTileVecs>(rows, min64(vecs - j, kTileVecs), depth, a, lda, b + j * kWidth, ldb, ahead,
                                    accumulate, out + j * kWidth, ldo);
  }

 private:
  template <int kTall, int kVecs>
  DISTILRT_INLINE void tile_of(int64_t rows, int64_t vecs, int64_t depth, const Lane* a, int64_t lda, const Lane* b,
                               int64_t ldb, Ahead& ahead, bool accumulate, Sum* out, int64_t ldo) {
    if constexpr (kVecs > 1) {
      if (vecs < kVecs)
        return tile_of<kTall, kVecs - 1>(rows, vecs, depth, a, lda, b, ldb, ahead, accumulate, out, ldo);
    }
    if constexpr (kTall > 1) {
      if (rows < kTall)
        return tile_of<kTall - 1, kVecs>(rows, vecs, depth, a, lda, b, ldb, ahead, accumulate, out, ldo);
    }
    ahead.at = tile<kTall, kVecs>(depth, a, lda, b, ldb, ahead, accumulate, out, ldo);
  }

  // Not inlined: inside larger functions the compiler spills the accumulators. Returns what is to be asked for next.
  template <int kTall, int kVecs>
  static __attribute__((noinline)) const Lane* tile(int64_t depth, const Lane* a, int64_t lda, const Lane* b,
                                                    int64_t ldb, Ahead ahead, bool accumulate, Sum* out, int64_t ldo) {
    typename Dot::Acc acc[kTall][kVecs];
#pragma GCC unroll 8
    for (int i = 0; i < kTall; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) acc[i][j] = typename Dot::Acc{};
    if (ahead.at >= ahead.end) ahead.lines = 0;
    for (; depth >= kGroup; depth -= kGroup) {
      for (int64_t line = 0; line < ahead.lines; ++line, ahead.at += kLine) __builtin_prefetch(ahead.at, 0, 2);
      if constexpr (Dot::kByElement) {
        int lanes = kGroup;
        asm("" : "+r"(lanes));  // A loop of two steps g++ unrolls whatever it is told, and then spills accumulators.
        for (; lanes > 0; lanes -= kWidth, a += kWidth, b += kWidth * ldb)
          step_by_element(acc, a, lda, b, ldb, IndicesTo<kWidth>{});
        continue;
      }
      constexpr int kStep = Dot::kPairs ? 2 : 1;
#pragma GCC unroll 1
      for (int p = 0; p < kGroup; p += kStep, a += kStep, b += kStep * ldb) step<kStep>(acc, a, lda, b, ldb);
    }
#pragma GCC unroll 1
    for (; depth > 0; --depth, ++a, b += ldb) step<1>(acc, a, lda, b, ldb);
#pragma GCC unroll 8
    for (int i = 0; i < kTall; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) {
        Sum* at = out + i * ldo + j * kWidth;
        store(at, accumulate ? load(at) + acc[i][j] : acc[i][j]);
      }
    return ahead.at;
  }

  // The next lane of the depth, or the next two.
  template <int kLanes, int kTall, int kVecs>
  DISTILRT_INLINE void step(typename Dot::Acc (&acc)[kTall][kVecs], const Lane* a, int64_t lda, const Lane* b,
                            int64_t ldb) {
    IntVec columns[kVecs][kLanes];
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j)
      for (int p = 0; p < kLanes; ++p) columns[j][p] = load(b + p * ldb + j * kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < kTall; ++i) {
      IntVec row[kLanes];
      for (int p = 0; p < kLanes; ++p) row[p] = splat(a[i * lda + p]);
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) acc[i][j] = Dot::step(acc[i][j], row, columns[j]);
    }
  }

  // A vector of lanes of each row of A. One vector of B at a time, as no more fit beside the accumulators.
  template <int kTall, int kVecs, int... kElements>
  DISTILRT_INLINE void step_by_element(typename Dot::Acc (&acc)[kTall][kVecs], const Lane* a, int64_t lda,
                                       const Lane* b, int64_t ldb, Indices<kElements...>) {
    IntVec row[kTall];
#pragma GCC unroll 8
    for (int i = 0; i < kTall; ++i) row[i] = load(a + i * lda);
    const auto add = [&](auto element) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) {
        const IntVec column = load(b + element.value * ldb + j * kWidth);
#pragma GCC unroll 8
        for (int i = 0; i < kTall; ++i) acc[i][j] = Dot::step(acc[i][j], row[i], column, element);
      }
    };
    (add(Element<kElements>{}), ...);
  }
};

template <Epilogue kEpilogue, typename Out>
DISTILRT_INLINE Vec activate(Vec x) {
  if constexpr (kEpilogue == Epilogue::kBiasGelu) return sizeof(Out) == sizeof(Bf16) ? gelu_bf16(x) : gelu(x);
  if constexpr (kEpilogue == Epilogue::kBiasGeluTanh) return gelu_tanh(x);
  if constexpr (kEpilogue == Epilogue::kBiasRelu) return relu(x);
  if constexpr (kEpilogue == Epilogue::kBiasSilu) return silu(x);
  return x;
}

// Moves `rows` finished sums of kVecs vectors of columns of one panel into C. What belongs to a column stays in
// registers for all rows.
template <class Dot, Epilogue kEpilogue, typename Out, int kVecs>
DISTILRT_INLINE void epilogue_of(const GemmArgs& g, const typename Dot::Sum* sums, int64_t row, int64_t rows,
                                 int64_t column, int64_t columns) {
  typename Dot::Columns constants[kVecs];
#pragma GCC unroll 8
  for (int j = 0; j < kVecs; ++j)
    constants[j] = Dot::columns(g, column + j * kWidth, min64(columns - j * kWidth, kWidth));
  for (int64_t i = row; i < row + rows; ++i, sums += kPanel) {
    Out* to = static_cast<Out*>(g.c) + i * g.ldc + column;
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) {
      const int64_t n = min64(columns - j * kWidth, kWidth);
      Vec x = activate<kEpilogue, Out>(Dot::finish(load(sums + j * kWidth), g, i, constants[j]));
      if constexpr (kEpilogue == Epilogue::kBiasResidual)
        x += load_lanes(g.residual + i * g.ldc + column + j * kWidth, n);
      // Padding columns hold 0 and activations keep it so: the GEMM that reads them next needs whole lanes.
      store_lanes(to + j * kWidth, x, g.narrow ? round_up(n, 4) : n);
    }
  }
}

template <class Dot, Epilogue kEpilogue, typename Out>
static void epilogue(const GemmArgs& g, const typename Dot::Sum* sums, int64_t row, int64_t rows, int64_t column) {
  constexpr int kVecs = kTileVecs;
  int64_t left = min64(g.n - column, kPanel);
  for (; left >= kVecs * kWidth; left -= kVecs * kWidth, column += kVecs * kWidth, sums += kVecs * kWidth)
    epilogue_of<Dot, kEpilogue, Out, kVecs>(g, sums, row, rows, column, kVecs * kWidth);
  for (; left > 0; left -= kWidth, column += kWidth, sums += kWidth)
    epilogue_of<Dot, kEpilogue, Out, 1>(g, sums, row, rows, column, min64(left, kWidth));
}

template <class Dot, typename Out>
static void run_epilogue(const GemmArgs& g, const typename Dot::Sum* sums, int64_t row, int64_t rows, int64_t column) {
  switch (g.epilogue) {
    case Epilogue::kBias: return epilogue<Dot, Epilogue::kBias, Out>(g, sums, row, rows, column);
    case Epilogue::kBiasGelu: return epilogue<Dot, Epilogue::kBiasGelu, Out>(g, sums, row, rows, column);
    case Epilogue::kBiasGeluTanh: return epilogue<Dot, Epilogue::kBiasGeluTanh, Out>(g, sums, row, rows, column);
    case Epilogue::kBiasRelu: return epilogue<Dot, Epilogue::kBiasRelu, Out>(g, sums, row, rows, column);
    case Epilogue::kBiasSilu: return epilogue<Dot, Epilogue::kBiasSilu, Out>(g, sums, row, rows, column);
    case Epilogue::kBiasResidual: return epilogue<Dot, Epilogue::kBiasResidual, Out>(g, sums, row, rows, column);
  }
}

// Up to kBlockRows rows of one panel. Weights come from memory, as all layers together are larger than any cache; the
// slice that follows is asked for while this one is used, a few lines at a time, so that a load in hand never queues
// behind many. Rows are dealt out evenly, so 128 rows are 22 tiles of 5 or 6 and no tile of 2.
template <class Dot, typename Activation>
static void gemm_block(const GemmArgs& g, int64_t m0, int64_t m1, int64_t column, const Lane* panel) {
  using Tile = typename Isa::template Tile<Dot>;
  alignas(64) typename Dot::Sum sums[Tile::kBlockRows * kPanel];
  const int64_t depth = lanes(g.k, Dot::kLane);
  const int64_t vecs = (min64(g.n - column, kPanel) + kWidth - 1) / kWidth;
  const int64_t tiles = (m1 - m0 + Tile::kRows - 1) / Tile::kRows;
  const int64_t loops = tiles * ((vecs + kTileVecs - 1) / kTileVecs);
  const Lane* a = static_cast<const Lane*>(g.a);
  const Tile tile(m1 - m0);
  const int64_t slice = tile.slice();
  for (int64_t p0 = 0; p0 < depth; p0 += slice) {
    const int64_t p1 = min64(p0 + slice, depth);
    Ahead ahead{panel + p1 * kPanel, panel + (2 * p1 - p0) * kPanel, (kGroup * kPanel / kLine + loops - 1) / loops};
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t row = (m1 - m0) * t / tiles;
      const int64_t rows = (m1 - m0) * (t + 1) / tiles - row;
      typename Dot::Sum* out = sums + row * kPanel;
      tile.multiply(rows, vecs, p1 - p0, a + (m0 + row) * g.lda + p0, g.lda, panel + p0 * kPanel, kPanel, ahead, p0 > 0,
                    out, kPanel);
      if (p1 < depth) continue;
      if (g.narrow)
        run_epilogue<Dot, Activation>(g, out, m0 + row, rows, column);
      else
        run_epilogue<Dot, float>(g, out, m0 + row, rows, column);
    }
  }
}

template <class Dot>
constexpr int64_t kBlockRows = Isa::template Tile<Dot>::kBlockRows;

template <class Dot, typename Activation>
static void gemm(const GemmArgs& g, int64_t m0, int64_t m1, int64_t first, int64_t last) {
  const int64_t size = kPanel * lanes(g.k, Dot::kLane);
  for (int64_t row = m0; row < m1; row += kBlockRows<Dot>)
    for (int64_t p = first; p < last; ++p)
      gemm_block<Dot, Activation>(g, row, min64(row + kBlockRows<Dot>, m1), p * kPanel,
                                  static_cast<const Lane*>(g.panels) + p * size);
}
