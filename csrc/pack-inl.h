// Weights [n, k] into panels, and float32 rows into GEMM operands. Panel p holds columns p * kPanel ... of W^T,
// depth-major in lanes; where a row does not fill its last lane the rest is 0.

template <class Dot>
static int64_t packed_bytes(int64_t n, int64_t k) {
  return (n + kPanel - 1) / kPanel * kPanel * lanes(k, Dot::kLane) * 4;
}

static void pack_f32(const float* rows, int64_t k, int64_t first, int64_t count, const PackedWeight& out) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t column = first + i;
    float* to = static_cast<float*>(out.panels) + column / kPanel * kPanel * k + column % kPanel;
    for (int64_t d = 0; d < k; ++d) to[d * kPanel] = rows[i * k + d];
  }
}

static void pack_bf16(const float* rows, int64_t k, int64_t first, int64_t count, const PackedWeight& out) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t column = first + i;
    Bf16* to = static_cast<Bf16*>(out.panels) + 2 * (column / kPanel * kPanel * lanes(k, 2) + column % kPanel);
    for (int64_t d0 = 0; d0 < k; d0 += kWidth) {
      const int64_t n = min64(k - d0, kWidth);
      Bf16 rounded[kWidth];
      store(rounded, load_lanes(rows + i * k + d0, n));
      for (int64_t d = d0; d < d0 + n; ++d) to[d / 2 * 2 * kPanel + d % 2] = rounded[d - d0];
    }
  }
}

static void convert_bf16(const float* x, int64_t rows, int64_t n, const float*, void* out, float*) {
  const int64_t width = 2 * lanes(n, 2);
  for (int64_t r = 0; r < rows; ++r) {
    Bf16* to = static_cast<Bf16*>(out) + r * 2 * operand_stride(n, 2);
    for (int64_t i = 0; i < n; i += kWidth)
      store_lanes(to + i, load_lanes(x + r * n + i, min64(n - i, kWidth)), min64(width - i, kWidth));
  }
}

// Largest magnitude of a row. Compared as integers, which order magnitudes the same and put NaN above all, so that a
// NaN shows in the scale and thus in the whole row.
template <typename T>
DISTILRT_INLINE float largest(const T* x, int64_t n) {
  IntVec top{};
  for (int64_t i = 0; i < n; i += kWidth) {
    const IntVec magnitude = as_ints(load_lanes(x + i, min64(n - i, kWidth))) & 0x7FFFFFFF;
    top = magnitude > top ? magnitude : top;
  }
  int32_t found[kWidth], best = 0;
  __builtin_memcpy(found, &top, sizeof(top));
  for (int i = 0; i < kWidth; ++i) best = found[i] > best ? found[i] : best;
  float value;
  __builtin_memcpy(&value, &best, sizeof(value));
  return value;
}

// Rows below this are taken for 0: the inverse of their scale would overflow.
constexpr float kSmallest = 1e-30f;

// x / scale, rounded to nearest even. The addition rounds: see exp().
DISTILRT_INLINE IntVec quantize(Vec x, float inverse_scale) {
  return as_ints(x * inverse_scale + 12582912.0f) - 0x4B400000;
}

static void pack_int8(const float* rows, int64_t k, int64_t first, int64_t count, const PackedWeight& out) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t column = first + i;
    const float scale = out.scaled ? out.column_scales[column] : largest(rows + i * k, k) / 127.0f;
    const float inverse = scale > kSmallest ? 1.0f / scale : 0.0f;
    int8_t* to = static_cast<int8_t*>(out.panels) + 4 * (column / kPanel * kPanel * lanes(k, 4) + column % kPanel);
    int32_t total = 0;
    for (int64_t d0 = 0; d0 < k; d0 += kWidth) {
      const int64_t n = min64(k - d0, kWidth);
      const IntVec q = quantize(load_lanes(rows + i * k + d0, n), inverse);
      int32_t values[kWidth];
      __builtin_memcpy(values, &q, sizeof(q));
      for (int64_t d = d0; d < d0 + n; ++d) {
        to[d / 4 * 4 * kPanel + d % 4] = static_cast<int8_t>(values[d - d0]);
        total += values[d - d0];
      }
    }
    out.column_scales[column] = scale;
    out.offsets[column] = total;
  }
}

// kWidth columns of two lanes of int8 weights as integers: four of one 16-bit sum of products, and the other four.
struct CodePair {
  IntVec sums[2][4];

  DISTILRT_INLINE CodePair load_at(const Lane* panel, int64_t lanes) {
    CodePair pair;
    const IntVec first = load(panel), second = lanes > 1 ? load(panel + kPanel) : IntVec{};
#pragma GCC unroll 4
    for (int byte = 0; byte < 4; ++byte) {
      pair.sums[byte / 2][byte % 2] = (first << (24 - 8 * byte)) >> 24;
      pair.sums[byte / 2][2 + byte % 2] = (second << (24 - 8 * byte)) >> 24;
    }
    return pair;
  }

  // The largest sum of the weights of one sum on one side of 0.
  DISTILRT_INLINE IntVec largest_side(const IntVec (&x)[4]) {
    IntVec above{}, below{};
#pragma GCC unroll 4
    for (const IntVec& each : x) {
      above += each & (each > 0);
      below -= each & (each < 0);
    }
    return above > below ? above : below;
  }
};

