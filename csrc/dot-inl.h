// What a lane of 4 bytes means: one multiply-add step of a GEMM for each dtype, and how its sums become float32 with
// what belongs to their columns.

// Whether instructions take an Element of A.
template <class Set>
constexpr bool has_f32_element = requires(Vec x, IntVec y) { Set::dot_f32(x, y, y, Element<0>{}); };
template <class Set>
constexpr bool has_bf16_element = requires(Vec x, IntVec y) { Set::dot_bf16(x, y, y, Element<0>{}); };
template <class Set>
constexpr bool has_int8_element = requires(IntVec x) { Set::dot_int8(x, x, x, Element<0>{}); };

struct DotF32 {
  using Sum = float;
  using Acc = Vec;
  static constexpr int kLane = 1;
  static constexpr bool kPairs = false;                     // whether step() takes two lanes of the depth too
  static constexpr bool kByElement = has_f32_element<Isa>;  // and an Element of A
  DISTILRT_INLINE Vec step(Vec acc, const IntVec* a, const IntVec* b) { return acc + as_floats(*a) * as_floats(*b); }
  template <class Set = Isa>
  DISTILRT_INLINE Vec step(Vec acc, IntVec a, IntVec b, auto element) {
    return Set::dot_f32(acc, a, b, element);
  }
  struct Columns {
    Vec bias;
  };
  DISTILRT_INLINE Columns columns(const GemmArgs& g, int64_t column, int64_t n) {
    return {load_lanes(g.bias + column, n)};
  }
  DISTILRT_INLINE Vec finish(Vec sum, const GemmArgs&, int64_t, const Columns& c) { return sum + c.bias; }
};

// Pairs of bfloat16, products and sums in float32.
struct DotBf16 : DotF32 {
  static constexpr int kLane = 2;
  DISTILRT_INLINE Vec step(Vec acc, const IntVec* a, const IntVec* b) { return Isa::dot_bf16(acc, *a, *b); }
  static constexpr bool kByElement = has_bf16_element<Isa>;
  template <class Set = Isa>
  DISTILRT_INLINE Vec step(Vec acc, IntVec a, IntVec b, auto element) {
    return Set::dot_bf16(acc, a, b, element);
  }
};

// The step of products of activations.
template <typename Activation, int kBytes = sizeof(Activation)>
struct DotOf : DotF32 {};
template <typename Activation>
struct DotOf<Activation, sizeof(Bf16)> : DotBf16 {};

// Four int8, sums in int32, exact in every form. A is unsigned, as the VNNI instruction wants one operand, with the
// row's smallest value as its 0: a sum of a * w is step * sum(q * w) + smallest * sum(w).
struct DotInt8 {
  using Sum = int32_t;
  using Acc = IntVec;
  static constexpr int kLane = 4;
  static constexpr bool kPairs = Isa::kInt8Pairs;
  static constexpr bool kByElement = has_int8_element<Isa>;
  DISTILRT_INLINE IntVec step(IntVec acc, const IntVec (&a)[1], const IntVec (&b)[1]) {
    return Isa::dot_int8(acc, a[0], b[0]);
  }
  template <typename T>
  DISTILRT_INLINE IntVec step(IntVec acc, const T (&a)[2], const T (&b)[2]) {
    return Isa::dot_int8(acc, a, b);
  }
  template <class Set = Isa>
  DISTILRT_INLINE IntVec step(IntVec acc, IntVec a, IntVec b, auto element) {
    return Set::dot_int8(acc, a, b, element);
  }
  struct Columns {
    IntVec left_out;  // to be added to sums, because activations are stored less kByteZero
    Vec weights, scale, bias;
  };
  DISTILRT_INLINE Columns columns(const GemmArgs& g, int64_t column, int64_t n) {
    const IntVec weights = load_lanes(g.offsets + column, n);
    return {weights * Isa::kByteZero, __builtin_convertvector(weights, Vec), load_lanes(g.column_scales + column, n),
            load_lanes(g.bias + column, n)};
  }
  DISTILRT_INLINE Vec finish(IntVec sum, const GemmArgs& g, int64_t row, const Columns& c) {
    const float step = g.row_scales[2 * row], zero = g.row_scales[2 * row + 1];
    const Vec total = __builtin_convertvector(sum + c.left_out, Vec) * step + c.weights * zero;
    return total * c.scale + c.bias;
  }
};
