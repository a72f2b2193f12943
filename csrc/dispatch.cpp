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

std::string joined(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  return all;
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

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Candidate& each : all_kernels())
    if (each.missing().empty()) names.emplace_back(each.table->isa);
  return names;
}

const Kernels& find_kernels(const std::string& isa) {
  for (const Candidate& each : all_kernels())
    if ((isa.empty() || isa == each.table->isa) && each.missing().empty()) return *each.table;
  throw std::invalid_argument("instruction set '" + isa + "' is not available here; this machine and build have " +
                              joined(available_isas()));
}

std::vector<std::string> dtypes_of(const Kernels& kernels) {
  std::vector<std::string> names;
  for (const DtypeKernels* table : kernels.dtypes)
    if (table != nullptr) names.emplace_back(table->dtype);
  return names;
}

const DtypeKernels& find_dtype(const Kernels& kernels, const std::string& dtype) {
  for (const DtypeKernels* table : kernels.dtypes)
    if (table != nullptr && dtype == table->dtype) return *table;
  throw std::invalid_argument("dtype '" + dtype + "' is not available with instruction set '" + kernels.isa +
                              "', which has " + joined(dtypes_of(kernels)));
}

}  // namespace distilrt
