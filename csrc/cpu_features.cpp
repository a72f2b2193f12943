#include "cpu_features.h"

#include "system.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace distilrt {

AmxPermission::operator bool() const {
  if (!has_tiles) return true;
  static const bool granted = system::may_use_tiles();
  return granted;
}

#if defined(__x86_64__)

namespace {

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf leaf(unsigned number, unsigned part = 0) {
  Leaf at;
  __get_cpuid_count(number, part, &at.eax, &at.ebx, &at.ecx, &at.edx);
  return at;
}

template <typename... Bits>
bool has(unsigned word, Bits... bits) {
  return ((word >> bits & 1) && ...);
}

// The registers that the operating system saves, by their bits in XCR0. The intrinsic needs a flag of the compiler.
unsigned saved_registers() {
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

}  // namespace

// Not __builtin_cpu_supports: it answers 0 for everything where the compiler's own runtime library is not linked.
CpuFeatures cpu_features() {
  const Leaf basic = leaf(1), wide = leaf(7), more = leaf(7, 1), extended = leaf(0x80000001);
  const unsigned saved = has(basic.ecx, 27) ? saved_registers() : 0;  // OSXSAVE
  CpuFeatures cpu;
  // SSE3, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AVX, F16C; BMI1, AVX2, BMI2; LAHF, LZCNT
  cpu.avx2 = has(saved, 1, 2) && has(basic.ecx, 0, 9, 12, 13, 19, 20, 22, 23, 28, 29) && has(wide.ebx, 3, 5, 8) &&
             has(extended.ecx, 0, 5);
  cpu.avx_vnni = cpu.avx2 && has(more.eax, 4);
  cpu.avx512 = cpu.avx2 && has(saved, 5, 6, 7) && has(wide.ebx, 16, 17, 28, 30, 31);  // F, DQ, CD, BW, VL
  cpu.avx512_vnni = cpu.avx512 && has(wide.ecx, 11);
  cpu.avx512_bf16 = cpu.avx512 && has(more.eax, 5);
  // Some hypervisors show tiles without a palette to configure them by.
  const bool tiles = has(saved, 17, 18) && has(wide.edx, 24) && leaf(0x1D).eax >= 1;
  cpu.amx_int8 = tiles && has(wide.edx, 25);
  cpu.amx_bf16 = tiles && has(wide.edx, 22);
  cpu.amx_permission = {tiles};
  return cpu;
}

#else

CpuFeatures cpu_features() {
  CpuFeatures cpu;
  cpu.dotprod = system::has(system::ArmFeature::kDotprod);
  cpu.i8mm = system::has(system::ArmFeature::kI8mm);
  cpu.bf16 = system::has(system::ArmFeature::kBf16);
  return cpu;
}

#endif

}  // namespace distilrt
