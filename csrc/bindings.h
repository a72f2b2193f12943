// What the bindings share: array types and checks. Only bind*.cpp include pybind11; they check shapes, release the GIL,
// and do nothing else.
#pragma once

#include <pybind11/critical_section.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "thread_pool.h"

namespace distilrt {

namespace py = pybind11;

// C-contiguous arrays of exactly this dtype: never a hidden copy.
using Floats = py::array_t<float, py::array::c_style>;
using Ints = py::array_t<int32_t, py::array::c_style>;
using Bytes = py::array_t<uint8_t, py::array::c_style>;

// An argument that is such an array.
inline py::arg array_arg(const char* name) { return py::arg(name).noconvert(); }

// These throw std::invalid_argument, which Python sees as ValueError.
inline void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}
Threads threads_of(int num_threads, const std::vector<int>& cpus);
Epilogue epilogue_named(const std::string& activation);

void bind_attention(py::module_& m);
void bind_batch(py::module_& m);
void bind_encoder(py::module_& m);
void bind_kernels(py::module_& m);
void bind_watch(py::module_& m);

}  // namespace distilrt
