// What a lane of 4 bytes means: one multiply-add step of a GEMM for each dtype, and how its sums become float32 with
// what belongs to their columns.

struct DotF32 {
  using Sum = float;
  using Acc = Vec;
  static constexpr int kLane = 1;
  DISTILRT_INLINE Vec step(Vec acc, IntVec a, IntVec b) { return acc + as_floats(a) * as_floats(b); }
  struct Columns {
    Vec bias;
  };
  DISTILRT_INLINE Columns columns(const GemmArgs& g, int64_t column, int64_t n) {
    return {load_lanes(g.bias + column, n)};
  }
  DISTILRT_INLINE Vec finish(Vec sum, const GemmArgs&, int64_t, const Columns& c) { return sum + c.bias; }
};

#if defined(__AVX512BF16__)
// Pairs of bfloat16, products and sums in float32. The instruction flushes denormals.
struct DotBf16 {
  using Sum = float;
  using Acc = Vec;
  static constexpr int kLane = 2;
  DISTILRT_INLINE Vec step(Vec acc, IntVec a, IntVec b) {
    const __m512 y = _mm512_dpbf16_ps(reinterpret_cast<const __m512&>(acc), reinterpret_cast<const __m512bh&>(a),
                                      reinterpret_cast<const __m512bh&>(b));
    return reinterpret_cast<const Vec&>(y);
  }
  using Columns = DotF32::Columns;
  DISTILRT_INLINE Columns columns(const GemmArgs& g, int64_t column, int64_t n) {
    return DotF32::columns(g, column, n);
  }
  DISTILRT_INLINE Vec finish(Vec sum, const GemmArgs& g, int64_t row, const Columns& c) {
    return DotF32::finish(sum, g, row, c);
  }
};
#endif

// Four int8, sums in int32, exact in every form. A is unsigned, as the VNNI instruction wants one operand, with the
// row's smallest value as its 0: a sum of a * w is step * sum(q * w) + smallest * sum(w).
struct DotInt8 {
  using Sum = int32_t;
  using Acc = IntVec;
  static constexpr int kLane = 4;
  DISTILRT_INLINE IntVec step(IntVec acc, IntVec a, IntVec b) {
#if defined(__AVX512VNNI__)
    const __m512i y = _mm512_dpbusd_epi32(reinterpret_cast<const __m512i&>(acc), reinterpret_cast<const __m512i&>(a),
                                          reinterpret_cast<const __m512i&>(b));
    return reinterpret_cast<const IntVec&>(y);
#elif defined(__AVXVNNI__)
    const __m256i y = _mm256_dpbusd_avx_epi32(reinterpret_cast<const __m256i&>(acc),
                                              reinterpret_cast<const __m256i&>(a), reinterpret_cast<const __m256i&>(b));
    return reinterpret_cast<const IntVec&>(y);
#elif defined(__AVX512BW__)
    // Unsigned times signed pairs would saturate at 16 bits (255 * 127 * 2), so bytes widen to 16 bits first.
    const __m512i x = reinterpret_cast<const __m512i&>(a), w = reinterpret_cast<const __m512i&>(b);
    const __m512i even =
        _mm512_madd_epi16(_mm512_and_si512(x, _mm512_set1_epi16(255)), _mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8));
    const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(x, 8), _mm512_srai_epi16(w, 8));
    const __m512i both = _mm512_add_epi32(even, odd);
    return acc + reinterpret_cast<const IntVec&>(both);
#elif defined(__AVX2__)
    const __m256i x = reinterpret_cast<const __m256i&>(a), w = reinterpret_cast<const __m256i&>(b);
    const __m256i even =
        _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(w, 8));
    const __m256i both = _mm256_add_epi32(even, odd);
    return acc + reinterpret_cast<const IntVec&>(both);
#else
    for (int byte = 0; byte < 4; ++byte) acc += ((a >> (8 * byte)) & 255) * ((b << (24 - 8 * byte)) >> 24);
    return acc;
#endif
  }
  struct Columns {
    Vec weights, scale, bias;
  };
  DISTILRT_INLINE Columns columns(const GemmArgs& g, int64_t column, int64_t n) {
    return {__builtin_convertvector(load_lanes(g.offsets + column, n), Vec), load_lanes(g.column_scales + column, n),
            load_lanes(g.bias + column, n)};
  }
  DISTILRT_INLINE Vec finish(IntVec sum, const GemmArgs& g, int64_t row, const Columns& c) {
    const float step = g.row_scales[2 * row], zero = g.row_scales[2 * row + 1];
    const Vec total = __builtin_convertvector(sum, Vec) * step + c.weights * zero;
    return total * c.scale + c.bias;
  }
};
