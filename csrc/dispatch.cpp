#include "dispatch.h"

#include <initializer_list>
#include <stdexcept>
#include <utility>

#include "cpu_features.h"

// Rows of isas.h for other architectures are nothing.
#define ANY(isa, needs, flags) ISA(isa, needs)
#if defined(__x86_64__)
#define X86_64(isa, needs, flags) ISA(isa, needs)
#else
#define X86_64(isa, needs, flags)
#endif
#if defined(__aarch64__)
#define AARCH64(isa, needs, flags) ISA(isa, needs)
#else
#define AARCH64(isa, needs, flags)
#endif

namespace distilrt {

#define ISA(isa, needs) extern const Kernels isa##_kernels;
#include "isas.h"
#undef ISA

namespace {

[[maybe_unused]] const CpuFeatures& cpu() {
  static const CpuFeatures found = cpu_features();
  return found;
}

std::vector<std::string> missing_of(std::initializer_list<std::pair<bool, const char*>> needs) {
  std::vector<std::string> missing;
  for (const auto& [here, feature] : needs)
    if (!here) missing.emplace_back(feature);
  return missing;
}

}  // namespace

const std::vector<Candidate>& all_kernels() {
#define NEEDS(feature) {cpu().feature, #feature},
#define ISA(isa, ...) {&isa##_kernels, [] { return missing_of({__VA_ARGS__}); }},
  static const std::vector<Candidate> tables{
#include "isas.h"
  };
#undef ISA
#undef NEEDS
  return tables;
}

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> tables = [] {
    std::vector<const Kernels*> found;
    for (const Candidate& each : all_kernels())
      if (each.missing().empty()) found.push_back(each.table);
    return found;
  }();
  return tables;
}

const Kernels& find_kernels(const std::string& isa) {
  for (const Candidate& each : all_kernels())
    if ((isa.empty() || isa == each.table->isa) && each.missing().empty()) return *each.table;
  std::string names;
  for (const Kernels* table : available_kernels()) {
    names += names.empty() ? "" : ", ";
    names += table->isa;
  }
  throw std::invalid_argument("instruction set '" + isa + "' is not available here; this machine and build have " +
                              names);
}

const DtypeKernels& find_dtype(const Kernels& kernels, const std::string& dtype) {
  std::string names;
  for (const DtypeKernels* table : kernels.dtypes) {
    if (table == nullptr) continue;
    if (dtype == table->dtype) return *table;
    names += names.empty() ? "" : ", ";
    names += table->dtype;
  }
  throw std::invalid_argument("dtype '" + dtype + "' is not available with instruction set '" + kernels.isa +
                              "', which has " + names);
}

}  // namespace distilrt
