#include "bindings.h"

#include "dispatch.h"
#include "thread_pool.h"

namespace distilrt {

void require_threads(int threads) {
  require(threads >= 1 && threads <= Team::kMaxThreads,
          "num_threads must be 1 to " + std::to_string(Team::kMaxThreads));
}

namespace {

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const Kernels* table : available_kernels()) names.emplace_back(table->isa);
  return names;
}

py::dict missing_features() {
  py::dict found;
  for (const Candidate& each : all_kernels()) found[each.table->isa] = each.missing();
  return found;
}

std::vector<std::string> dtype_names(const std::string& isa) {
  const Kernels& kernels = find_kernels(isa);
  std::vector<std::string> names;
  for (const DtypeKernels* table : kernels.dtypes)
    if (table != nullptr) names.emplace_back(table->dtype);
  return names;
}

}  // namespace
}  // namespace distilrt

PYBIND11_MODULE(_C, m) {
  using namespace distilrt;
  m.def("available_isas", &isa_names, "Instruction sets that this machine and build can run, best first.");
  m.def("missing_features", &missing_features,
        "The instruction sets of this build, best first, with the features that each needs and this CPU lacks.");
  m.def("dtypes", &dtype_names, py::arg("isa") = "", "Dtypes that an instruction set has; '': the best one's.");
  bind_attention(m);
  bind_batch(m);
  bind_encoder(m);
  bind_kernels(m);
  bind_watch(m);
}
