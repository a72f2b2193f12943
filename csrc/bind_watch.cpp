// What an accelerated torch model asks at every call, in loops that in Python would take most of a short call.
// Answers are bytes, to be compared with those of another time. torch is not linked: its tensors are read through the C
// functions that their class offers for DLPack.

#include "bindings.h"

#include <cstdint>
#include <vector>

namespace distilrt {
namespace {

// The parts of dlpack.h, version 1, that are read here.
struct DLTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t dtype_code, dtype_bits;
  uint16_t dtype_lanes;
  int64_t* shape;
  int64_t* strides;  // in elements
  uint64_t byte_offset;
};

struct DLPackExchangeAPI {
  uint32_t major, minor;
  DLPackExchangeAPI* older;
  void* allocate;
  void* export_owned;
  void* import_owned;
  int (*read)(void* object, DLTensor* out);  // may be null; 0, or -1 with a Python exception set
  void* stream;
};

py::bytes bytes_of(const std::vector<int64_t>& numbers) {
  return {reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(int64_t)};
}

PyObject* dict_of(py::handle table) {
  if (!PyDict_Check(table.ptr())) throw py::type_error("tables must be dicts");
  return table.ptr();
}

py::bytes table_states(const py::tuple& sized, const py::tuple& held) {
  std::vector<int64_t> found;
  found.reserve(1024);
  for (const py::handle table : sized) found.push_back(PyDict_Size(dict_of(table)));
  for (const py::handle table : held) {
    const py::scoped_critical_section locked(table);
    PyObject *key, *value;
    for (Py_ssize_t place = 0; PyDict_Next(dict_of(table), &place, &key, &value);) {
      found.push_back(reinterpret_cast<int64_t>(key));
      found.push_back(reinterpret_cast<int64_t>(value));
    }
    found.push_back(0);
  }
  return bytes_of(found);
}

const DLPackExchangeAPI* api_of(const py::type& kind) {
  const py::object offered = kind.attr("__dlpack_c_exchange_api__");
  const auto* api = static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(offered.ptr(), "dlpack_exchange_api"));
  if (api == nullptr) throw py::error_already_set();
  while (api != nullptr && api->major > 1) api = api->older;
  if (api == nullptr || api->major != 1 || api->read == nullptr) throw py::buffer_error("kind can't read tensors");
  return api;
}

py::bytes tensor_states(const py::tuple& tensors, const py::type& kind) {
  const DLPackExchangeAPI* api = api_of(kind);
  const py::object version = kind.attr("_version");
  const descrgetfunc get = Py_TYPE(version.ptr())->tp_descr_get;
  if (get == nullptr) throw py::buffer_error("kind can't tell versions");
  std::vector<int64_t> found;
  found.reserve(8 * tensors.size());
  for (const py::handle tensor : tensors) {
    if (!PyObject_TypeCheck(tensor.ptr(), reinterpret_cast<PyTypeObject*>(kind.ptr())))
      throw py::type_error("tensors must be of this kind");
    const auto written = py::reinterpret_steal<py::object>(
        get(version.ptr(), tensor.ptr(), reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr()))));
    DLTensor seen{};
    if (!written || api->read(tensor.ptr(), &seen) != 0) throw py::error_already_set();
    const long long number = PyLong_AsLongLong(written.ptr());
    if (number == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    found.push_back(number);
    found.push_back(reinterpret_cast<int64_t>(seen.data) + static_cast<int64_t>(seen.byte_offset));
    found.push_back(seen.device_type << 24 | seen.dtype_code << 16 | seen.dtype_bits << 8 | seen.ndim);
    for (int32_t i = 0; i < seen.ndim; ++i) {
      found.push_back(seen.shape[i]);
      found.push_back(seen.strides[i]);
    }
  }
  return bytes_of(found);
}

}  // namespace

void bind_watch(py::module_& m) {
  m.def("table_states", &table_states, py::arg("sized"), py::arg("held"), "What dicts hold; see _C.pyi.");
  m.def("tensor_states", &tensor_states, py::arg("tensors"), py::arg("kind"), "How tensors are; see _C.pyi.");
}

}  // namespace distilrt
