#include "dispatch.h"

#include <stdexcept>

namespace distilrt {

extern const Kernels generic_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> tables = [] {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    // These ask the operating system too: it must save the wide registers.
    if (__builtin_cpu_supports("x86-64-v4")) found.push_back(&avx512_kernels);
    if (__builtin_cpu_supports("x86-64-v3")) found.push_back(&avx2_kernels);
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

}  // namespace distilrt
