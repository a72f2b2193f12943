// softmax(Q K^T * scale) V for one sequence and one attention head, without a mask: packed rows have no padding.
//
// K is transposed into panels and V copied next to it, once; then each block of query rows has its whole score row in
// L2, so softmax is the plain two-pass form (max, then exp and sum) and the division waits until after V.

constexpr int64_t kQueryBlock = 8 * kTileRows;

DISTILRT_INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

static int64_t attention_scratch(int64_t keys, int64_t head_dim) {
  const int64_t columns = round_up(keys, kPanel);
  return columns * head_dim + keys * round_up(head_dim, kWidth) + kQueryBlock * columns;
}

// out[rows, width] = A[rows, depth] * B[depth, width]; width is a whole number of vectors, at most a panel.
static void product(int64_t rows, int64_t width, int64_t depth, const float* a, int64_t lda, const float* b,
                    int64_t ldb, float* out, int64_t ldo) {
  for (int64_t p = 0; p < depth; p += kDepth)
    for (int64_t i = 0; i < rows; i += kTileRows)
      multiply<kTileRows, kTileVecs>(min64(rows - i, kTileRows), width / kWidth, min64(depth - p, kDepth),
                                     a + i * lda + p, lda, b + p * ldb, ldb, p > 0, out + i * ldo, ldo);
}

// Turns a row of scores into exp(scale * (score - max)) and returns their sum.
DISTILRT_INLINE float softmax_row(float* scores, int64_t n, float scale) {
  const int64_t whole = n - n % kWidth;
  Vec highest = splat(scores[0]);
  for (int64_t i = 0; i < whole; i += kWidth) highest = at_least(highest, load(scores + i));
  float top = max(highest);
  for (int64_t i = whole; i < n; ++i) top = scores[i] > top ? scores[i] : top;
  Vec total{};
  for (int64_t i = 0; i < whole; i += kWidth) {
    const Vec e = exp((load(scores + i) - top) * scale);
    store(scores + i, e);
    total += e;
  }
  float rest = 0.0f;
  if (whole < n) {
    const Vec e = exp((load_part(scores + whole, n - whole) - top) * scale);
    store_part(scores + whole, e, n - whole);
    for (int64_t i = whole; i < n; ++i) rest += scores[i];
  }
  return sum(total) + rest;
}

static void attention(const AttentionArgs& g) {
  const int64_t columns = round_up(g.keys, kPanel);
  const int64_t value_width = round_up(g.head_dim, kWidth);
  float* k_panels = g.scratch;
  float* values = k_panels + columns * g.head_dim;
  float* scores = values + g.keys * value_width;

  for (int64_t key = 0; key < columns; ++key) {
    float* at = k_panels + key / kPanel * kPanel * g.head_dim + key % kPanel;
    for (int64_t d = 0; d < g.head_dim; ++d) at[d * kPanel] = key < g.keys ? g.k[key * g.ld + d] : 0.0f;
  }
  for (int64_t key = 0; key < g.keys; ++key) {
    for (int64_t d = 0; d < g.head_dim; ++d) values[key * value_width + d] = g.v[key * g.ld + d];
    for (int64_t d = g.head_dim; d < value_width; ++d) values[key * value_width + d] = 0.0f;
  }

  for (int64_t q0 = 0; q0 < g.queries; q0 += kQueryBlock) {
    const int64_t rows = min64(g.queries - q0, kQueryBlock);
    for (int64_t key = 0; key < g.keys; key += kPanel)
      product(rows, kPanel, g.head_dim, g.q + q0 * g.ld, g.ld, k_panels + key * g.head_dim, kPanel, scores + key,
              columns);
    float inverse[kQueryBlock];
    for (int64_t i = 0; i < rows; ++i) inverse[i] = 1.0f / softmax_row(scores + i * columns, g.keys, g.scale);

    for (int64_t d = 0; d < value_width; d += kPanel) {
      const int64_t width = min64(value_width - d, kPanel);
      float weighted[kQueryBlock * kPanel];
      product(rows, width, g.keys, scores, columns, values + d, value_width, weighted, kPanel);
      const int64_t kept = min64(g.head_dim - d, kPanel);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < kept; ++j) g.out[(q0 + i) * g.ldo + d + j] = weighted[i * kPanel + j] * inverse[i];
    }
  }
}
