// Sums of products by AMX: eight tiles of up to 16 rows of 64 bytes. A tile of B is 16 columns of 16 lanes of the
// depth, as packed panels lie. `Unit` has the instructions.

template <class Dot, class Unit, int kLane>
class AmxTile {
 public:
  using Sum = typename Dot::Sum;

 private:
  static constexpr int64_t kSide = 16;      // rows of a tile, and lanes of a row
  static constexpr int kOfA = 4, kOfB = 6;  // the first of two tiles of A, and of B; tiles of sums come before
  // Vectors suit fewer rows better. Only int8 sums are the same by both, and a row's result must not depend on how many
  // others there are: for bfloat16 AMX sums the first and the second elements of lanes apart.
  static constexpr int64_t kFewest = kLane == 4 ? 5 : 1;
  // Two tiles of rows are read again for the other half of a panel, and the panel for other rows, so that a slice of
  // both must stay in L1.
  static constexpr int64_t kSlice = 96;

 public:
  static constexpr int64_t kRows = 2 * kSide;
  // 128 rows use a panel up in the time that it takes to read the next one from memory.
  static constexpr int64_t kBlockRows = 256;

  // Configures this thread's tiles for `rows` rows that are dealt out evenly over calls of multiply(). They are
  // released with this object: the thread may be a caller's, who has other libraries with tiles.
  explicit AmxTile(int64_t rows)
      : height_(rows < kFewest ? 0 : height_of(rows_each(rows))), slice_(rows <= kSide ? kDepth : kSlice) {
    if (height_ == 0) return;
    alignas(64) Shapes shapes{};
    shapes.palette = 1;
    for (int tile = 0; tile < 8; ++tile) {
      shapes.row_bytes[tile] = kSide * sizeof(Lane);
      shapes.rows[tile] = static_cast<uint8_t>(tile < kOfB ? height_ : kSide);
    }
    Unit::configure(&shapes);
  }
  ~AmxTile() {
    if (height_ > 0) Unit::release();
  }
  AmxTile(const AmxTile&) = delete;
  AmxTile& operator=(const AmxTile&) = delete;

  // Of `rows` rows, how many each call of multiply() takes; the last may have fewer, though more than half.
  static int64_t rows_each(int64_t rows) {
    const int64_t calls = (rows + kRows - 1) / kRows;
    return (rows + calls - 1) / calls;
  }

  // Sums go on from slice to slice, so its depth does not change them.
  int64_t slice() const { return slice_; }

  // As RegisterTile's. More rows than a tile has are two tiles, which may share some.
  void multiply(int64_t rows, int64_t vecs, int64_t depth, const Lane* a, int64_t lda, const Lane* b, int64_t ldb,
                Ahead& ahead, bool accumulate, Sum* out, int64_t ldo) const {
    static_assert(kLane > 1 && kWidth == kSide);
    if (height_ == 0)
      return RegisterTile<Dot>::multiply(rows, vecs, depth, a, lda, b, ldb, ahead, accumulate, out, ldo);
    Job job{rows, rows - height_, depth, a, lda, b, ldb, ahead, accumulate, out, ldo};
    if (job.lower == 0) return sums_of<1, 4>(vecs, job);
    for (; vecs > 0; vecs -= 2, job.b += 2 * kSide, job.out += 2 * kSide) sums_of<2, 2>(vecs, job);
  }

