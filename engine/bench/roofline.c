// Peaks of this machine, measured: register-only multiply-add loops and a streaming read, on several threads at once.
// Each function returns operations or bytes per second, or -1 where the CPU lacks the instructions. C for gcc and
// clang.
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static void read_all(const uint64_t* words, size_t count, volatile uint64_t* out) {
  typedef uint64_t Vector __attribute__((vector_size(64), may_alias));
  Vector sum[4] = {{0}};
  const Vector* vectors = (const Vector*)words;
  for (size_t i = 0; i + 4 <= count / 8; i += 4)
    for (int j = 0; j < 4; ++j) sum[j] += vectors[i + j];
  Vector all = sum[0] + sum[1] + sum[2] + sum[3];
  for (int j = 0; j < 8; ++j) *out += all[j];
}

// Work of all threads over the time from the first start to the last end, the best of `tries`: the loop, or without one
// a read of `words`.
static double best_rate(void (*loop)(void), const uint64_t* words, size_t count, double amount, int threads,
                        int tries) {
  double best = -1;
  size_t share = count / threads / 8 * 8;
  for (int attempt = 0; attempt < tries; ++attempt) {
    double began = 1e300, ended = 0;
#pragma omp parallel num_threads(threads) reduction(min : began) reduction(max : ended)
    {
      volatile uint64_t sum = 0;
#pragma omp barrier
      began = omp_get_wtime();
      if (loop)
        loop();
      else
        read_all(words + omp_get_thread_num() * share, share, &sum);
      ended = omp_get_wtime();
    }
    if (amount / (ended - began) > best) best = amount / (ended - began);
  }
  return best;
}

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { REPEATS = 1 << 21 };

// CHAINS independent accumulators go through STEP, more than latency times ports needs and no more than registers hold.
// The assembly hides that they are equal, and unused.
#define DEFINE_LOOP(NAME, TARGET, CHAINS, VECTOR, ZERO, STEP)                                       \
  __attribute__((target(TARGET), noinline)) static void NAME(void) {                                \
    VECTOR acc[CHAINS], a = ZERO(), b = ZERO();                                                     \
    __asm__ volatile("" : "+v"(a), "+v"(b));                                                        \
    _Pragma("GCC unroll 16") for (int j = 0; j < CHAINS; ++j) {                                     \
      acc[j] = ZERO();                                                                              \
      __asm__ volatile("" : "+v"(acc[j]));                                                          \
    }                                                                                               \
    for (int i = 0; i < REPEATS; ++i) {                                                             \
      _Pragma("GCC unroll 16") for (int j = 0; j < CHAINS; ++j) acc[j] = STEP;                      \
    }                                                                                               \
    _Pragma("GCC unroll 16") for (int j = 0; j < CHAINS; ++j) __asm__ volatile("" : : "v"(acc[j])); \
  }

DEFINE_LOOP(loop_fma256, "avx2,fma", 12, __m256, _mm256_setzero_ps, _mm256_fmadd_ps(a, b, acc[j]))
DEFINE_LOOP(loop_fma512, "avx512f", 16, __m512, _mm512_setzero_ps, _mm512_fmadd_ps(a, b, acc[j]))
DEFINE_LOOP(loop_dpbf16, "avx512f,avx512bf16", 16, __m512, _mm512_setzero_ps,
            _mm512_dpbf16_ps(acc[j], (__m512bh)a, (__m512bh)b))
DEFINE_LOOP(loop_dpbusd, "avx512f,avx512vnni", 16, __m512i, _mm512_setzero_si512, _mm512_dpbusd_epi32(acc[j], a, b))

