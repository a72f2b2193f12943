#include "dispatch.h"

#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace distilrt {

extern const Kernels generic_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx2_vnni_kernels;
extern const Kernels avx512_kernels;
extern const Kernels avx512_vnni_kernels;
extern const Kernels avx512_bf16_kernels;
#endif

#if defined(__x86_64__)
// __builtin_cpu_supports of g++ 12 does not know it. Leaf 7, subleaf 1, EAX bit 4.
static bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}
#endif

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> tables = [] {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    // These ask the operating system too: it must save the wide registers.
    const bool v4 = __builtin_cpu_supports("x86-64-v4"), v3 = __builtin_cpu_supports("x86-64-v3");
    const bool vnni = __builtin_cpu_supports("avx512vnni");
    if (v4 && vnni && __builtin_cpu_supports("avx512bf16")) found.push_back(&avx512_bf16_kernels);
    if (v4 && vnni) found.push_back(&avx512_vnni_kernels);
    if (v4) found.push_back(&avx512_kernels);
    if (v3 && has_avx_vnni()) found.push_back(&avx2_vnni_kernels);
    if (v3) found.push_back(&avx2_kernels);
#endif
    found.push_back(&generic_kernels);
    return found;
  }();
  return tables;
}

const Kernels& find_kernels(const std::string& isa) {
  std::string names;
  for (const Kernels* table : available_kernels()) {
    if (isa.empty() || isa == table->isa) return *table;
    names += names.empty() ? "" : ", ";
    names += table->isa;
  }
  throw std::invalid_argument("instruction set '" + isa + "' is not available here; this machine and build have " +
                              names);
}

const DtypeKernels& find_dtype(const Kernels& kernels, const std::string& dtype) {
  std::string names;
  for (int64_t i = 0; i < kernels.num_dtypes; ++i) {
    if (dtype == kernels.dtypes[i].dtype) return kernels.dtypes[i];
    names += names.empty() ? "" : ", ";
    names += kernels.dtypes[i].dtype;
  }
  throw std::invalid_argument("dtype '" + dtype + "' is not available with instruction set '" + kernels.isa +
                              "', which has " + names);
}

}  // namespace distilrt
