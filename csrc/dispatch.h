// Which instruction sets are compiled in and can run here.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace distilrt {

struct Candidate {
  const Kernels* table;
  std::vector<std::string> (*missing)();  // asks for the CPU features that it needs, and lists those that are not here
};

// All tables of this build, best first.
const std::vector<Candidate>& all_kernels();

// Those that this CPU can run, best first; the last is always "generic".
std::vector<std::string> available_isas();

// The table called `isa`, or the best one for an empty name. Throws std::invalid_argument for any other name.
const Kernels& find_kernels(const std::string& isa);

std::vector<std::string> dtypes_of(const Kernels& kernels);

// The table's kernels for `dtype`. Throws std::invalid_argument naming those that it has.
const DtypeKernels& find_dtype(const Kernels& kernels, const std::string& dtype);

}  // namespace distilrt