// Larger steps for columns with weights that share a sum and add up to more than kMost on a side of 0. Where rounding
// to nearest still leaves more, these few are rounded towards 0.
[[maybe_unused]] static void narrow_int8(const void* from, int64_t k, int64_t columns, const PackedWeight& out) {
  constexpr int kMost = 128;
  const int64_t depth = lanes(k, 4);
  for (int64_t column = 0; column < columns; column += kWidth) {
    const int64_t at = column / kPanel * kPanel * depth + column % kPanel;
    const Lane* panel = static_cast<const Lane*>(from) + at;
    Lane* to = static_cast<Lane*>(out.panels) + at;
    IntVec most = splat(kMost), total{};
    for (int64_t p = 0; p < depth; p += 2) {
      const CodePair pair = CodePair::load_at(panel + p * kPanel, depth - p);
      for (const auto& sum : pair.sums) {
        const IntVec side = CodePair::largest_side(sum);
        most = side > most ? side : most;
      }
    }
    const Vec ratio = __builtin_convertvector(most, Vec) / float(kMost), inverse = 1.0f / ratio;
    for (int64_t p = 0; p < depth; p += 2) {
      const CodePair pair = CodePair::load_at(panel + p * kPanel, depth - p);
      IntVec narrowed[2]{};
#pragma GCC unroll 2
      for (int s = 0; s < 2; ++s) {
        IntVec nearest[4], smaller[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const Vec exact = __builtin_convertvector(pair.sums[s][i], Vec) * inverse;
          nearest[i] = quantize(exact, 1.0f);
          smaller[i] = __builtin_convertvector(exact, IntVec);
        }
        const IntVec fits = CodePair::largest_side(nearest) <= kMost;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const IntVec code = fits ? nearest[i] : smaller[i];
          total += code;
          narrowed[i / 2] |= (code & 255) << (16 * s + 8 * (i % 2));
        }
      }
      store(to + p * kPanel, narrowed[0]);
      if (p + 1 < depth) store(to + (p + 1) * kPanel, narrowed[1]);
    }
    const int64_t n = min64(columns - column, kWidth);
    store_lanes(out.column_scales + column, load_lanes(out.column_scales + column, n) * ratio, n);
    store_lanes(out.offsets + column, total, n);
  }
}

// Each row by itself over its own range, smallest value to 0 and largest to 255: activations lie to one side (GELU) or
// have a few large columns, and a range around 0 would leave half of the steps unused.
template <typename T, bool kScaled>
static void convert_rows(const void* x, int64_t rows, int64_t n, int64_t stride, const float* input_scales, void* out,
                         float* scales) {
  typedef uint8_t ByteVec __attribute__((vector_size(kWidth), may_alias));
  const int64_t width = 4 * lanes(n, 4), whole = n - n % kWidth;
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = static_cast<const T*>(x) + r * stride;
    Byte* to = static_cast<Byte*>(out) + r * 4 * operand_stride(n, 4);
    const auto vec = [&](int64_t i, int64_t count) __attribute__((always_inline)) {
      const Vec v = load_lanes(from + i, count);
      if constexpr (kScaled) return v * load_lanes(input_scales + i, count);
      return v;
    };
    // Comparisons pass NaN over; zero times it, or times infinity, does not.
    const Vec start = splat(vec(0, 1)[0]);
    Vec low = start, high = start, poison{};
    for (int64_t i = 0; i < whole; i += kWidth) {
      const Vec v = vec(i, kWidth);
      low = at_most(low, v);
      high = at_least(high, v);
      poison += v * 0.0f;
    }
    for (int64_t i = whole; i < n; ++i) {
      const Vec v = splat(vec(i, 1)[0]);
      low = at_most(low, v);
      high = at_least(high, v);
      poison += v * 0.0f;
    }
    const float smallest = -max(-low), range = max(high) - smallest;
    const float inverse = range > kSmallest ? 255.0f / range : 0.0f;
    scales[2 * r] = range / 255.0f + sum(poison);
    scales[2 * r + 1] = smallest;
    for (int64_t i = 0; i < n; i += kWidth) {
      const IntVec q = quantize(vec(i, min64(n - i, kWidth)) - smallest, inverse);
      const ByteVec bytes = __builtin_convertvector(q - Isa::kByteZero, ByteVec);
      __builtin_memcpy(to + i, &bytes, static_cast<size_t>(min64(width - i, kWidth)));
    }
  }
}

template <typename T>
static void convert_int8(const void* x, int64_t rows, int64_t n, int64_t stride, const float* input_scales, void* out,
                         float* scales) {
  const auto convert = input_scales == nullptr ? convert_rows<T, false> : convert_rows<T, true>;
  convert(x, rows, n, stride, input_scales, out, scales);
}

static void convert_int8_f32(const float* x, int64_t rows, int64_t n, const float* input_scales, void* out,
                             float* scales) {
  convert_int8<float>(x, rows, n, n, input_scales, out, scales);
}

// Activations have rows of whole lanes of the widest kind.
template <typename Activation>
static void convert_int8_activations(const void* x, int64_t rows, int64_t n, const float* input_scales, void* out,
                                     float* scales) {
  convert_int8<Activation>(x, rows, n, activation_stride(n, sizeof(Activation)), input_scales, out, scales);
}
