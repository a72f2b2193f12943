#include "cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace distilrt {

#if defined(__x86_64__)

CpuFeatures cpu_features() {
  // These ask the operating system too: it must save the wide registers.
  __builtin_cpu_init();
  CpuFeatures cpu;
  cpu.avx2 = __builtin_cpu_supports("x86-64-v3");
  cpu.avx512 = __builtin_cpu_supports("x86-64-v4");
  cpu.avx512_vnni = __builtin_cpu_supports("avx512vnni");
  cpu.avx512_bf16 = __builtin_cpu_supports("avx512bf16");
  // g++ 12 does not know the name of this one: leaf 7, subleaf 1, EAX bit 4.
  unsigned a = 0, b = 0, c = 0, d = 0;
  cpu.avx_vnni = __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
  return cpu;
}

#else

CpuFeatures cpu_features() { return {}; }

#endif

}  // namespace distilrt