// Eight products of bytes a lane, added four by four in 16 bits, as isas/avx2.h has them: exact for its weights. The
// assembly keeps the products, the same in every step, from being computed once.
__attribute__((target("avx2"))) static inline __m256i add_pairs(__m256i acc, __m256i a, __m256i b) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i x, y;
  __asm__ volatile("vpmaddubsw %3, %2, %0\n\tvpmaddubsw %3, %2, %1" : "=&v"(x), "=&v"(y) : "v"(a), "v"(b));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_add_epi16(x, y), ones));
}
DEFINE_LOOP(loop_pairs, "avx2", 8, __m256i, _mm256_setzero_si256, add_pairs(acc[j], a, b))
DEFINE_LOOP(loop_dpbusd256, "avx2,avxvnni", 12, __m256i, _mm256_setzero_si256, _mm256_dpbusd_avx_epi32(acc[j], a, b))

// AMX: four tiles of sums, each of 16 rows of 64 bytes. The assembly needs no compiler that knows tiles.
#define DEFINE_TILE_LOOP(NAME, STEP)                                                                                  \
  static void NAME(void) {                                                                                            \
    uint8_t shapes[64] = {1};                                                                                         \
    for (int tile = 0; tile < 6; ++tile) shapes[16 + 2 * tile] = 64, shapes[48 + tile] = 16;                          \
    __asm__ volatile("ldtilecfg %0" : : "m"(shapes));                                                                 \
    for (int i = 0; i < REPEATS / 8; ++i)                                                                             \
      __asm__ volatile(STEP " %tmm5, %tmm4, %tmm0\n" STEP " %tmm5, %tmm4, %tmm1\n" STEP " %tmm5, %tmm4, %tmm2\n" STEP \
                            " %tmm5, %tmm4, %tmm3");                                                                  \
    __asm__ volatile("tilerelease");                                                                                  \
  }
DEFINE_TILE_LOOP(loop_tile_bf16, "tdpbf16ps")
DEFINE_TILE_LOOP(loop_tile_int8, "tdpbusd")

// Whether the CPU has the feature of this bit (22: bfloat16, 25: int8), and the system lets this process use tiles.
static int has_tiles(int bit) {
  unsigned a, b, c, d;  // and then ARCH_REQ_XCOMP_PERM for XFEATURE_XTILEDATA
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && d >> bit & 1 && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}

static int has_avx_vnni(void) {
  unsigned a, b, c, d;
  return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1;
}

static double peak(void (*loop)(void), double operations, int threads, int tries) {
  return best_rate(loop, NULL, 0, operations * REPEATS * threads, threads, tries);
}
#endif

double peak_float32(int threads, int tries) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return peak(loop_fma512, 16 * 32, threads, tries);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return peak(loop_fma256, 12 * 16, threads, tries);
#endif
  return -1;
}

double peak_bfloat16(int threads, int tries) {
#if defined(__x86_64__)
  if (has_tiles(22)) return peak(loop_tile_bf16, 4 * 16 * 16 * 64 / 8, threads, tries);
  if (__builtin_cpu_supports("avx512bf16")) return peak(loop_dpbf16, 16 * 64, threads, tries);
#endif
  return -1;
}

double peak_int8(int threads, int tries) {
#if defined(__x86_64__)
  if (has_tiles(25)) return peak(loop_tile_int8, 4 * 16 * 16 * 128 / 8, threads, tries);
  if (__builtin_cpu_supports("avx512vnni")) return peak(loop_dpbusd, 16 * 128, threads, tries);
  if (has_avx_vnni()) return peak(loop_dpbusd256, 12 * 64, threads, tries);
  if (__builtin_cpu_supports("avx2")) return peak(loop_pairs, 8 * 128, threads, tries);
#endif
  return -1;
}

double read_bandwidth(int threads, int tries) {
  const size_t bytes = 256u << 20;
  uint64_t* words = aligned_alloc(2u << 20, bytes);
  if (!words) return -1;
#if defined(MADV_HUGEPAGE)
  // Engines ask for large pages too; a virtual machine reads small ones half as fast.
  madvise(words, bytes, MADV_HUGEPAGE);
#endif
  memset(words, 1, bytes);
  double rate = best_rate(NULL, words, bytes / 8, (double)bytes, threads, tries);
  free(words);
  return rate;
}
