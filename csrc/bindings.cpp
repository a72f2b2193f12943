#include "bindings.h"

#include "dispatch.h"
#include "schedule.h"

namespace distilrt {

Threads threads_of(int num_threads, const std::vector<int>& cpus) {
  require(num_threads >= 1 && num_threads <= Team::kMaxThreads,
          "num_threads must be 1 to " + std::to_string(Team::kMaxThreads));
  Threads threads{num_threads, {}};
  for (const int cpu : cpus) {
    require(cpu >= 0 && cpu < system::CpuMask::kMost,
            "cpus must be 0 to " + std::to_string(system::CpuMask::kMost - 1));
    threads.cpus.add(cpu);
  }
  return threads;
}

namespace {

// Rows of the runs that one thread computes each, rows that all compute together, and for each number of panels the
// blocks of rows of a product of those.
py::tuple schedule_of(const Ints& cu_seqlens, int num_threads, int64_t run_rows, const std::vector<int64_t>& panels) {
  require(cu_seqlens.size() > 0, "cu_seqlens needs an element");
  Schedule schedule;
  schedule.plan(cu_seqlens.data(), cu_seqlens.size() - 1, threads_of(num_threads, {}).count, run_rows);
  std::vector<int64_t> alone, parts;
  for (const Run& run : schedule.alone) alone.push_back(run.rows());
  const int64_t together = schedule.together.rows();
  for (int64_t count : panels) parts.push_back(row_blocks(together, count, num_threads, run_rows));
  return py::make_tuple(alone, together, parts);
}

py::dict missing_features() {
  py::dict found;
  for (const Candidate& each : all_kernels()) found[each.table->isa] = each.missing();
  return found;
}

}  // namespace
}  // namespace distilrt

// Python without a GIL may call anything here from several threads: every list and dict is locked while it is read, and
// what C++ shares has locks of its own.
PYBIND11_MODULE(_C, m, pybind11::mod_gil_not_used()) {
  using namespace distilrt;
  m.def("available_isas", &available_isas, "Instruction sets that this machine and build can run, best first.");
  m.def("missing_features", &missing_features,
        "The instruction sets of this build, best first, with the features that each needs and this CPU lacks.");
  m.def("schedule", &schedule_of, array_arg("cu_seqlens"), py::arg("num_threads"), py::arg("run_rows"),
        py::arg("panels"), "Which rows run where; see _C.pyi.");
  m.def(
      "dtypes", [](const std::string& isa) { return dtypes_of(find_kernels(isa)); }, py::arg("isa") = "",
      "Dtypes that an instruction set has; '': the best one's.");
  bind_attention(m);
  bind_batch(m);
  bind_encoder(m);
  bind_kernels(m);
  bind_watch(m);
}
