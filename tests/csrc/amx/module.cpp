// The module `amx_stand_in`: single ops as `distilrt._C` has them, on the table of that name alone, and what its tiles
// do with a release too many.

#include "bind_kernels.cpp"

namespace distilrt {
namespace {

#include "stand_in.h"

void release_too_often() {
  const unsigned char shapes[64] = {1};
  amx_stand_in::Unit::release();
  amx_stand_in::Unit::configure(shapes);
}

}  // namespace

extern const Kernels amx_stand_in_kernels;

const Kernels& find_kernels(const std::string&) { return amx_stand_in_kernels; }

const DtypeKernels& find_dtype(const Kernels& kernels, const std::string& dtype) {
  for (const DtypeKernels* table : kernels.dtypes)
    if (dtype == table->dtype) return *table;
  throw std::invalid_argument("there is no dtype " + dtype);
}

}  // namespace distilrt

PYBIND11_MODULE(amx_stand_in, m) {
  distilrt::bind_kernels(m);
  m.def("release_too_often", distilrt::release_too_often);
}
