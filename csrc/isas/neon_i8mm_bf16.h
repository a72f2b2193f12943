// NEON with products of unsigned by signed bytes, and of bfloat16.
#pragma once

#include "neon.h"

template <class Dot, int kLane = Dot::kLane>
struct MatrixTile;

struct neon_i8mm_bf16 : neon {
  using Activation = Bf16;
  template <class Dot>
  using Tile = MatrixTile<Dot>;

  static constexpr int32_t kByteZero = 0;  // products are of unsigned by signed bytes

  DISTILRT_INLINE HalfVec to_half(Vec x) { return vreinterpret_u16_bf16(vcvt_bf16_f32(x)); }

  template <int kLane = 0>
  DISTILRT_INLINE IntVec dot_int8(IntVec acc, IntVec a, IntVec b, Element<kLane> = {}) {
    return vsudotq_laneq_s32(acc, vreinterpretq_s8_s32(b), vreinterpretq_u8_s32(a), kLane);
  }

  // The instruction flushes denormals.
  template <int kLane = 0>
  DISTILRT_INLINE Vec dot_bf16(Vec acc, IntVec a, IntVec b, Element<kLane> = {}) {
    return vbfdotq_laneq_f32(acc, vreinterpretq_bf16_s32(b), vreinterpretq_bf16_s32(a), kLane);
  }

  // acc[2, 2] plus the products of two rows of two lanes with two columns of two lanes. Sums of bfloat16 are those of
  // two dot_bf16, bit by bit.
  DISTILRT_INLINE IntVec multiply(IntVec acc, IntVec a, IntVec b) {
    return vusmmlaq_s32(acc, vreinterpretq_u8_s32(a), vreinterpretq_s8_s32(b));
  }
  DISTILRT_INLINE Vec multiply(Vec acc, IntVec a, IntVec b) {
    return vbfmmlaq_f32(acc, vreinterpretq_bf16_s32(a), vreinterpretq_bf16_s32(b));
  }
};

// Products of bytes and of bfloat16 by matrix instructions: twice the multiply-adds of a dot product's, which one row
// would leave half unused.
template <class Dot, int kLane>
struct MatrixTile {
  using Sum = typename Dot::Sum;
  static constexpr int64_t kRows = 8, kBlockRows = RegisterTile<Dot>::kBlockRows;

  // As RegisterTile's.
  explicit MatrixTile(int64_t) {}
  static int64_t rows_each(int64_t) { return kRows; }
  static constexpr int64_t slice() { return kDepth; }
  DISTILRT_INLINE void multiply(int64_t rows, int64_t vecs, int64_t depth, const Lane* a, int64_t lda, const Lane* b,
                                int64_t ldb, Ahead& ahead, bool accumulate, Sum* out, int64_t ldo) {
    if (rows <= 2) return RegisterTile<Dot>::multiply(rows, vecs, depth, a, lda, b, ldb, ahead, accumulate, out, ldo);
    alignas(64) Lane pairs[kDepth / 2 * kStep];
    for (int64_t i = 0; i < kRows; i += 2)  // past the end the last row, which is not stored
      pair_rows(depth, a + min64(i, rows - 1) * lda, a + min64(i + 1, rows - 1) * lda, pairs + 2 * i);
    for (int64_t j = 0; j < vecs; j += 2)
      tile_of<kRows / 2, 2>(rows, min64(vecs - j, 2), depth, pairs, b + j * kWidth, ldb, ahead, accumulate,
                            out + j * kWidth, ldo);
  }

 private:
  static constexpr int64_t kStep = 2 * kRows;  // lanes of A in a step of two lanes of the depth

  // Two rows of A, two lanes of one by two of the other; a last lane alone is followed by 0.
  static void pair_rows(int64_t depth, const Lane* first, const Lane* second, Lane* out) {
    for (int64_t p = 0; p < depth; p += 4, out += 2 * kStep) {
      IntVec x{}, y{};
      const size_t size = min64(depth - p, 4) * sizeof(Lane);
      __builtin_memcpy(&x, first + p, size);
      __builtin_memcpy(&y, second + p, size);
      store(out, __builtin_shufflevector(x, y, 0, 1, 4, 5));
      if (p + 2 < depth) store(out + kStep, __builtin_shufflevector(x, y, 2, 3, 6, 7));
    }
  }

