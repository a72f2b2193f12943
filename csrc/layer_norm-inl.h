// Layer norm (Ba, Kiros and Hinton, arXiv 1607.06450). Mean first, then the variance around it: the one-pass form loses
// digits when the mean is large.

static void layer_norm_row(const float* x, const float* gamma, const float* beta, float eps, int64_t n, float* out) {
  const int64_t whole = n - n % kWidth;
  const float count = static_cast<float>(n);
  Vec total{};
  for (int64_t i = 0; i < whole; i += kWidth) total += load(x + i);
  if (whole < n) total += load_part(x + whole, n - whole);
  const float mean = sum(total) / count;

  // What rounding left out of the mean shows as the mean of the centred values.
  Vec rests{}, squares{};
  for (int64_t i = 0; i < whole; i += kWidth) {
    const Vec centred = load(x + i) - mean;
    rests += centred;
    squares += centred * centred;
  }
  float rest = sum(rests), square = sum(squares);
  for (int64_t i = whole; i < n; ++i) {
    const float centred = x[i] - mean;
    rest += centred;
    square += centred * centred;
  }
  rest /= count;
  const float variance = square / count - rest * rest;
  const float scale = 1.0f / __builtin_sqrtf(variance + eps);

  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t lanes = min64(n - i, kWidth);
    const Vec centred = load_lanes(x + i, lanes) - mean - rest;
    const Vec y = centred * scale * load_lanes(gamma + i, lanes) + load_lanes(beta + i, lanes);
    store_lanes(out + i, y, lanes);
  }
}

static void layer_norm(const float* x, const float* gamma, const float* beta, float eps, int64_t rows, int64_t n,
                       float* out) {
  for (int64_t r = 0; r < rows; ++r) layer_norm_row(x + r * n, gamma, beta, eps, n, out + r * n);
}
