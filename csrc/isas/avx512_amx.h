// AVX-512 with 8-bit and bfloat16 products, by tiles where there are rows enough.
#pragma once

#include "avx512_bf16.h"

struct avx512_amx : avx512_bf16 {
  // The compiler's own names take no template parameter for a tile. It uses no tile itself.
  struct Unit {
    DISTILRT_INLINE void configure(const void* shapes) { __asm__ volatile("ldtilecfg (%0)" ::"r"(shapes) : "memory"); }
    DISTILRT_INLINE void release() { __asm__ volatile("tilerelease"); }
    template <int kTile>
    DISTILRT_INLINE void zero() {
      __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
    }
    // Rows of 16 lanes, `stride` lanes apart.
    template <int kTile>
    DISTILRT_INLINE void load(const void* from, int64_t stride) {
      __asm__ volatile("tileloadd (%0,%1,4), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile) : "memory");
    }
    template <int kTile>
    DISTILRT_INLINE void store(void* to, int64_t stride) {
      __asm__ volatile("tilestored %%tmm%c2, (%0,%1,4)" ::"r"(to), "r"(stride), "i"(kTile) : "memory");
    }
    // Tile kSums plus the product of tiles kA and kB, whose lanes hold 4 int8 (kA's unsigned) or 2 bfloat16.
    template <int kLane, int kSums, int kA, int kB>
    DISTILRT_INLINE void multiply() {
      if constexpr (kLane == 4)
        __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kA), "i"(kB));
      else
        __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kA), "i"(kB));
    }
    // The first n lanes, of which the others need not be memory.
    DISTILRT_INLINE IntVec load_part(const Lane* from, int64_t n) {
      const __m512i x = _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << n) - 1), from);
      return reinterpret_cast<const IntVec&>(x);
    }
  };
  template <class Dot>
  using Tile = AmxTile<Dot, Unit>;
};