  template <int kPairs, int kColumns>
  DISTILRT_INLINE void tile_of(int64_t rows, int64_t vecs, int64_t depth, const Lane* pairs, const Lane* b, int64_t ldb,
                               Ahead& ahead, bool accumulate, Sum* out, int64_t ldo) {
    if constexpr (kColumns > 1) {
      if (vecs < kColumns)
        return tile_of<kPairs, kColumns - 1>(rows, vecs, depth, pairs, b, ldb, ahead, accumulate, out, ldo);
    }
    if constexpr (kPairs > 2) {
      if (rows <= 2 * kPairs - 2)
        return tile_of<kPairs - 1, kColumns>(rows, vecs, depth, pairs, b, ldb, ahead, accumulate, out, ldo);
    }
    ahead.at = tile<kPairs, kColumns>(rows, depth, pairs, b, ldb, ahead, accumulate, out, ldo);
  }

  // Returns what is to be asked for next.
  template <int kPairs, int kColumns>
  static __attribute__((noinline)) const Lane* tile(int64_t rows, int64_t depth, const Lane* pairs, const Lane* b,
                                                    int64_t ldb, Ahead ahead, bool accumulate, Sum* out, int64_t ldo) {
    typename Dot::Acc acc[kPairs][2 * kColumns]{};
    // A tile has half the columns, and so twice the calls, of those by which lines are counted.
    ahead.lines = ahead.at < ahead.end ? (ahead.lines + 1) / 2 : 0;
    for (; depth >= kGroup; depth -= kGroup) {
      for (int64_t line = 0; line < ahead.lines; ++line, ahead.at += kLine) __builtin_prefetch(ahead.at, 0, 2);
#pragma GCC unroll 1
      for (int p = 0; p < kGroup; p += 2, pairs += kStep, b += 2 * ldb)
        step<kPairs, kColumns>(acc, pairs, b, ldb, true);
    }
#pragma GCC unroll 1
    for (; depth > 0; depth -= 2, pairs += kStep, b += 2 * ldb) step<kPairs, kColumns>(acc, pairs, b, ldb, depth > 1);
#pragma GCC unroll 4
    for (int i = 0; i < kPairs; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < kColumns; ++j) {
        const auto x = acc[i][2 * j], y = acc[i][2 * j + 1];
        put(out + 2 * i * ldo + j * kWidth, __builtin_shufflevector(x, y, 0, 1, 4, 5), accumulate);
        if (2 * i + 1 < rows)
          put(out + (2 * i + 1) * ldo + j * kWidth, __builtin_shufflevector(x, y, 2, 3, 6, 7), accumulate);
      }
    return ahead.at;
  }

  // The next two lanes of the depth, or the last one.
  template <int kPairs, int kColumns>
  DISTILRT_INLINE void step(typename Dot::Acc (&acc)[kPairs][2 * kColumns], const Lane* pairs, const Lane* b,
                            int64_t ldb, bool both) {
    const int32x4x4_t rows = vld1q_s32_x4(pairs);
    IntVec columns[2 * kColumns];
#pragma GCC unroll 2
    for (int j = 0; j < kColumns; ++j) {
      const IntVec x = load(b + j * kWidth), y = both ? load(b + ldb + j * kWidth) : IntVec{};
      columns[2 * j] = __builtin_shufflevector(x, y, 0, 4, 1, 5);
      columns[2 * j + 1] = __builtin_shufflevector(x, y, 2, 6, 3, 7);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kPairs; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < 2 * kColumns; ++j) acc[i][j] = neon_i8mm_bf16::multiply(acc[i][j], rows.val[i], columns[j]);
  }

  DISTILRT_INLINE void put(Sum* at, typename Dot::Acc x, bool accumulate) { store(at, accumulate ? load(at) + x : x); }
};

// One float32 is no less than a lane.
template <class Dot>
struct MatrixTile<Dot, 1> : RegisterTile<Dot> {
  using RegisterTile<Dot>::RegisterTile;
};