 private:
  // What the processor reads.
  struct Shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };
  struct Job {
    int64_t rows, lower;  // `lower` is where the second tile of rows starts
    int64_t depth;
    const Lane* a;
    int64_t lda;
    const Lane* b;
    int64_t ldb;
    Ahead& ahead;
    bool accumulate;
    Sum* out;
    int64_t ldo;
  };

  static int64_t height_of(int64_t rows) { return rows > kSide ? (rows + 1) / 2 : rows; }

  template <int kTall, int kWide>
  DISTILRT_INLINE void sums_of(int64_t wide, const Job& job) {
    if constexpr (kWide > 1) {
      if (wide < kWide) return sums_of<kTall, kWide - 1>(wide, job);
    }
    sums<kTall, kWide>(job);
  }

  // Tile kWide * i + j has the sums of tile i of A and tile j of B. A copy of the job stays in registers beside stores.
  template <int kTall, int kWide>
  static __attribute__((noinline)) void sums(Job job) {
    start<kWide>(job, IndicesTo<kTall * kWide>{});
    // One tile of rows uses weights as fast as they can come, and the processor looks ahead by itself. With two, a
    // panel is two calls of this function.
    const int64_t lines = kTall > 1 && job.ahead.at < job.ahead.end ? job.ahead.lines * (kSide / kGroup) / kTall : 0;
    const Lane* ahead = job.ahead.at;
    int64_t p = 0;
    for (; p + kSide <= job.depth; p += kSide) {
      for (int64_t line = 0; line < lines; ++line, ahead += kLine) __builtin_prefetch(ahead, 0, 2);
      step<kTall>(job.a + p, job.lda, job.lower, job.b + p * job.ldb, job.ldb, IndicesTo<kWide>{});
    }
    if (p < job.depth) last_step<kTall, kWide>(job, p, job.depth - p);
    job.ahead.at = ahead;
    finish<kWide>(job, IndicesTo<kTall * kWide>{});
  }

  template <int kTall, int... j>
  DISTILRT_INLINE void step(const Lane* a, int64_t lda, int64_t lower, const Lane* b, int64_t ldb, Indices<j...>) {
    Unit::template load<kOfA>(a, lda);
    if constexpr (kTall > 1) Unit::template load<kOfA + 1>(a + lower * lda, lda);
    (column<kTall, sizeof...(j), j>(b, ldb), ...);
  }
  template <int kTall, int kWide, int j>
  DISTILRT_INLINE void column(const Lane* b, int64_t ldb) {
    constexpr int kTile = kOfB + j % 2;
    Unit::template load<kTile>(b + j * kSide, ldb);
    Unit::template multiply<kLane, j, kOfA, kTile>();
    if constexpr (kTall > 1) Unit::template multiply<kLane, kWide + j, kOfA + 1, kTile>();
  }

  // The step of less than a tile's depth, over copies with zeros behind them.
  template <int kTall, int kWide>
  DISTILRT_INLINE void last_step(const Job& job, int64_t p, int64_t depth) {
    alignas(64) Lane a[kTall * kSide * kSide], b[kSide * kWide * kSide];
    for (int64_t i = 0; i < job.rows; ++i) store(a + i * kSide, Unit::load_part(job.a + i * job.lda + p, depth));
#pragma GCC unroll 1
    for (int64_t lane = 0; lane < kSide; ++lane)
      for (int64_t j = 0; j < kWide * kSide; j += kSide)
        store(b + lane * kWide * kSide + j, lane < depth ? load(job.b + (p + lane) * job.ldb + j) : IntVec{});
    step<kTall>(a, kSide, job.lower, b, kWide * kSide, IndicesTo<kWide>{});
  }

  template <int kWide>
  DISTILRT_INLINE Sum* place(const Job& job, int tile) {
    return job.out + (tile < kWide ? 0 : job.lower * job.ldo) + tile % kWide * kSide;
  }
  template <int kWide, int... tile>
  DISTILRT_INLINE void start(const Job& job, Indices<tile...>) {
    if (job.accumulate)
      (Unit::template load<tile>(place<kWide>(job, tile), job.ldo), ...);
    else
      (Unit::template zero<tile>(), ...);
  }
  template <int kWide, int... tile>
  DISTILRT_INLINE void finish(const Job& job, Indices<tile...>) {
    (Unit::template store<tile>(place<kWide>(job, tile), job.ldo), ...);
  }

  const int64_t height_;  // rows of a tile; 0: no tiles
  const int64_t slice_;
};

// A lane of one float32 is none of AMX's.
template <class Dot, class Unit>
struct AmxTile<Dot, Unit, 1> : RegisterTile<Dot> {
  using RegisterTile<Dot>::RegisterTile;
};
