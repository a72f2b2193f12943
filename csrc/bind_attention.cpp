// Attention over padded arrays, for models that compute everything else elsewhere.

#include "bindings.h"  // first, since it includes Python.h

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "batch_attention.h"
#include "dispatch.h"

namespace distilrt {
namespace {

std::string shape_of(const py::array& array) {
  std::string text;
  for (py::ssize_t i = 0; i < array.ndim(); ++i) text += (i > 0 ? ", " : "") + std::to_string(array.shape(i));
  return "[" + text + "]";
}

// `array` as one of attention's operands, which must have `shape`.
HeadsView heads_view(const std::string& name, const py::array& array, const py::dtype& dtype,
                     const std::vector<py::ssize_t>& shape, const std::string& words) {
  require(array.dtype().is(dtype), name + " must be " + std::string(py::str(dtype)) + " like query, found " +
                                       std::string(py::str(array.dtype())));
  require(array.ndim() == 4 && std::equal(shape.begin(), shape.end(), array.shape()),
          name + " must have " + words + ", found " + shape_of(array));
  const py::ssize_t size = array.itemsize();
  const bool whole = std::all_of(array.strides(), array.strides() + 4, [&](py::ssize_t s) { return s % size == 0; });
  const bool aligned = reinterpret_cast<uintptr_t>(array.data()) % static_cast<size_t>(size) == 0;
  require(array.size() == 0 || ((array.strides(3) == size || shape[3] == 1) && whole && aligned),
          name + " must be contiguous in its last dimension and aligned; make it so with np.ascontiguousarray");
  return {const_cast<char*>(static_cast<const char*>(array.data())), array.strides(0), array.strides(1),
          array.strides(2)};
}

void batch_attention(const py::array& query, const py::array& key, const py::array& value, py::array& out, float scale,
                     const std::optional<py::array_t<bool, py::array::c_style>>& key_mask, const std::string& isa,
                     int num_threads, const std::vector<int>& cpus) {
  const py::dtype dtype = query.dtype();
  const bool narrow = dtype.is(py::dtype::of<uint16_t>());
  require(narrow || dtype.is(py::dtype::of<float>()),
          "query must be float32, or bfloat16 as uint16, found " + std::string(py::str(dtype)));
  const DtypeKernels& kernels = find_dtype(find_kernels(isa), narrow ? "bfloat16" : "float32");
  require(query.ndim() == 4 && query.shape(3) >= 1,
          "query must have shape [batch_size, num_heads, queries, head_dim], found " + shape_of(query));
  require(key.ndim() == 4 && key.shape(2) >= 1,
          "key must have shape [batch_size, num_heads, keys, head_dim] with at "
          "least one key, found " +
              shape_of(key));
  // More would overflow the size of the scratch memory; an array that repeats one key can have them.
  require(key.shape(2) <= std::numeric_limits<int32_t>::max(),
          "key must have at most 2147483647 keys, found " + shape_of(key));
  const std::vector<py::ssize_t> asked(query.shape(), query.shape() + 4);
  const std::vector<py::ssize_t> kept{asked[0], asked[1], key.shape(2), asked[3]};
  const std::string like = "the shape [batch_size, num_heads, keys, head_dim] with query's sizes";
  require(std::isfinite(scale) && scale >= 0, "scale must be finite and at least 0");
  const Threads threads = threads_of(num_threads, cpus);
  const bool* mask = nullptr;
  if (key_mask) {
    require(key_mask->ndim() == 2 && key_mask->shape(0) == kept[0] && key_mask->shape(1) == kept[2],
            "key_mask must have shape [batch_size, keys], found " + shape_of(*key_mask));
    mask = key_mask->data();
    for (py::ssize_t s = 0; s < kept[0]; ++s)
      require(std::any_of(mask + s * kept[2], mask + (s + 1) * kept[2], [](bool open) { return open; }),
              "key_mask row " + std::to_string(s) + " is all False; every sequence needs at least one key");
  }
  require(out.writeable(), "out must be writeable");
  for (py::ssize_t axis = 0; axis < out.ndim(); ++axis)
    require(out.strides(axis) != 0 || out.shape(axis) <= 1 || out.size() == 0,
            "out must have memory of its own for every element");
  const BatchAttention batch{.query = heads_view("query", query, dtype, asked, ""),
                             .key = heads_view("key", key, dtype, kept, like),
                             .value = heads_view("value", value, dtype, kept, like),
                             .out = heads_view("out", out, dtype, asked, "query's shape"),
                             .batch_size = asked[0],
                             .num_heads = asked[1],
                             .queries = asked[2],
                             .keys = kept[2],
                             .head_dim = asked[3],
                             .scale = scale,
                             .key_mask = mask};
  py::gil_scoped_release nogil;
  attend(batch, kernels, threads);
}

}  // namespace

void bind_attention(py::module_& m) {
  m.def("attention", &batch_attention, py::arg("query"), py::arg("key"), py::arg("value"), py::kw_only(),
        py::arg("out"), py::arg("scale"), array_arg("key_mask") = py::none(), py::arg("isa") = "",
        py::arg("num_threads") = 1, py::arg("cpus") = std::vector<int>(),
        "softmax(scale * query key^T) value over the keys whose mask is True; see _C.pyi.");
}

}  // namespace distilrt
