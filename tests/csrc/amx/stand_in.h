// An instruction set for any x86-64 CPU with AVX2, on vectors of the compiler, whose tiles are arrays. It does what the
// instructions do and throws where they fault, or where a tile is used that nothing was loaded into. A destructor
// releases tiles and may not throw, so what is wrong there is thrown by what uses tiles next.
#pragma once

constexpr int kWidth = 16;
constexpr int kTileRows = 6, kTileVecs = 1;

#include "vec.h"

struct amx_stand_in : Portable {
  using Activation = Bf16;

  class Unit {
   public:
    static void configure(const void* shapes) {
      check(!released_too_often, "tiles were released that were not configured");
      check(tiles[0].rows == 0, "tiles were not released");
      unsigned char bytes[64];
      __builtin_memcpy(bytes, shapes, sizeof(bytes));
      check(bytes[0] == 1, "the palette is not 1");
      for (int i = 1; i < 16; ++i) check(bytes[i] == 0, "a reserved byte is set");
      for (int i = 0; i < 16; ++i) {
        uint16_t row_bytes;
        __builtin_memcpy(&row_bytes, bytes + 16 + 2 * i, sizeof(row_bytes));
        check(row_bytes <= 64 && row_bytes % 4 == 0 && bytes[48 + i] <= 16, "a tile is too large");
        check((row_bytes == 0) == (bytes[48 + i] == 0), "a tile has rows or columns alone");
        if (i < 8)
          tiles[i] = {bytes[48 + i], row_bytes / 4, false, {}};
        else
          check(row_bytes == 0, "there are 8 tiles");
      }
    }
    static void release() {
      if (tiles[0].rows == 0) released_too_often = true;
      for (Tile& tile : tiles) tile = {};
    }
    template <int kTile>
    static void zero() {
      Tile& tile = configured<kTile>();
      __builtin_memset(tile.lanes, 0, sizeof(tile.lanes));
      tile.loaded = true;
    }
    template <int kTile>
    static void load(const void* from, int64_t stride) {
      Tile& tile = configured<kTile>();
      __builtin_memset(tile.lanes, 0, sizeof(tile.lanes));
      for (int i = 0; i < tile.rows; ++i)
        __builtin_memcpy(tile.lanes[i], static_cast<const Lane*>(from) + i * stride,
                         static_cast<size_t>(tile.columns) * sizeof(Lane));
      tile.loaded = true;
    }
    template <int kTile>
    static void store(void* to, int64_t stride) {
      const Tile& tile = loaded<kTile>();
      for (int i = 0; i < tile.rows; ++i)
        __builtin_memcpy(static_cast<Lane*>(to) + i * stride, tile.lanes[i],
                         static_cast<size_t>(tile.columns) * sizeof(Lane));
    }
    template <int kLane, int kSums, int kA, int kB>
    static void multiply() {
      static_assert(kSums != kA && kSums != kB && kA != kB);
      Tile& sums = loaded<kSums>();
      const Tile &a = loaded<kA>(), &b = loaded<kB>();
      check(sums.rows == a.rows && sums.columns == b.columns && a.columns == b.rows, "shapes of tiles do not fit");
      for (int i = 0; i < a.rows; ++i) {
        if constexpr (kLane == 4)
          add_int8(sums.lanes[i], a.lanes[i], b);
        else
          add_bf16(sums.lanes[i], a.lanes[i], b);
      }
    }
    DISTILRT_INLINE IntVec load_part(const Lane* from, int64_t n) {
      check(n > 0 && n < kWidth, "a part of a row is none or all of it");
      IntVec x{};
      __builtin_memcpy(&x, from, static_cast<size_t>(n) * sizeof(Lane));
      return x;
    }

   private:
    struct Tile {
      int rows, columns;  // 0: not configured
      bool loaded;
      Lane lanes[16][16];
    };
    static inline thread_local Tile tiles[8];
    static inline thread_local bool released_too_often;

    static void check(bool right, const char* wrong) {
      if (!right) throw std::logic_error(wrong);
    }
    template <int kTile>
    static Tile& configured() {
      static_assert(kTile >= 0 && kTile < 8);
      check(tiles[kTile].rows > 0, "a tile is not configured");
      return tiles[kTile];
    }
    template <int kTile>
    static Tile& loaded() {
      check(configured<kTile>().loaded, "a tile is used that nothing was loaded into");
      return tiles[kTile];
    }

    static void add_int8(Lane* sums, const Lane* a, const Tile& b) {
      for (int k = 0; k < b.rows; ++k)
        for (int byte = 0; byte < 32; byte += 8)
          for (int j = 0; j < 16; ++j)
            sums[j] += static_cast<uint8_t>(a[k] >> byte) * static_cast<int8_t>(b.lanes[k][j] >> byte);
    }

    // Denormals are zeros, before and behind each operation.
    static float flushed(float x) { return __builtin_fabsf(x) < 0x1p-126f ? 0.0f : x; }
    static float upper(Lane lane) {
      float x;
      lane &= ~0xFFFF;
      __builtin_memcpy(&x, &lane, sizeof(x));
      return flushed(x);
    }
    static float lower(Lane lane) { return upper(lane << 16); }
    // The first and the second elements of lanes are summed apart, from 0.
    static void add_bf16(Lane* sums, const Lane* a, const Tile& b) {
      float first[16] = {}, second[16] = {}, sum[16];
      for (int k = 0; k < b.rows; ++k)
        for (int j = 0; j < 16; ++j) {
          first[j] = flushed(__builtin_fmaf(lower(a[k]), lower(b.lanes[k][j]), first[j]));
          second[j] = flushed(__builtin_fmaf(upper(a[k]), upper(b.lanes[k][j]), second[j]));
        }
      __builtin_memcpy(sum, sums, sizeof(sum));
      for (int j = 0; j < 16; ++j) sum[j] = flushed(flushed(sum[j]) + flushed(first[j] + second[j]));
      __builtin_memcpy(sums, sum, sizeof(sum));
    }
  };

  template <class Dot>
  using Tile = AmxTile<Dot, Unit>;
};
